"""Applying an input costs the same whatever the run has behind it and beside it: counted in calls, not in seconds."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest
from tests.engine.kit import Case, begin

from everstep import App, Context, Signal, Update, days

app = App("cost")


@app.activity
async def work(n: int) -> int:
    raise AssertionError("workers run activities")


@app.workflow
async def chain(ctx: Context, n: int) -> int:
    total = 0
    for step in range(n):
        total += await work(step)
    return total


@app.workflow
async def fan_out(ctx: Context, count: int) -> int:
    return sum(await asyncio.gather(*(work(n) for n in range(count))))


@app.workflow
async def group(ctx: Context, count: int) -> int:
    async with asyncio.TaskGroup() as tasks:
        handles = [tasks.create_task(work(n)) for n in range(count)]
    return sum(handle.result() for handle in handles)


@app.workflow
async def impatient(ctx: Context) -> None:
    while True:
        await asyncio.wait_for(work(1), 86_400)


def calls(do: Callable[[], object]) -> int:
    """How many functions, of Python and of C, `do` calls."""
    count = 0

    def profile(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    collecting = gc.isenabled()
    gc.disable()  # a finaliser of something else would be counted
    sys.setprofile(profile)
    try:
        do()
    finally:
        sys.setprofile(None)
        if collecting:
            gc.enable()
    return count


def test_a_long_history_makes_no_input_dearer() -> None:
    case = Case(app, chain, 20_000, check=False)
    counts = []
    for step in range(10_000):
        message = case.completion(2 + 2 * step, 1)
        if step in (10, 100, 9_999):
            counts.append(calls(lambda message=message: case.send(message)))  # type: ignore[misc]  # bound at once
        else:
            case.send(message)
    assert max(counts) - min(counts) <= 5
    # Loose enough for another Python, tight enough to see a walk over anything.
    assert max(counts) < 400


@pytest.mark.parametrize("workflow", [fan_out, group])
def test_many_pending_activities_make_no_answer_dearer(workflow: Any) -> None:
    def cost(count: int) -> int:
        case = Case(app, workflow, count, check=False)
        case.complete(2 + count // 3, 1)
        message = case.completion(2 + count // 2, 1)
        return calls(lambda: case.send(message))

    assert abs(cost(10_000) - cost(10)) <= 5


Pending = Callable[[Context, int], object]


def children(ctx: Context, count: int) -> object:
    return [ctx.child("child", on_parent_close="abandon") for _ in range(count)]


def callbacks(ctx: Context, count: int) -> object:
    return [ctx.callback(int, timeout=days(n + 1)) for n in range(count)]


def waits(ctx: Context, count: int) -> object:
    return [ctx.wait_for_signal(f"s{n}", timeout=days(n + 1)) for n in range(count)]


def timers(ctx: Context, count: int) -> object:
    return [ctx.sleep(days(n + 1)) for n in range(count)]


def mapped(ctx: Context, count: int) -> object:
    return ctx.map(work, range(count))


def watched(ctx: Context, count: int) -> object:
    patient = work.options(total_timeout=days(2), queue_timeout=days(1))
    return [patient(n) for n in range(count)]


@pytest.mark.parametrize("many", [children, callbacks, waits, timers, mapped, watched])
def test_many_of_anything_make_no_input_dearer(many: Pending) -> None:
    """Each input is of another kind, and none concerns what is pending beside it."""

    async def busy(ctx: Context, count: int) -> None:
        got: list[int] = []

        async def double(n: int) -> int:
            return 2 * n

        ctx.on_signal(Signal[int]("go"), got.append)
        ctx.on_update(Update[int, int]("double"), double)
        kept = ctx.callback(int), work(1), ctx.external("other").cancel()
        pending = many(ctx, count)
        await ctx.wait_for_signal("end")
        ctx.set_status(f"{type(kept)} {type(pending)}")

    def costs(count: int) -> list[int]:
        case = begin(busy, count, check=False)
        inputs: list[Callable[[], object]] = [
            lambda: case.signal("go", 1),
            lambda: case.update("double", 2),
            lambda: case.called_back(2, 5),
            lambda: case.complete(3, 1),
            lambda: case.answered(4),
        ]
        for one in inputs[:2]:
            one()
        return [calls(one) for one in inputs]

    assert all(abs(large - small) <= 5 for large, small in zip(costs(5_000), costs(10), strict=True))


@pytest.mark.parametrize("kind", ["signals", "updates", "callbacks", "side effects"])
def test_what_is_over_makes_no_input_dearer(kind: str) -> None:
    async def living(ctx: Context) -> None:
        count = 0

        async def double(n: int) -> int:
            return 2 * n

        ctx.on_update(Update[int, int]("double"), double)
        async for n in ctx.signals(Signal[int]("go")):
            count += n
            if kind == "callbacks":
                ctx.callback(int).cancel()
            if kind == "side effects":
                ctx.side_effect(lambda: 1)

    case = begin(living, check=False)

    def feed() -> object:
        return case.update("double", 1) if kind == "updates" else case.signal("go", 1)

    counts = [calls(feed) for _ in range(3_200)]
    # Every now and then the tasks that are done are swept out.
    assert abs(sum(counts[-1_600:]) - sum(counts[:1_600])) <= 5 * 16


def test_a_fan_out_of_a_hundred_thousand_works() -> None:
    count = 100_000
    case = Case(app, fan_out, count, check=False)
    assert len(case.rows) >= 100
    for seq in range(2, 2 + count):
        case.complete(seq, 1)
    assert case.result == count


def test_a_replay_costs_as_much_per_event_as_living_it() -> None:
    def cost(n: int) -> float:
        case = Case(app, chain, n, check=False)
        for step in range(n):
            case.complete(2 + 2 * step, 1)
        return calls(case.replayed) / n

    assert cost(2_000) < 1.1 * cost(200)


def test_timers_that_are_cancelled_leave_nothing_behind() -> None:
    case = Case(app, impatient, check=False)
    for step in range(2_000):
        case.complete(2 + 4 * step, 1)
    program = case.run._program
    assert len(program.wakeups._heap) < 100
    assert len(program.loop._tasks) < 100
    assert len(program.loop._generators) == 0


def test_what_a_run_waits_for_counts_as_memory() -> None:
    one, many = (Case(app, fan_out, count, check=False) for count in (1, 1_000))
    assert many.run.size_bytes - one.run.size_bytes > 999 * 2_000
    for seq in range(2, 1_001):
        many.complete(seq, 1)
    assert many.run.size_bytes < 200_000
