"""More workflows of `golden`: of runs among others, that answer, that wait for long, that do many things."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from tests.engine.kit import NOW, SECOND, Case

from everstep import (
    App,
    Backoff,
    ChildError,
    CompensationError,
    Context,
    EverstepError,
    Failures,
    MapError,
    Retry,
    Signal,
    Update,
    days,
    seconds,
)
from everstep._core.timers import instant
from everstep_schemas.errors import ErrorInfo

app = App("golden runs")
go = Signal[int]("go")
add = Update[int, int]("add")
STEADY = Backoff(seconds(10), factor=1.0)
GONE = ErrorInfo(type="RunNotFound", message="no run has the id 'other'", retryable=False)


@app.activity
async def step(n: int) -> int:
    raise AssertionError("workers run activities")


@app.activity(
    timeout=seconds(100),
    heartbeat_timeout=seconds(30),
    queue_timeout=seconds(60),
    total_timeout=seconds(1_000),
    retry=Retry(3, STEADY),
)
async def long_step(n: int) -> int:
    raise AssertionError("workers run activities")


# ---- among other runs


@app.workflow
async def family(ctx: Context) -> list[str]:
    said: list[str] = []
    left = ctx.child("left", on_parent_close="abandon")
    for child in (ctx.child("good", 1), ctx.child("bad", 2, id="bad-1")):
        try:
            said.append(f"{await child}")
        except ChildError as error:
            said.append(f"{error}")
    try:
        async with asyncio.timeout(60):
            await ctx.child("slow")
    except TimeoutError:
        said.append("late")
    for request in (left.signal(go, 5), ctx.external("other").cancel("enough")):
        try:
            await request
        except EverstepError as error:
            said.append(f"{error}")
    ctx.external("other").signal("bye").cancel()
    ctx.child("killed")
    return said


def family_of_runs() -> Case:
    case = Case(app, family)
    case.child_failed(4, "cancelled", reason="why not", child_run=2)
    case.child_completed(3, 7)
    case.wake()
    requests = list(case.run._program.scope.children.requests)
    case.answered(requests[1], GONE)
    case.answered(requests[0])
    return case


@app.workflow(timeout=days(2))
async def relay(ctx: Context, n: int) -> int:
    ctx.attributes["n"] = n
    ctx.attributes["tags"] = ["a", f"{n}"]
    del ctx.attributes["n"]
    ctx.on_signal(go, lambda n: ctx.continue_as_new(relay, n))
    ctx.callback(int)
    step(n)
    await ctx.wait_for_signal("never")
    return n


def relayed() -> Case:
    case = Case(app, relay, 1)
    case.signal("other", 5)
    case.signal("go", 2)
    return case


def relayed_on() -> Case:
    case = relayed().next_run()
    case.cancel("enough")
    return case


@app.workflow(retry=Retry(max_attempts=2, backoff=STEADY))
async def tried_again(ctx: Context) -> None:
    await step(ctx.info.attempt)
    raise ValueError("not yet")


def failed_and_tried_again() -> Case:
    case = Case(app, tried_again)
    case.complete(2, 1)
    return case


def failed_at_last() -> Case:
    case = failed_and_tried_again().next_run()
    case.wake()
    case.complete(3, 1)
    return case


# ---- answering


@app.workflow
async def answering(ctx: Context) -> list[int]:
    got: list[int] = []

    @ctx.on_update(add)
    async def _(n: int) -> int:
        if n < 0:
            raise ValueError(n)
        got.append(await step(n))
        return len(got)

    ctx.on_unreadable_signal(lambda signal: got.append(-1))
    ctx.on_signal(go, got.append)
    await ctx.wait_until(lambda: len(got) >= 3)
    with_time = ctx.wait_until(lambda: len(got) >= 9, timeout=seconds(5))
    try:
        await with_time
    except TimeoutError:
        got.append(0)
    ctx.wait_until(lambda: False).cancel()
    return got


def answered() -> Case:
    case = Case(app, answering)
    case.update("add", 5)
    case.signal("go", "five")
    case.update("add", -1)
    case.complete(case.pending()[0], 50)
    case.signal("go", 7)
    case.update("add", 6)
    case.wake()
    return case


@app.workflow
async def called_back(ctx: Context) -> list[str]:
    callbacks = [ctx.callback(int, timeout=days(1), heartbeat_timeout=seconds(60)) for _ in range(5)]
    said: list[str] = []
    callbacks[4].cancel()
    for one in callbacks[:4]:
        try:
            said.append(f"{await one}")
        except EverstepError as error:
            said.append(f"{error}")
    return said


def callbacks() -> Case:
    case = Case(app, called_back)
    case.called_back(3, 5)
    case.callback_failed(4, "no idea", type="Undecided")
    case.now = NOW + 50 * SECOND
    case.beat(5)
    case.wake()
    while case.run.closed is None:
        case.now += 50 * SECOND
        case.wake() if case.now > NOW + 86_400 * SECOND else case.beat(5)
    return case


# ---- what takes long


@app.workflow
async def lending(ctx: Context) -> list[str]:
    said: list[str] = []
    for call in [long_step(n) for n in range(4)]:
        try:
            said.append(f"{await call}")
        except EverstepError as error:
            said.append(f"{error}")
    return said


def lent() -> Case:
    case = Case(app, lending)
    case.checkout(2)
    case.renew(2, details={"frame": 1})
    case.checkout(3, lease_seconds=1.0)
    case.wake()
    case.checkout(3, lease_seconds=1.0)
    case.wake()
    case.checkout(3)
    case.complete(2, 7)
    case.checkout(4)
    case.send(case.failure(4, ErrorInfo(type="Boom", message="no"), details="half"))
    while case.run.closed is None:
        case.wake()
    return case


@app.workflow
async def late(ctx: Context) -> None:
    async def handler(n: int) -> int:
        await ctx.sleep(days(n))
        return n

    ctx.on_update(add, handler)
    ctx.child("x")
    await step(1)


def begun_late_and_timed_out() -> Case:
    case = Case(app, late, begin={"start_at": instant(NOW + 60 * SECOND), "timeout_seconds": 60.0})
    case.signal("go", 1)
    case.wake()
    case.update("add", 1)
    case.wake()
    return case


# ---- deciding, and doing many things


@app.workflow
async def deciding(ctx: Context) -> list[Any]:
    said: list[Any] = [ctx.patched("a"), ctx.patched("a"), ctx.side_effect(lambda: {"n": 1})]
    try:
        ctx.side_effect(lambda: 1 // 0)
    except EverstepError as error:
        said.append(f"{error}")
    ctx.milestone("half way")
    ctx.retire_patch("b")
    await step(1)
    return said


def decided() -> Case:
    case = Case(app, deciding)
    case.complete_all(1)
    return case


@app.workflow
async def many(ctx: Context) -> list[Any]:
    said: list[Any] = [await ctx.map(step, range(4), concurrency=2)]
    tolerant = await ctx.map(step, range(5), concurrency=3, tolerate=Failures(ratio=0.4))
    said.append([tolerant.values, [one.index for one in tolerant.failed]])
    said.append((await ctx.map(step, range(4), enough=1)).values)
    try:
        await ctx.map(step, range(3), enough=3)
    except MapError as error:
        said.append(f"{error}")
    said.append([one.index async for one in ctx.map(step, range(3))])
    said.append(await ctx.first(step(10), ctx.sleep(seconds(5))))
    said.append(await ctx.poll(lambda: step(11), until=lambda n: n > 19, every=Backoff(seconds(1))))

    async def block() -> int:
        return await step(12) + await step(13)

    said.append(await ctx.retry(block, Retry(3, Backoff(seconds(1)))))
    return said


def many_things() -> Case:
    """The newest is answered first; some answers are failures: of an item, of one too many, of a block."""
    case, failures = Case(app, many), (6, 13, 22)
    answers = 0
    while case.run.closed is None:
        if not case.pending():
            case.wake()
            continue
        answers += 1
        seq = case.pending()[-1]
        case.fail(seq, "Boom", retryable=False) if answers in failures else case.complete(seq, answers)
    return case


@app.workflow
async def undoing(ctx: Context, fails: bool) -> str:
    try:
        async with ctx.saga() as saga:
            saga.on_failure(step, 0)
            await saga.step(step(1), undo=step)
            await saga.step(step(2), undo=step)
            if fails:
                raise ValueError("enough")
            await ctx.sleep(days(1))
    except CompensationError as error:
        return f"{error}"
    return "?"


def undone_with_failures() -> Case:
    case = Case(app, undoing, True)
    case.complete(2, 10)
    case.complete(4, 20)
    case.fail(case.pending()[0], "Boom", retryable=False)
    case.complete_all(0)
    return case


def undone_by_cancellation() -> Case:
    case = Case(app, undoing, False)
    case.complete(2, 10)
    case.complete(4, 20)
    case.cancel("enough")
    case.complete_all(0)
    return case


SCRIPTS: dict[str, Callable[[], Case]] = {
    "family_of_runs": family_of_runs,
    "relayed": relayed,
    "relayed_on": relayed_on,
    "failed_and_tried_again": failed_and_tried_again,
    "failed_at_last": failed_at_last,
    "answered": answered,
    "callbacks": callbacks,
    "lent": lent,
    "begun_late_and_timed_out": begun_late_and_timed_out,
    "decided": decided,
    "many_things": many_things,
    "undone_with_failures": undone_with_failures,
    "undone_by_cancellation": undone_by_cancellation,
}
