"""`MODULE:app` on a command line: found, or a message that says what is missing."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from everstep.app import LoadError, load

GOOD = "from everstep import App\napp = App('found')\nother = App('other')\nnumber = 3\n"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty current directory, from which modules can be imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith("shop_"):
            del sys.modules[name]


def test_an_app_is_found_in_the_current_directory(project: Path) -> None:
    (project / "shop_good.py").write_text(GOOD)
    assert repr(load("shop_good:app")) == "<app 'found'>"
    (project / "shop_package").mkdir()
    (project / "shop_package" / "flows.py").write_text(GOOD)
    assert repr(load("shop_package.flows:other")) == "<app 'other'>"


@pytest.mark.parametrize("target", ["", "shop", "shop:", ":app"])
def test_a_target_has_two_parts(project: Path, target: str) -> None:
    with pytest.raises(LoadError, match=r"is not MODULE:app, such as orders\.workflows:app"):
        load(target)


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        (GOOD, "shop_none:app", "there is no module 'shop_none' here, in "),
        (GOOD, "shop_m.deeper:app", "there is no module 'shop_m.deeper' here, in "),
        ("import shop_missing", "shop_m:app", "module 'shop_m' imports 'shop_missing', which is not installed here"),
        (GOOD, "shop_m:nothing", "'nothing' in module 'shop_m' does not exist; it has the apps 'app', 'other'"),
        (GOOD, "shop_m:number", "'number' in module 'shop_m' is a int, not an App; it has the apps"),
        ("", "shop_m:app", "'app' in module 'shop_m' does not exist; it has no app at all"),
        ("from everstep import App\napp = App('')", "shop_m:app", "module 'shop_m': app '': the name has 0 bytes"),
    ],
)
def test_what_is_missing_is_said(project: Path, source: str, target: str, message: str) -> None:
    (project / "shop_m.py").write_text(source)
    with pytest.raises(LoadError) as caught:
        load(target)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("x = 1\n1 / 0", r"ZeroDivisionError: division by zero \(.*shop_broken.py, line 2\); `python -c 'import "),
        ("x = 1\ndef f(:", r"SyntaxError: invalid syntax \(shop_broken.py, line 2\); `python -c 'import "),
        ("from json import dump, dunk", r"ImportError: cannot import name 'dunk' from 'json' .* line 1\)"),
    ],
)
def test_an_error_of_the_modules_own_code_is_told_with_its_place(project: Path, source: str, message: str) -> None:
    (project / "shop_broken.py").write_text(source)
    with pytest.raises(LoadError, match=f"module 'shop_broken' cannot be imported: {message}"):
        load("shop_broken:app")
