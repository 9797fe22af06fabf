"""Signals: buffered in order, handed out once, put back when a receive is cancelled."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest
from tests.engine.kit import SECOND, Case, Recorder, state

from everstep import App, Context, Signal, WaitTimeout, days, seconds
from everstep_schemas import events, wire

app = App("signals")


@dataclass
class Shipped:
    carrier: str


shipped = Signal[Shipped]("shipped")
go = Signal[int]("go")


@app.activity
async def work(n: int) -> int:
    raise AssertionError("workers run activities")


@app.workflow
async def waiting(ctx: Context) -> str:
    message = await ctx.wait_for_signal(shipped, timeout=days(7), default=None)
    return "nothing" if message is None else message.carrier


def test_a_message_answers_the_wait() -> None:
    case = Case(app, waiting)
    case.signal("shipped", {"carrier": "DHL"})
    assert case.result == "DHL"
    assert case.run.wakeup_at() is None


def test_a_deadline_gives_the_default() -> None:
    case = Case(app, waiting)
    assert case.run.wakeup_at() == case.now + 7 * 86_400 * SECOND
    case.wake()
    assert case.result == "nothing"
    assert case.history[-2] == events.TimerFired(ref=2)


def test_a_deadline_without_a_default_raises() -> None:
    @app.workflow
    async def strict(ctx: Context) -> str:
        try:
            await ctx.wait_for_signal(shipped, timeout=seconds(1))
        except TimeoutError as error:
            return type(error).__name__
        return "?"

    case = Case(app, strict)
    case.wake()
    assert case.result == WaitTimeout.__name__


@app.workflow
async def late(ctx: Context) -> list[int]:
    await work(1)
    return [await ctx.wait_for_signal(go) for _ in range(3)]


def test_messages_wait_in_order_and_an_answer_from_the_buffer_records_nothing() -> None:
    case = Case(app, late)
    for n in (3, 1, 2):
        case.signal("go", n)
    case.signal("other", "stays")
    activation = case.complete(2, 0)
    assert case.result == [3, 1, 2]
    assert len(activation.rows) == 1
    assert [type(event) for event in case.last] == [events.Completed]


def test_a_signal_id_is_applied_once() -> None:
    case = Case(app, late)
    assert case.signal("go", 1, id="x") is not None
    assert case.signal("go", 1, id="x") is None
    assert case.replayed().accept(wire.Signal(workflow_id="order-17", name="go", signal_id="x"), case.now) is None


def test_a_message_of_the_wrong_type_is_put_aside_and_the_wait_goes_on() -> None:
    @app.workflow
    async def waits(ctx: Context) -> int:
        return await ctx.wait_for_signal(go)

    recorder = Recorder()
    case = Case(app, waits, log=recorder)
    case.signal("go", "seven", id="s1")
    assert case.last == [
        events.SignalUnreadable(name="go", signal_id="s1", reason="Expected `int`, got `str` - at `$`")
    ]
    assert [line[:2] for line in recorder.lines] == [("warning", "a signal does not fit its type and was put aside")]
    case.signal("go", 7)
    assert case.result == 7


def test_the_code_can_hear_of_messages_that_do_not_fit() -> None:
    @app.workflow
    async def careful(ctx: Context) -> list[Any]:
        heard: list[Any] = []
        ctx.on_unreadable_signal(lambda signal: heard.append((signal.name, signal.value, signal.error.path)))
        return [*heard, await ctx.wait_for_signal(go), *heard]

    case = Case(app, careful)
    case.signal("go", {"n": "seven"})
    case.signal("go", 7)
    assert case.result == [7, ["go", {"n": "seven"}, "$"]]


def test_waits_of_one_name_are_answered_in_the_order_they_began() -> None:
    @app.workflow
    async def several(ctx: Context) -> list[int]:
        waits = [ctx.wait_for_signal(go) for _ in range(3)]
        waits[1].cancel()
        return [await waits[0], await waits[2], await ctx.wait_for_signal(go)]

    case = Case(app, several)
    assert case.history[-1] == events.WaitCancelled(ref=3)
    for n in (1, 2, 3):
        case.signal("go", n)
    assert case.result == [1, 2, 3]


def test_a_cancelled_wait_loses_nothing() -> None:
    @app.workflow
    async def impatient(ctx: Context) -> list[int]:
        try:
            async with asyncio.timeout(1):
                await ctx.wait_for_signal(go)
        except TimeoutError:
            await work(1)
        return [await ctx.wait_for_signal(go)]

    case = Case(app, impatient)
    case.wake()
    case.signal("go", 5)
    case.complete_all(0)
    assert case.result == [5]


def test_a_message_that_was_handed_out_but_not_seen_goes_back_to_its_place() -> None:
    @app.workflow
    async def hesitant(ctx: Context) -> list[int]:
        await work(1)
        first, second, third = (ctx.wait_for_signal(go) for _ in range(3))
        assert third.done()
        second.cancel()
        first.cancel()
        assert await third == 3
        third.cancel()
        return [await ctx.wait_for_signal(go) for _ in range(3)]

    case = Case(app, hesitant)
    for n in (1, 2, 3, 4):
        case.signal("go", n)
    case.complete(2, 0)
    assert case.result == [1, 2, 4]


def test_a_receiver_cancelled_in_the_same_step_as_its_message_leaves_it_to_the_next() -> None:
    @app.workflow
    async def overtaken(ctx: Context) -> list[int]:
        wait = ctx.wait_for_signal(go)
        wait.add_done_callback(lambda _: task.cancel())

        async def receive() -> int:
            return await wait

        task = asyncio.create_task(receive())
        with pytest.raises(asyncio.CancelledError):
            await task
        return [await ctx.wait_for_signal(go)]

    case = Case(app, overtaken)
    case.signal("go", 9)
    assert case.result == [9]


def test_a_message_put_back_goes_to_a_wait_that_has_begun_meanwhile() -> None:
    @app.workflow
    async def two(ctx: Context) -> list[int]:
        first, second = ctx.wait_for_signal(go), ctx.wait_for_signal(go)
        await work(1)
        first.cancel()
        return [await second]

    case = Case(app, two)
    case.signal("go", 9)
    case.complete(4, 0)
    assert case.result == [9]


def test_a_stream_gives_all_messages_in_order() -> None:
    @app.workflow
    async def stream(ctx: Context) -> list[int]:
        got: list[int] = []
        messages = ctx.signals(go)
        await work(0)
        assert messages.pending() == 2
        async for n in messages:
            got.append(n)
            if n == 0:
                break
        got.append(await messages.receive())
        with pytest.raises(WaitTimeout):
            await messages.receive(timeout=seconds(1))
        return got

    case = Case(app, stream)
    case.signal("go", 1)
    case.signal("go", 2)
    case.complete(2, 0)
    case.signal("go", 0)
    case.signal("go", 8)
    case.wake()
    assert case.result == [1, 2, 0, 8]


def test_plain_names_work_with_and_without_a_type() -> None:
    @app.workflow
    async def named(ctx: Context) -> str:
        typed = await ctx.wait_for_signal("a", type=Shipped)
        loose = await ctx.wait_for_signal("b")
        async for one in ctx.signals("c", type=Shipped):
            return f"{typed.carrier}{loose['carrier']}{one.carrier}"
        return "?"

    case = Case(app, named)
    for name in "abc":
        case.signal(name, {"carrier": name})
    assert case.result == "abc"


def test_buffered_messages_are_kept_over_a_replay() -> None:
    case = Case(app, late)
    for n in range(3):
        case.signal("go", n)
    again = case.replayed()
    assert state(again)["buffers"] == {"go": [(1, b"0", "signal-1"), (2, b"1", "signal-2"), (3, b"2", "signal-3")]}
