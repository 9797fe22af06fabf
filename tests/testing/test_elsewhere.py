"""Histories are replayed in another process, under another hash seed and in other memory."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import pytest
from tests.testing import traps

from everstep import App, Context
from everstep.testing import NotReplayed, Recorded, WorkflowEnvironment, _hooks, replay_elsewhere

Recordings = list[Recorded]


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Recordings:
    """What environments hand over when they close; the session's own collector does not see it."""
    taken: Recordings = []
    monkeypatch.setattr(_hooks, "collector", taken.append)
    return taken


async def leave(workflow: Any, app: App = traps.app, *, replay: bool = True, **options: Any) -> None:
    async with WorkflowEnvironment(app, replay_every_event=replay) as env:
        await (await env.client.start(workflow, id="x", **options)).result()


async def test_the_order_of_a_set_of_strings_is_found(recorded: Recordings) -> None:
    await leave(traps.by_hash)
    done = replay_elsewhere(recorded)
    [difference] = done.differences
    assert (difference.workflow_id, difference.run, difference.workflow) == ("x", 1, "by_hash")
    assert "test_the_order_of_a_set_of_strings_is_found" in difference.name
    assert difference.message.startswith(
        "run 1 of 'x' (by_hash) does something else when its history is replayed in another process. At event "
    )
    assert str(difference.expected).startswith("activity 'count' on queue 'default' with [\"warehouse-")
    assert str(difference.got).startswith("activity 'count' on queue 'default' with [\"warehouse-")
    assert "traps.py:" in str(difference.got)


async def test_the_order_of_a_set_of_objects_is_found(recorded: Recordings) -> None:
    for _ in range(5):
        await leave(traps.by_address, replay=False)
    assert replay_elsewhere(recorded, seed=1).differences


async def test_what_has_an_order_replays_everywhere(recorded: Recordings) -> None:
    await leave(traps.in_order)
    await leave("versioned", version=1)
    await leave("versioned")
    done = replay_elsewhere(recorded, seed=7)
    assert (done.seed, done.replayed, done.differences, done.skipped) == (7, 3, [], {})


async def test_a_workflow_within_a_function_is_counted_and_left_out(recorded: Recordings) -> None:
    app = App("local")

    @app.workflow
    async def local(ctx: Context) -> None: ...

    await leave(local, app)
    done = replay_elsewhere(recorded)
    assert (done.replayed, done.differences) == (0, [])
    assert done.skipped == {"defined within a function": 1}


def from_file(path: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


FILE = """
from everstep import App, Context

app = App("file")
SWITCH = {switch!r}

@app.activity
async def work() -> None: ...

@app.workflow
async def works(ctx: Context) -> None:
    if SWITCH:
        await work()
"""


async def test_a_module_that_has_no_importable_name_is_imported_from_its_file(
    recorded: Recordings, tmp_path: Path
) -> None:
    path = tmp_path / "test_orders.py"
    path.write_text(FILE.format(switch=True))
    module = from_file(path, "test_orders_of_no_package")
    await leave(module.works, module.app)
    assert replay_elsewhere(recorded).replayed == 1
    path.write_text(FILE.format(switch=False))
    [difference] = replay_elsewhere(recorded).differences
    assert (difference.expected, difference.got) == ("activity 'work' on queue 'default'", "the run's completion")
    path.write_text("import there_is_no_such_module")
    assert "there_is_no_such_module" in next(iter(replay_elsewhere(recorded).skipped))
    path.write_text("app = 3")
    assert "has no such workflow" in next(iter(replay_elsewhere(recorded).skipped))
    path.unlink()
    assert "cannot be imported in another process" in next(iter(replay_elsewhere(recorded).skipped))


async def test_the_code_can_be_that_of_an_app(recorded: Recordings) -> None:
    await leave(traps.in_order)
    [one] = recorded
    homeless = msgspec.structs.replace(one, place=None)
    assert replay_elsewhere([homeless]).replayed == 0
    assert replay_elsewhere([homeless], app="tests.testing.traps:app").replayed == 1
    [difference] = replay_elsewhere([homeless], app="tests.api.examples.order:app").differences
    assert "no code for workflow 'in_order'" in difference.message


async def test_a_process_that_fails_is_an_error(recorded: Recordings, monkeypatch: pytest.MonkeyPatch) -> None:
    await leave(traps.in_order)
    with pytest.raises(NotReplayed, match="took more than 0"):
        replay_elsewhere(recorded, timeout_seconds=0.001)
    with pytest.raises(NotReplayed, match=r"(?s)ended with code 1: .*LoadError"):
        replay_elsewhere(recorded, app="tests.there_is_none:app")


async def test_a_run_that_is_broken_is_not_handed_over(recorded: Recordings) -> None:
    async with WorkflowEnvironment(traps.app) as env:
        with pytest.raises(Exception, match="cannot go on"):
            await env.client.start("unheard", id="x")
    assert recorded == []
