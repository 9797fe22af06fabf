"""Only the listed bytes get on the class path."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from everstep.stack import StackError, _jars

SMALL = "slf4j-simple"


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch) -> _jars.Jar:
    """A list of one small jar, so that a test fetches little."""
    jar = next(jar for jar in _jars.pinned() if jar.name == SMALL)
    monkeypatch.setattr(_jars, "pinned", lambda: [jar])
    return jar


def test_a_download_that_was_cut_short_is_repeated(listed: _jars.Jar, tmp_path: Path) -> None:
    [path] = _jars.fetch(tmp_path)
    whole = path.read_bytes()
    assert hashlib.sha256(whole).hexdigest() == listed.sha256
    path.write_bytes(whole[: len(whole) // 2])
    assert _jars.fetch(tmp_path) == [path]
    assert path.read_bytes() == whole


def test_a_jar_with_other_bytes_is_refused_and_removed(
    listed: _jars.Jar, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_jars, "pinned", lambda: [replace(listed, sha256="0" * 64)])
    with pytest.raises(StackError, match=f"{SMALL} .* it was not used"):
        _jars.fetch(tmp_path)
    assert not list(tmp_path.rglob("*.jar"))


def test_a_repository_that_cannot_be_reached_is_named(
    listed: _jars.Jar, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert listed
    monkeypatch.setattr(_jars, "_mirrors", lambda: {"mirror": "http://127.0.0.1:9"})
    with pytest.raises(StackError, match=r"could not download slf4j-simple.*needs a network"):
        _jars.fetch(tmp_path)
