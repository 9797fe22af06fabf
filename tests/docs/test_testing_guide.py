"""The guide to testing is a file of tests: it type-checks strictly and passes, and its first example is ten lines."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs" / "testing.md"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)")
SETTINGS = "[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\nfilterwarnings = error\n"


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "test_guide.py"
    path.write_text("\n\n".join(BLOCK.findall(GUIDE.read_text())))
    (tmp_path / "pytest.ini").write_text(SETTINGS)
    return path


def test_every_block_is_run(program: Path) -> None:
    expected = len(re.findall(r"^async def test_", program.read_text(), re.MULTILINE))
    path = os.pathsep.join([str(ROOT), *(entry for entry in sys.path if entry)])
    plugin = ["-p", "everstep.testing.pytest_plugin"]  # also where it is not installed
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:everstep", *plugin, str(program)],
        cwd=program.parent,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    assert f"{expected} passed" in done.stdout
    assert expected >= 12


def test_it_type_checks(program: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--config-file", "pyproject.toml", str(program)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout


def test_the_first_test_is_ten_lines(program: Path) -> None:
    first = program.read_text().partition("async def test_")[2].partition("\n\n")[0]
    assert len(first.strip().splitlines()) <= 10


def test_links_lead_somewhere() -> None:
    links = LINK.findall(BLOCK.sub("", GUIDE.read_text()))
    assert [link for link in links if not GUIDE.parent.joinpath(link).exists()] == []
