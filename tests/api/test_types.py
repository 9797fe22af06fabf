"""Programs that use the authors' API, under both type checkers: right ones pass, each wrong line is found.

The checkers read the real sources. `examples` is how programs look, `test_order.py` how their tests look, `accepted.py`
and `testing.py` say which types must be found, and `must_reject.py` marks the lines that must be refused: those and no
others.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
WRONG = "must_reject.py"
RIGHT = ("test_order.py", "accepted.py", "testing.py")
FILES = [*sorted(HERE.joinpath("examples").glob("*.py")), *(HERE / name for name in (*RIGHT, WRONG))]
Finding = tuple[str, int, str]
Checker = Callable[[Path], list[Finding]]


def mypy(cache: Path) -> list[Finding]:
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--explicit-package-bases"]
    command += ["--python-version=3.11", "--follow-imports=silent", f"--cache-dir={cache}", "--no-error-summary"]
    path = os.pathsep.join(str(ROOT / part) for part in ("", "src", "schemas"))
    done = subprocess.run(
        [*command, *map(str, FILES)],
        cwd=ROOT,
        env=os.environ | {"MYPYPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1, f"mypy did not run as it should: {done.stdout}{done.stderr}"
    found = re.findall(r"^(?:.*/)?(\w+\.py):(\d+): error: (.*)$", done.stdout, re.MULTILINE)
    return [(name, int(line), message) for name, line, message in found]


def pyright(_: Path) -> list[Finding]:
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable, "-p", str(HERE)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1, f"pyright did not run as it should: {done.stdout}{done.stderr}"
    found = json.loads(done.stdout)["generalDiagnostics"]
    return [(Path(one["file"]).name, one["range"]["start"]["line"] + 1, one["message"]) for one in found]


@pytest.mark.parametrize("check", [mypy, pyright], ids=["mypy", "pyright"])
def test_right_programs_pass_and_every_wrong_line_is_found(check: Checker, tmp_path: Path) -> None:

    findings = check(tmp_path)
    assert [one for one in findings if one[0] != WRONG] == []
    lines = (HERE / WRONG).read_text().splitlines()
    marked = {number for number, line in enumerate(lines, 1) if line.endswith("# R")}
    assert len(marked) > 50
    assert {line for name, line, _ in findings if name == WRONG} == marked
