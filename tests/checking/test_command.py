"""`everstep check` as people and machines call it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest

from everstep.checking import RULES

ROOT = Path(__file__).parents[2]
PROGRAM = """
import time
from everstep import App, Context

app = App("shop")
empty = App("empty")


def today() -> float:
    return time.time()


@app.workflow
async def order(ctx: Context, id: str) -> float:
    print(id)
    return today()  # everstep: ignore[EV104] it was a file once
"""


class Ran(NamedTuple):
    code: int
    out: str
    err: str


def everstep_check(directory: Path, *arguments: str) -> Ran:
    command = [sys.executable, "-m", "everstep.cli", "check", *arguments]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False, timeout=60)
    return Ran(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    (tmp_path / "shop.py").write_text(PROGRAM)
    return tmp_path


def test_findings_are_lines_that_editors_understand(shop: Path) -> None:
    ran = everstep_check(shop, "shop:app")
    assert ran.code == 1
    assert ran.out.splitlines() == [
        "shop.py:10:12 EV101 time.time() reads the clock (reached from workflow 'order' through today): use ctx.now()",
        "shop.py:15:5 EV108 print() writes again at every replay (reached from workflow 'order'): use ctx.log",
        "shop.py:16:21 EV900 `ignore[EV104]` excuses nothing here: remove it",
    ]
    assert "EV101 clock: see docs/determinism.md#ev101-clock\n" in ran.err
    assert ran.err.endswith("3 findings in 1 workflow, 2 functions\n")


def test_json(shop: Path) -> None:
    ran = everstep_check(shop, "shop:app", "--json")
    assert (ran.code, ran.err) == (1, "")
    report = msgspec.json.decode(ran.out)
    assert (report["workflows"], report["functions"], report["unread"]) == (1, 2, [])
    assert report["findings"][0] == {
        "path": "shop.py",
        "line": 10,
        "column": 12,
        "rule": "EV101",
        "name": "clock",
        "message": "time.time() reads the clock",
        "fix": "use ctx.now()",
        "workflow": "order",
        "through": ["today"],
        "note": False,
    }


@pytest.mark.parametrize(
    ("arguments", "rules", "code"),
    [
        (["--select", "EV108"], ["EV108"], 1),
        (["--select", "EV101,EV9"], ["EV101", "EV900"], 1),
        (["--select", "ev1"], ["EV101", "EV108"], 1),
        (["--select", "EV2", "--select", "EV9"], ["EV900"], 0),
        (["--ignore", "EV101"], ["EV108", "EV900"], 1),
        (["--ignore", "EV1"], ["EV900"], 0),
        (["--select", "EV1", "--ignore", "EV101,EV108"], [], 0),
    ],
)
def test_rules_can_be_chosen_and_a_note_alone_is_no_failure(
    shop: Path, arguments: list[str], rules: list[str], code: int
) -> None:
    ran = everstep_check(shop, "shop:app", *arguments)
    assert [line.split()[1] for line in ran.out.splitlines()] == rules
    assert ran.code == code


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["shop:app", "--select", "EV777"], "there is no rule EV777"),
        (["shop:nothing"], "'nothing' in module 'shop' does not exist"),
        (["nowhere:app"], "there is no module 'nowhere'"),
        (["shop"], "is not MODULE:app"),
        ([], "Missing argument"),
    ],
)
def test_what_cannot_be_checked_is_a_mistake_of_usage(shop: Path, arguments: list[str], message: str) -> None:
    ran = everstep_check(shop, *arguments)
    assert (ran.code, ran.out) == (2, "")
    assert message in ran.err
    assert len(ran.err.splitlines()) == 1


def test_nothing_found(shop: Path) -> None:
    assert everstep_check(shop, "shop:empty") == Ran(0, "", "0 findings in 0 workflows, 0 functions\n")


def test_what_has_no_source_is_told(tmp_path: Path) -> None:
    program = PROGRAM.replace("print(id)", "made()").replace("def today", "exec('def made(): ...')\n\n\ndef today")
    (tmp_path / "shop.py").write_text(program)
    assert "note: shop.made was not read: it has no source here\n" in everstep_check(tmp_path, "shop:app").err


@pytest.mark.parametrize("app", ["examples.order:app", "examples.orders.app:app", "benchmarks.everstep.app:app"])
def test_the_examples_of_this_repository_are_clean(app: str) -> None:
    ran = everstep_check(ROOT, app)
    assert (ran.code, ran.out) == (0, "")


def test_the_guides_are_clean(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "writing-workflows.md").read_text()
    code = [part.partition("\n```")[0] for part in text.split("```python\n")[1:]]
    (tmp_path / "guide.py").write_text("\n\n".join(code))
    assert everstep_check(tmp_path, "guide:company")[:2] == (0, "")


def test_every_rule_has_a_name_of_its_own() -> None:
    assert len({rule.name for rule in RULES.values()}) == len(RULES)
    assert list(RULES) == sorted(RULES)
