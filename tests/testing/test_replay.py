"""Every run is replayed after every event; what a replay would do differently fails the test, with both sides."""

from __future__ import annotations

import asyncio
import inspect
import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from everstep import App, Context, Retry, Signal, seconds
from everstep._core.run import LiveRun
from everstep.testing import ReplayDiffers, RunStalled, WorkflowEnvironment, _hooks

app = App("replay", retry=Retry(1))
go = Signal[str]("go")
counter: Iterator[int] = itertools.count()
switches: dict[str, bool] = {}


@app.activity
async def left(n: int) -> int:
    return n


@app.activity
async def right(n: int) -> int:
    return n


@app.workflow
async def flips(ctx: Context) -> None:
    await (left if next(counter) % 2 else right)(1)


@app.workflow
async def varies_arguments(ctx: Context) -> None:
    await left(next(counter))


@app.workflow
async def says_more(ctx: Context) -> None:
    await left(1)
    if next(counter):
        ctx.set_status("again")


@app.workflow
async def says_less(ctx: Context) -> None:
    await left(1)
    if not next(counter):
        ctx.set_status("once")


@app.workflow
async def hangs_elsewhere(ctx: Context) -> None:
    idle = [asyncio.create_task(asyncio.Event().wait()) for _ in range(next(counter))]
    await ctx.wait_for_signal(go)
    await asyncio.gather(*idle)


@app.workflow
async def looks_at_a_switch(ctx: Context) -> str:
    await (left if switches.get("new") else right)(1)
    await ctx.wait_for_signal(go)
    await left(2)
    return "done"


@app.workflow
async def asks_the_time(ctx: Context) -> None:
    await left(int(time.time()))


@app.workflow
async def hides_a_door(ctx: Context) -> None:
    try:
        open("settings.toml")  # noqa: ASYNC230, SIM115  # the mistake that is to be found
    except Exception:
        ctx.set_status("no settings")


@app.workflow
async def awaits_a_child(ctx: Context) -> None:
    await asks_the_time()


@app.workflow
async def chain(ctx: Context, n: int) -> int:
    for i in range(n):
        await left(i)
    return n


@pytest.fixture(autouse=True)
def fresh() -> None:
    global counter
    counter = itertools.count()
    switches.clear()


def line_of(workflow: Any, text: str) -> str:
    lines, first = inspect.getsourcelines(workflow.fn)
    return f"{__file__}:{first + next(i for i, line in enumerate(lines) if text in line)}"


async def result_of(workflow: Any) -> Any:
    async with WorkflowEnvironment(app) as env:
        run = await env.client.start(workflow, id="x")
        return await run.result()


async def test_another_command_is_shown_with_both_sides_and_the_line() -> None:
    with pytest.raises(ReplayDiffers) as raised:
        await result_of(flips)
    assert (raised.value.workflow_id, raised.value.run) == ("x", 1)
    assert raised.value.expected == "activity 'right' on queue 'default'"
    line = line_of(flips, "next(")
    assert str(raised.value) == (
        "run 1 of 'x' (flips) does something else when its history is replayed. At event 2 history holds activity "
        f"'right' on queue 'default'; the replay gives activity 'left' on queue 'default' (at {line} "
        "in flips). The workflow decides by something that a replay does not see again: a clock, chance, a global "
        "variable, the order of a set, code that was changed"
    )


async def test_other_arguments_are_shown_too() -> None:
    with pytest.raises(ReplayDiffers) as raised:
        await result_of(varies_arguments)
    assert raised.value.expected == "activity 'left' on queue 'default' with [0]"
    assert raised.value.got == (
        f"activity 'left' on queue 'default' with [1] (at {line_of(varies_arguments, 'next(')} in varies_arguments)"
    )


@pytest.mark.parametrize("workflow", [says_more, says_less])
async def test_what_is_said_more_or_less_is_found(workflow: Any) -> None:
    with pytest.raises(ReplayDiffers) as raised:
        await result_of(workflow)
    said = {"the run's completion", "status 'again'", "status 'once'"}
    assert raised.value.expected in said
    assert any(str(raised.value.got).startswith(one) for one in said - {raised.value.expected})


async def test_another_state_without_another_command_is_found() -> None:
    with pytest.raises(ReplayDiffers) as raised:
        await result_of(hangs_elsewhere)
    assert raised.value.expected == "tasks 1 (as the run stood after it)"
    assert raised.value.got == "tasks 2"


async def switched_late(ends: bool) -> None:
    """Runs that looked at a switch, which is turned afterwards."""
    async with WorkflowEnvironment(app) as env:
        run = await env.client.start(looks_at_a_switch, id="x")
        await env.client.start(chain, 40, id="long")
        await env.settle()
        switches["new"] = True
        if ends:
            await run.signal(go, "on")
            await run.result()


@pytest.mark.parametrize("ends", [True, False], ids=["when the run ends", "when the environment does"])
async def test_what_changes_later_is_found_when_all_is_replayed(ends: bool) -> None:
    with pytest.raises(ReplayDiffers, match="history holds activity 'right'"):
        await switched_late(ends)


async def test_a_run_that_differs_cannot_be_awaited_any_more() -> None:
    async with WorkflowEnvironment(app) as env:
        run = await env.client.start(flips, id="x")
        with pytest.raises(ReplayDiffers):
            await env.settle()
        with pytest.raises(ReplayDiffers):
            await run.result()
        with pytest.raises(ReplayDiffers):
            await run.query("anything")


async def test_without_replays_nothing_of_this_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_hooks, "collector", None)  # the other process would find it
    async with WorkflowEnvironment(app, replay_every_event=False) as env:
        await (await env.client.start(flips, id="x")).result()


@pytest.mark.parametrize(
    ("workflow", "door"), [(asks_the_time, r"time\.time"), (hides_a_door, r"open\('settings\.toml'\)")]
)
async def test_a_door_stalls_the_run_with_the_line_even_if_the_code_hides_it(workflow: Any, door: str) -> None:
    with pytest.raises(RunStalled, match=door) as raised:
        await result_of(workflow)
    assert "test_replay.py" in str(raised.value)
    assert raised.value.kind == "nondeterminism"


async def test_whoever_waits_for_a_run_that_waits_for_a_stalled_one_is_told() -> None:
    async with WorkflowEnvironment(app) as env:
        run = await env.client.start(awaits_a_child, id="x")
        with pytest.raises(RunStalled, match=r"run 1 of 'x/1/2' \(asks_the_time\) cannot go on"):
            await run.result()


async def test_outside_of_workflows_the_doors_are_open() -> None:
    async with WorkflowEnvironment(app) as env:
        env.replace(left, lambda n: int(time.time()) and n)
        assert await (await env.client.start(chain, 3, id="x")).result() == 3


@pytest.fixture
def repeats(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """How many activations were replayed so far."""
    count = itertools.count()
    repeat = LiveRun.repeat

    def counted(run: LiveRun, *args: Any) -> None:
        next(count)
        repeat(run, *args)

    monkeypatch.setattr(LiveRun, "repeat", counted)
    return lambda: next(count)


async def test_replaying_costs_about_the_same_for_each_event(repeats: Callable[[], int]) -> None:
    counts: list[int] = []
    for n in (100, 1000):
        before = repeats()
        async with WorkflowEnvironment(app) as env:
            env.replace(left, returns=1)
            await (await env.client.start(chain, n, id="x")).result()
        counts.append(repeats() - before)
    assert counts[0] >= 2 * 101  # one follows each event, and all is replayed at the end
    assert counts[1] < 12 * counts[0]
    assert counts[1] < 6 * 1000


async def test_timers_and_waits_replay(repeats: Callable[[], int]) -> None:
    other = App("waits")

    @other.workflow
    async def waits(ctx: Context) -> int:
        done = 0
        async for _ in ctx.signals(go):
            await ctx.sleep(seconds(1))
            done += 1
            if done == 5:
                break
        return done

    async with WorkflowEnvironment(other) as env:
        run = await env.client.start(waits, id="w")
        for n in range(5):
            await run.signal(go, f"{n}")
        assert await run.result() == 5
    assert repeats() >= 11
