"""The workers that stand in this repository do what every worker must do, and the suite says so when one does not."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
from tests.cli.conftest import Everstep
from tests.conformance.conftest import NODE_WORKER, ROOT
from tests.conformance.flow import QUEUE

from everstep.conformance import CHECKS, run
from everstep.settings import Settings


@pytest.mark.integration
@pytest.mark.process
@pytest.mark.timeout(300)
async def test_every_rule_holds(worker: list[str], kafka_bootstrap: str) -> None:
    outcomes = await run(worker, Settings(kafka_bootstrap=kafka_bootstrap), queue=QUEUE)
    assert len(outcomes) == len(CHECKS)
    assert [outcome for outcome in outcomes if outcome.status != "ok"] == []


@pytest.fixture
def everstep(kafka_bootstrap: str) -> Everstep:
    everstep = Everstep()
    everstep.set({"EVERSTEP_KAFKA_BOOTSTRAP": kafka_bootstrap})
    return everstep


@pytest.mark.integration
@pytest.mark.process
class TestCommand:
    async def test_tells_which_rule_is_broken_and_how(self, everstep: Everstep) -> None:
        worker = (sys.executable, "-m", "everstep_worker", "tests.conformance.broken_app:app", "--queue", "default")
        ran = await everstep("conformance", "--rule", "9", "--json", "--", *worker)
        told = {line["check"]: line for line in ran.json_lines}
        assert ran.code == 1
        assert {line["rule"] for line in told.values()} == {9}
        wrong = told["Arguments reach the activity by position and by name."]
        assert (wrong["status"], wrong["expected"]) == ("failed", "[1, 2] three times")
        assert wrong["seen"] == "[[2, 1], [2, 1], [2, 1]]"
        assert told["Fields of a command that the worker does not know are ignored."]["status"] == "ok"
        assert "broken: 9" in ran.err

    async def test_shows_what_a_worker_wrote_that_does_not_start(self, everstep: Everstep) -> None:
        ran = await everstep("conformance", "--rule", "9", sys.executable, "-c", "raise SystemExit('no licence')")
        assert ran.code == 1
        assert "not run  rule  9" in ran.out
        assert "no licence" in ran.out

    async def test_names_a_program_that_is_not_there(self, everstep: Everstep) -> None:
        ran = await everstep("conformance", "--rule", "9", "no-such-worker")
        assert ran.code == 2
        assert "the worker's command 'no-such-worker' cannot be run" in ran.err


async def test_a_rule_that_nothing_checks_is_refused() -> None:
    ran = await Everstep()("conformance", "--rule", "99", "worker")
    assert (ran.code, ran.err.count("nothing checks rule 99")) == (2, 1)


def test_each_check_names_a_rule_of_the_documentation() -> None:
    page = (ROOT / "docs" / "worker.md").read_text()
    _, _, rules = page.partition("## What every worker does")
    documented = {int(number) for number in re.findall(r"^(\d+)\. ", rules, re.MULTILINE)}
    assert {check.rule for check in CHECKS} <= documented
    assert all(check.title.endswith(".") and "\n" not in check.title for check in CHECKS)


def test_the_node_worker_installs_from_any_registry() -> None:
    """The lock file pins what is installed by its hash, and names no host to get it from."""
    packages = json.loads((NODE_WORKER / "package-lock.json").read_text())["packages"]
    installed = [package for path, package in packages.items() if path]
    assert installed
    assert all("resolved" not in package and package["integrity"].startswith("sha512-") for package in installed)


def test_the_table_of_activities_is_complete() -> None:
    """What the documentation asks for is what both workers offer."""
    table = (ROOT / "docs" / "other-languages.md").read_text()
    documented = set(re.findall(r"^\| `(\w+)\(", table, re.MULTILINE))
    python = set(re.findall(r"^async def (\w+)\(", (Path(__file__).parent / "python_app.py").read_text(), re.MULTILINE))
    node = (NODE_WORKER / "conformance.js").read_text()
    assert documented == python
    assert all(re.search(rf"^  (async )?{name}[:(]", node, re.MULTILINE) for name in documented)
