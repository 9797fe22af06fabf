"""Going on as a new run from wherever the code is: in tasks, groups, races, handlers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import pytest
from msgspec import Raw
from tests.engine.kit import begin, state

from everstep import App, Context, Failures, Retry, Signal, Update, days
from everstep_schemas import events

app = App("going on")
go = Signal[int]("go")
change = Update[int, int]("change")


@app.activity
async def work(n: int) -> int:
    raise AssertionError("workers run activities")


@app.workflow
async def counter(ctx: Context, n: int) -> int:
    return await work(n)


Where = Callable[[Context, Callable[[], Any]], Any]


async def in_a_saga(ctx: Context, leave: Callable[[], Any]) -> None:
    async with ctx.saga() as saga:
        await saga.step(work(1), undo=lambda n: work(-n))
        leave()


async def in_a_group(ctx: Context, leave: Callable[[], Any]) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(work(5))
        await work(1)
        leave()


async def in_a_task_of_a_group(ctx: Context, leave: Callable[[], Any]) -> None:
    async def leaving() -> None:
        await work(1)
        leave()

    async with asyncio.TaskGroup() as group:
        group.create_task(leaving())
        group.create_task(work(5))


async def in_a_nested_task(ctx: Context, leave: Callable[[], Any]) -> None:
    async def leaving() -> None:
        await work(1)
        leave()

    await asyncio.create_task(leaving())


async def in_a_task_that_nobody_awaits(ctx: Context, leave: Callable[[], Any]) -> None:
    async def leaving() -> None:
        await work(1)
        leave()

    asyncio.get_running_loop().create_task(leaving())
    await ctx.wait_for_signal("never")


async def in_gather(ctx: Context, leave: Callable[[], Any]) -> None:
    async def leaving() -> None:
        await work(1)
        leave()

    await asyncio.gather(leaving(), ctx.sleep(days(1)))


async def in_a_map(ctx: Context, leave: Callable[[], Any]) -> None:
    async def leaving(n: int) -> None:
        await work(n)
        leave()

    await ctx.map(leaving, [1, 2], tolerate=Failures(2))


async def in_a_map_of_calls(ctx: Context, leave: Callable[[], Any]) -> None:
    def leaving(n: int) -> Any:
        return work(n) if n == 1 else leave()

    await ctx.map(leaving, [1, 2], concurrency=1, tolerate=Failures(2))


async def in_a_retry(ctx: Context, leave: Callable[[], Any]) -> None:
    async def leaving() -> None:
        await work(1)
        leave()

    await ctx.retry(leaving, Retry())


async def in_a_race(ctx: Context, leave: Callable[[], Any]) -> None:
    async def leaving() -> None:
        await work(1)
        leave()

    await ctx.first(leaving(), ctx.sleep(days(1)))


async def under_a_timeout(ctx: Context, leave: Callable[[], Any]) -> None:
    async def leaving() -> None:
        await work(1)
        leave()

    async with asyncio.timeout(60):
        await asyncio.wait_for(leaving(), 50)


async def in_a_generator(ctx: Context, leave: Callable[[], Any]) -> None:
    async def numbers() -> Any:
        yield await work(1)
        leave()

    async for _ in numbers():
        pass


async def in_a_handler(ctx: Context, leave: Callable[[], Any]) -> None:
    def leaving(n: int) -> None:
        leave()

    await work(1)
    ctx.on_signal(go, leaving)
    await ctx.external(ctx.info.workflow_id).signal(go, 1)
    await ctx.sleep(days(1))


async def in_a_predicate(ctx: Context, leave: Callable[[], Any]) -> None:
    handle = work(1)
    await ctx.wait_until(lambda: handle.done() and leave())


PLACES: list[Where] = [
    in_a_saga,
    in_a_group,
    in_a_task_of_a_group,
    in_a_nested_task,
    in_a_task_that_nobody_awaits,
    in_gather,
    in_a_map,
    in_a_map_of_calls,
    in_a_retry,
    in_a_race,
    under_a_timeout,
    in_a_generator,
    in_a_handler,
    in_a_predicate,
]


@pytest.mark.parametrize("where", PLACES)
def test_the_code_can_go_on_as_new_from_anywhere(where: Where) -> None:
    async def going(ctx: Context) -> None:
        await where(ctx, lambda: ctx.continue_as_new(counter, 5))

    case = begin(going)
    pending = state(case.run)["activities"]
    case.complete(next(seq for seq, one in pending.items() if one[4] == b"[1]"), 1)
    if where is in_a_handler:
        case.signal("go", 1)
    assert case.run.closed == "continued"
    assert case.history[-1] == events.Continued(workflow="counter", args=Raw(b"[5]"))
    assert not any(isinstance(event, events.ActivityScheduled) and event.args == Raw(b"[-1]") for event in case.last), (
        "nothing has failed, so nothing is undone"
    )


def test_from_an_update_whose_caller_is_told_that_the_run_has_ended() -> None:
    async def going(ctx: Context) -> None:
        async def leaving(n: int) -> int:
            ctx.continue_as_new(counter, n)

        ctx.on_update(change, leaving)
        await ctx.sleep(days(1))

    case = begin(going)
    case.update("change", 9)
    assert case.kinds == ["TimerCancelled", "UpdateFailed", "Continued"]
    assert case.last[1].error == events.RUN_ENDED  # type: ignore[union-attr]  # it is the failed update
    assert case.history[-1] == events.Continued(workflow="counter", args=Raw(b"[9]"))


def test_the_function_may_clean_up_when_a_task_beside_it_goes_on() -> None:
    async def going(ctx: Context) -> None:
        def leaving(n: int) -> None:
            ctx.continue_as_new(counter, n)

        ctx.on_signal(go, leaving)
        try:
            await ctx.sleep(days(1))
        finally:
            await work(-1)

    case = begin(going)
    case.signal("go", 3)
    assert case.kinds == ["TimerCancelled", "ActivityScheduled"]
    assert case.signal("go", 4) is not None
    assert case.cancel() is not None, "while it cleans up it is interrupted no more"
    assert case.kinds == []
    case.complete_all(0)
    assert case.history[-1] == events.Continued(workflow="counter", args=Raw(b"[3]"))


def test_code_that_catches_everything_keeps_the_run() -> None:
    async def stubborn(ctx: Context) -> str:
        with contextlib.suppress(BaseException):
            ctx.continue_as_new(counter, 5)
        return "stayed"

    assert begin(stubborn).result == "stayed"
