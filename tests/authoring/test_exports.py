"""`everstep.__all__` is what authors may lean on: complete, sorted, and nothing else without an underscore."""

from __future__ import annotations

import inspect
import types

import everstep
from everstep import errors


def test_every_exported_name_is_there_once_and_in_order() -> None:
    assert everstep.__all__ == sorted(set(everstep.__all__))
    for name in everstep.__all__:
        assert getattr(everstep, name) is not None


def test_everything_public_is_exported() -> None:
    public = {
        name
        for name, value in vars(everstep).items()
        if not name.startswith("_") and (not isinstance(value, types.ModuleType) or name == "activity")
    }
    assert public - {"Any", "TYPE_CHECKING"} <= set(everstep.__all__)


def test_every_error_is_exported() -> None:
    tree = {
        name
        for name, value in vars(errors).items()
        if inspect.isclass(value) and issubclass(value, BaseException) and value.__module__ == errors.__name__
    }
    assert tree <= set(everstep.__all__)


def test_everything_exported_says_what_it_is() -> None:
    undocumented = [name for name in everstep.__all__ if not inspect.getdoc(getattr(everstep, name))]
    assert undocumented == []
