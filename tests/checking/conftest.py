"""Programs as their authors write them: modules in a directory of their own."""

from __future__ import annotations

import importlib
import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent

import pytest

from everstep import App
from everstep.checking import Report, check
from everstep.checking.rules import PRELUDE

_numbers = itertools.count(1)
Checked = Callable[..., Report]


@pytest.fixture
def checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Checked]:
    """Checks a program; further modules of it are given by name."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = set(sys.modules)

    def run(code: str, prelude: str = PRELUDE, **modules: str) -> Report:
        name = f"program{next(_numbers)}"
        for module, text in {name: f"{prelude}\n\n{dedent(code)}", **modules}.items():
            (tmp_path / f"{module}.py").write_text(dedent(text))
        importlib.invalidate_caches()
        app = importlib.import_module(name).app
        assert isinstance(app, App)
        return check(app)

    yield run
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) and str(tmp_path) in str(sys.modules[name].__file__):
            del sys.modules[name]
