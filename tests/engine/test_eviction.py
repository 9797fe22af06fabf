"""Eviction closes the author's code without letting it do anything, in this run or any other."""

from __future__ import annotations

import asyncio
import contextvars
import gc
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from msgspec import Raw
from tests.engine.kit import Case

from everstep import App, Context, Retry, RunEvicted, Signal, Update, days
from everstep._core.loop import DeadLoop
from everstep_schemas import events

app = App("eviction")
log: list[str] = []


@pytest.fixture(autouse=True)
def _fresh_log() -> Iterator[None]:
    log.clear()
    yield
    assert gc.isenabled()
    assert asyncio._get_running_loop() is None


@app.activity
async def work(n: int) -> int:
    raise AssertionError("workers run activities")


@app.activity
async def refund(n: int) -> None:
    raise AssertionError("workers run activities")


async def tidy(name: str, inner: Any) -> None:
    try:
        await inner
    except BaseException as error:
        log.append(f"{name}: {type(error).__name__}")
        raise
    finally:
        try:
            await refund(1)
        except BaseException as error:
            log.append(f"{name} cannot: {type(error).__name__}")


@app.workflow
async def nested(ctx: Context) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(tidy("first", work(1)))
        group.create_task(tidy("second", asyncio.sleep(60)))
        await tidy("main", asyncio.gather(work(2), work(3)))


def test_all_tasks_are_closed_newest_first_and_can_command_nothing() -> None:
    case = Case(app, nested, check=False)
    before = case.run.next_seq
    case.run.evict()
    assert log == [
        "second: RunEvicted",
        "second cannot: RunEvicted",
        "first: RunEvicted",
        "first cannot: RunEvicted",
        "main: RunEvicted",
        "main cannot: RunEvicted",
    ]
    assert case.run.next_seq == before
    case.run.evict()
    assert len(log) == 6, "closing again does nothing"


@app.workflow
async def tries_everything(ctx: Context) -> None:
    loop = asyncio.get_running_loop()
    event, handle = asyncio.Event(), work(1)
    future: asyncio.Future[None] = loop.create_future()
    future.add_done_callback(lambda _: None)
    waiter = asyncio.ensure_future(event.wait())
    await asyncio.sleep(0)
    stream = ctx.signals("x", type=int)
    child, external, callback = ctx.child("x"), ctx.external("x"), ctx.callback(int)
    condition, mapping = ctx.wait_until(lambda: False), ctx.map(work, [1, 2])
    attributes = ctx.attributes
    try:
        await handle
    finally:
        uses: dict[str, Any] = {
            "info": lambda: ctx.info,
            "now": lambda: ctx.now(),
            "uuid4": lambda: ctx.uuid4(),
            "random": lambda: ctx.random,
            "log": lambda: ctx.log,
            "sleep": lambda: ctx.sleep_until(datetime.now(UTC)),
            "signal": lambda: ctx.wait_for_signal("x"),
            "stream": lambda: stream.receive(),
            "pending": lambda: stream.pending(),
            "status": lambda: ctx.set_status("evicted"),
            "by name": lambda: ctx.activity("x"),
            "activity": lambda: refund(1),
            "create_task": lambda: asyncio.get_running_loop().create_task(event.wait()),
            "create_future": lambda: loop.create_future(),
            "call_soon": lambda: loop.call_soon(print),
            "call_later": lambda: loop.call_later(1, print),
            "time": lambda: loop.time(),
            "future": lambda: future.set_result(None),
            "cancel": lambda: waiter.cancel(),
            "handle": lambda: handle.cancel(),
            "gather": lambda: asyncio.gather(event.wait()),
            "child": lambda: ctx.child("x"),
            "external": lambda: ctx.external("x"),
            "kept child": lambda: child.signal("s"),
            "kept external": lambda: external.cancel(),
            "cancel child": lambda: child.cancel(),
            "callback": lambda: ctx.callback(int),
            "cancel callback": lambda: callback.cancel(),
            "wait_until": lambda: ctx.wait_until(lambda: True),
            "cancel condition": lambda: condition.cancel(),
            "map": lambda: ctx.map(work, [1]),
            "cancel map": lambda: mapping.cancel(),
            "first": lambda: ctx.first(handle),
            "poll": lambda: ctx.poll(lambda: work(1), until=bool),
            "retry": lambda: ctx.retry(lambda: work(1), Retry()),
            "saga": lambda: ctx.saga(),
            "attributes": lambda: ctx.attributes.update(a=1),
            "kept attributes": lambda: attributes.update(a=1),
            "milestone": lambda: ctx.milestone("x"),
            "patched": lambda: ctx.patched("x"),
            "side_effect": lambda: ctx.side_effect(lambda: 1),
            "expose": lambda: ctx.expose(x=1),
            "on_query": lambda: ctx.on_query("x", lambda: 1),
            "on_update": lambda: ctx.on_update("x", lambda n: work(1)),
            "on_signal": lambda: ctx.on_signal(Signal[int]("x"), print),
            "continue_as_new": lambda: ctx.continue_as_new(open_generators),
        }
        for name, use in uses.items():
            try:
                use()
                log.append(f"{name} worked")
            except RunEvicted:
                pass
            except BaseException as error:
                log.append(f"{name}: {error!r}")


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
def test_every_use_of_ctx_activities_and_asyncio_raises() -> None:
    case = Case(app, tries_everything, check=False)
    before = case.run.next_seq
    case.run.evict()
    assert log == []
    assert case.run.next_seq == before
    assert type(case.run._program.loop) is DeadLoop


@app.workflow
async def awaits_what_it_has(ctx: Context) -> None:
    one, two = work(1), work(2)
    try:
        await one
    finally:
        try:
            await two
        except RunEvicted:
            log.append("evicted again")
        while True:
            try:
                await two
            except BaseException as error:
                log.append(type(error).__name__)
                if len(log) > 3:
                    break


def test_awaiting_a_handle_that_exists_raises_again_and_again() -> None:
    Case(app, awaits_what_it_has, check=False).run.evict()
    assert log == ["evicted again", "RunEvicted", "RunEvicted", "RunEvicted"]


@app.workflow
async def never_gives_up(ctx: Context) -> None:
    handle = work(1)
    while True:
        try:
            await handle
        except RunEvicted:
            log.append("no")


def test_code_that_refuses_to_end_is_left_after_a_while() -> None:
    case = Case(app, never_gives_up, check=False)
    case.run.evict()
    assert len(log) == 100


async def numbers() -> AsyncIterator[int]:
    try:
        for n in range(10):
            yield n
            await asyncio.sleep(0)
    finally:
        log.append("generator closing")
        try:
            await refund(7)
            log.append("refunded")
        except BaseException as error:
            log.append(f"generator: {type(error).__name__}")


def plain() -> Iterator[int]:
    try:
        yield 1
        yield 2
    finally:
        log.append("plain generator closed")


@app.workflow
async def open_generators(ctx: Context) -> None:
    held, lines = numbers(), plain()
    await held.__anext__()
    next(lines)
    async for _ in numbers():
        await work(1)


def test_open_generators_are_closed_and_can_command_nothing() -> None:
    case = Case(app, open_generators, check=False)
    case.run.evict()
    assert sorted(log) == [
        "generator closing",
        "generator closing",
        "generator: RunEvicted",
        "generator: RunEvicted",
        "plain generator closed",
    ]


@app.workflow
async def drops_a_generator(ctx: Context) -> str:
    dropped = numbers()
    await dropped.__anext__()
    del dropped
    await work(1)
    return "done"


def test_a_generator_dropped_in_a_step_is_closed_by_its_own_run() -> None:
    case = Case(app, drops_a_generator)
    assert log[0] == "generator closing"
    scheduled = [e.name for e in case.history if isinstance(e, events.ActivityScheduled)]
    assert scheduled == ["work", "refund"], "its finally is part of the run, in each replay"
    for seq in case.pending("refund"):
        case.complete(seq)
    assert "refunded" in log
    case.complete(2, 1)
    assert case.result == "done"


class Ring:
    """Keeps something alive until the cyclic collector finds it."""

    def __init__(self, kept: Any) -> None:
        self.kept = kept
        self.myself = self


@app.workflow
async def leaves_garbage(ctx: Context) -> str:
    generator = numbers()
    await generator.__anext__()
    Ring(generator)
    del generator

    async def forgotten() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            log.append("forgotten task closed")
            refund(8)

    Ring(asyncio.create_task(forgotten()))
    await work(1)
    await work(2)
    return "done"


@app.workflow
async def collects(ctx: Context) -> None:
    gc.collect()
    await work(1)
    gc.collect()


@pytest.fixture
def unobserved() -> Iterator[None]:
    """Nothing is called when garbage is collected: test tools look at clocks then, here in the middle of a step."""
    callbacks = gc.callbacks[:]
    gc.callbacks.clear()
    yield
    gc.callbacks[:] = callbacks


@pytest.mark.usefixtures("unobserved")
def test_collecting_one_runs_garbage_in_another_runs_step_records_nothing() -> None:
    victim = Case(app, leaves_garbage, check=False)
    other = Case(app, collects, check=False)
    other.complete(2, 1)
    gc.collect()
    assert [type(e).__name__ for e in other.history] == [
        "Started",
        "ActivityScheduled",
        "ActivityCompleted",
        "Completed",
    ]
    victim.complete(2, 1)
    assert [e.name for e in victim.history if isinstance(e, events.ActivityScheduled)] == ["work", "work"]
    assert log == [], "an open generator and a forgotten task wait for the eviction"
    victim.run.evict()
    assert "forgotten task closed" in log
    assert "generator: RunEvicted" in log
    assert "refunded" not in log


def test_the_collector_is_off_during_a_step_and_as_it_was_after() -> None:
    @app.workflow
    async def looks(ctx: Context) -> list[bool]:
        return [gc.isenabled()]

    assert Case(app, looks).result == [False]
    gc.disable()
    try:
        Case(app, looks)
        assert not gc.isenabled()
    finally:
        gc.enable()


flavour = contextvars.ContextVar("flavour", default="none")


@app.workflow
async def flavoured(ctx: Context) -> list[str]:
    before = flavour.get()
    token = flavour.set("main")

    async def child() -> str:
        inherited = flavour.get()
        reset = flavour.set("child")
        try:
            await work(1)
        finally:
            flavour.reset(reset)
            log.append(f"reset to {flavour.get()}")
        return inherited

    task = asyncio.create_task(child())
    await work(2)
    inherited = await task
    flavour.reset(token)
    return [before, inherited, flavour.get()]


def test_context_variables_belong_to_the_run() -> None:
    flavour.set("outside")
    case = Case(app, flavoured)
    case.complete_all(1)
    assert case.result == ["none", "main", "none"]
    assert flavour.get() == "outside"


def test_context_variables_can_be_reset_while_closing() -> None:
    case = Case(app, flavoured, check=False)
    case.run.evict()
    assert log == ["reset to main"]


def test_a_context_is_of_no_use_to_another_run() -> None:
    contexts: list[Context] = []

    @app.workflow
    async def leaks(ctx: Context) -> None:
        contexts.append(ctx)
        await work(1)

    @app.workflow
    async def borrows(ctx: Context) -> str:
        try:
            contexts[0].set_status("mine")
        except Exception as error:
            return type(error).__name__
        return "?"

    case = Case(app, leaks, check=False)
    assert Case(app, borrows).result == "NondeterminismError"
    with pytest.raises(Exception, match="outside of the run"):
        contexts[0].now()
    assert case.run.custom_status is None


async def test_a_step_within_a_task_is_refused() -> None:
    with pytest.raises(Exception, match="plain callback"):
        Case(app, nested)


async def test_a_step_from_a_callback_leaves_the_outer_loop_as_it_was() -> None:
    outer = asyncio.get_running_loop()
    finished: asyncio.Future[Any] = outer.create_future()

    def step() -> None:
        case = Case(app, nested, check=False)
        running = asyncio.get_running_loop()
        case.run.evict()
        finished.set_result([running, asyncio.get_running_loop(), case.run.events])

    outer.call_soon(step)
    assert await finished == [outer, outer, 5]


@app.workflow
async def everything_open(ctx: Context) -> None:
    """Something of each kind is suspended where its code could act when it is closed."""

    async def handler(n: int) -> int:
        await tidy("handler", ctx.sleep(days(1)))
        return n

    async def updating(n: int) -> int:
        await tidy("update", ctx.callback(int))
        return n

    async def listening(name: str, mapping: Any) -> None:
        async for _ in mapping:
            await tidy(name, ctx.sleep(days(1)))

    async def step(n: int) -> int:
        await tidy(f"item {n}", work(n))
        return n

    ctx.on_signal(Signal[int]("go"), lambda n: tidy("signal", ctx.sleep(days(n))))
    ctx.on_update(Update[int, int]("u"), updating)
    mapping = ctx.map(step, range(3), concurrency=2)
    waiting = [
        listening("listener", mapping),
        tidy("condition", ctx.wait_until(lambda: False)),
        tidy("race", ctx.first(work(5), handler(1))),
        tidy("retry", ctx.retry(lambda: work(6), Retry())),
    ]
    tasks = [asyncio.create_task(one) for one in waiting]
    async with ctx.saga() as saga:
        await saga.step(work(7), undo=refund)
        await tidy("saga", ctx.child("x"))
    await asyncio.gather(*tasks)


def test_whatever_a_run_has_open_is_closed_and_can_do_nothing() -> None:
    case = Case(app, everything_open, check=False)
    case.signal("go", 1)
    case.update("u", 1)
    activities = case.run._program.scope.activities
    for n in (7, 0):
        case.complete(next(seq for seq in activities if activities.scheduled(seq).args == Raw(f"[{n}]".encode())), n)
    case.complete(case.pending("refund")[0])
    before = case.run.next_seq
    open_ones = {*("signal", "update", "condition", "race", "handler", "retry", "saga", "listener", "item 1", "item 2")}
    case.run.evict()
    assert {line.split(":")[0] for line in log} == {name for one in open_ones for name in (one, f"{one} cannot")}
    assert {line.split(": ")[1] for line in log} == {"RunEvicted"}
    assert case.run.next_seq == before
    again = case.replayed()
    assert again.next_seq == before
    log.clear()
    again.evict()
