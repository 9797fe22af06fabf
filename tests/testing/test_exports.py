"""What a test may import: complete, sorted, documented, and found where it is said to be."""

from __future__ import annotations

import inspect

from everstep import testing


def test_every_name_is_there_once_in_order_and_says_what_it_is() -> None:
    assert testing.__all__ == sorted(set(testing.__all__))
    assert set(testing.__all__) == set(testing._HOMES)
    undocumented = [name for name in testing.__all__ if not inspect.getdoc(getattr(testing, name))]
    assert undocumented == []


def test_what_is_not_there_is_said_so() -> None:
    assert not hasattr(testing, "WorkflowEnvironments")
