"""The pytest plugin, as whoever installs Everstep has it: nothing but an entry point."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

WORKFLOWS = """
from everstep import App, Context, Signal

app = App("shop")
NAMES = {f"warehouse-{n}" for n in range(30)}

@app.activity
async def count(name: str) -> int:
    return len(name)

@app.workflow
async def by_hash(ctx: Context) -> None:
    for name in NAMES:
        await count(name)

@app.workflow
async def in_order(ctx: Context) -> None:
    for name in sorted(NAMES):
        await count(name)
"""
GOOD = """
from workflows import app, in_order

async def test_good(workflow_environment):
    async with workflow_environment(app) as env:
        await (await env.client.start(in_order, id="x")).result()
"""
BAD = """
import pytest
from everstep.testing import WorkflowEnvironment
from workflows import app, by_hash

@pytest.mark.parametrize("n", [1, 2])
async def test_bad(n):
    async with WorkflowEnvironment(app) as env:
        await (await env.client.start(by_hash, id="x")).result()
"""
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project of somebody who has Everstep installed."""
    (tmp_path / "workflows.py").write_text(WORKFLOWS)
    (tmp_path / "pytest.ini").write_text(
        "[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\npythonpath = .\n"
    )
    return tmp_path


@pytest.fixture
def run(tmp_path_factory: pytest.TempPathFactory, project: Path) -> Run:
    """pytest in the project; the entry point is the one that pyproject.toml declares."""
    site = tmp_path_factory.mktemp("site")
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["pytest11"]
    information = site / "everstep_entry-0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: everstep-entry\nVersion: 0\n")
    lines = [f"{name} = {target}" for name, target in declared.items()]
    (information / "entry_points.txt").write_text("\n".join(["[pytest11]", *lines, ""]))
    path = os.pathsep.join([str(site), *(entry for entry in sys.path if entry)])
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", "COLUMNS": "250"}
    environment.pop("EVERSTEP_UPDATE_HISTORIES", None)

    def pytest_(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
        return subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True)

    return pytest_


def test_the_fixture_makes_environments(run: Run, project: Path) -> None:
    (project / "test_good.py").write_text(GOOD)
    done = run("-v")
    assert done.returncode == 0, done.stdout
    assert re.search(r"everstep: 1 histories replayed in another process, PYTHONHASHSEED=\d+\n", done.stdout)


def test_a_difference_elsewhere_fails_the_test_that_left_the_history(run: Run, project: Path) -> None:
    (project / "test_good.py").write_text(GOOD)
    (project / "test_bad.py").write_text(BAD)
    done = run("--junitxml=report.xml")
    assert done.returncode == 1, done.stdout
    for test in ("test_bad.py::test_bad[1]", "test_bad.py::test_bad[2]"):
        assert f"FAILED {test} - run 1 of 'x' (by_hash) does something else when its" in done.stdout
    assert re.search(r"replayed in another process\. At event \d+ history holds activity 'count'", done.stdout)
    assert re.search(r"Again: PYTHONHASHSEED=\d+", done.stdout)
    assert "2 failed, 3 passed" in done.stdout
    assert (project / "report.xml").read_text().count("replayed in another process") >= 2


def test_it_can_be_switched_off(run: Run, project: Path) -> None:
    (project / "test_bad.py").write_text(BAD)
    done = run("-v", "-o", "everstep_replay_elsewhere=false")
    assert done.returncode == 0, done.stdout
    assert "another process" not in done.stdout


def test_each_worker_of_xdist_replays_and_the_controller_tells(run: Run, project: Path) -> None:
    (project / "test_good.py").write_text(GOOD)
    (project / "test_bad.py").write_text(BAD)
    done = run("-n", "2")
    assert done.returncode == 1, done.stdout
    for test in ("test_bad.py::test_bad[1]", "test_bad.py::test_bad[2]"):
        assert f"FAILED {test} - run 1 of 'x' (by_hash) does something else when its" in done.stdout


def test_a_failed_test_stays_failed(run: Run, project: Path) -> None:
    (project / "test_good.py").write_text(GOOD + "    assert False\n")
    done = run()
    assert done.returncode == 1
    assert "1 failed" in done.stdout


def test_a_process_that_cannot_replay_fails_the_session(run: Run, project: Path) -> None:
    (project / "test_good.py").write_text(GOOD + "\n    import sys\n    sys.executable = 'nowhere'\n")
    done = run()
    assert done.returncode == 1
    assert "the histories of this session were not replayed elsewhere" in done.stdout


GOLDEN = """
from everstep.testing import WorkflowEnvironment, assert_history
from workflows import app, in_order

async def test_golden():
    async with WorkflowEnvironment(app) as env:
        run = await env.client.start(in_order, id="x")
        await run.result()
        assert_history(run, "histories/x.jsonl")
"""


def test_an_option_writes_histories_anew(run: Run, project: Path) -> None:
    (project / "test_golden.py").write_text(GOLDEN)
    assert run().returncode == 0
    path = project / "histories" / "x.jsonl"
    written = path.read_text()
    path.write_text(written.replace("warehouse-0", "warehouse-x"))
    assert run("--everstep-update-histories").returncode == 0
    assert path.read_text() == written


def test_an_environment_that_stays_open_fails_its_test(run: Run, project: Path) -> None:
    (project / "test_open.py").write_text("""
from workflows import app

async def test_open(workflow_environment):
    env = workflow_environment(app)
    await env.__aenter__()
""")
    done = run()
    assert done.returncode == 1
    assert "the test left its environment open" in done.stdout


def test_sessions_that_make_no_environment_pay_nothing(run: Run, project: Path) -> None:
    """Also without pytest-asyncio, and in a project that has nothing to do with Everstep."""
    (project / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    (project / "test_plain.py").write_text("""
import sys

def test_plain():
    loaded = {name for name in sys.modules if name.startswith("everstep.testing")}
    assert loaded <= {"everstep.testing", "everstep.testing._hooks", "everstep.testing.pytest_plugin"}
    assert not {"aiokafka", "asyncpg", "httpx", "structlog", "everstep._doors"} & set(sys.modules)
""")
    done = run("-p", "no:asyncio", "-p", "no:xdist", "-v")
    assert done.returncode == 0, done.stdout
    assert "everstep:" not in done.stdout


def test_the_kit_needs_no_client_of_kafka_postgres_or_http() -> None:
    code = """
import sys
import everstep.testing
for name in everstep.testing.__all__:
    getattr(everstep.testing, name)
import everstep.testing._environment
print(*{"aiokafka", "asyncpg", "httpx", "structlog", "litestar", "pytest"} & set(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
