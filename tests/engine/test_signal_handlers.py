"""Handlers of signals, and messages that nobody can read or nobody has read."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import Any

import pytest
from msgspec import Raw
from tests.engine.kit import Recorder, begin, state

from everstep import App, Context, Signal, days
from everstep_schemas import events, wire

go = Signal[int]("go")
other = Signal[int]("other")
tools = App("tools")


@tools.activity
async def work(n: int) -> int:
    raise AssertionError("workers run activities")


@tools.activity
async def clean(n: int) -> int:
    raise AssertionError("workers run activities")


class Bad(Exception): ...


@dataclass
class Picky:
    text: str

    def __post_init__(self) -> None:
        if self.text == "exit":
            raise SystemExit
        if self.text != "ok":
            raise Bad("\ud800" + self.text)


async def picky_run(ctx: Context) -> str:
    return (await ctx.wait_for_signal(Signal[Picky]("picky"))).text


async def handling(ctx: Context) -> list[int]:
    got: list[int] = []

    async def handle(n: int) -> None:
        got.append(await work(n))

    ctx.on_signal(go, handle)
    ctx.on_signal(other, got.append)
    await ctx.wait_until(lambda: len(got) >= 4)
    return got


def test_each_message_starts_its_handler_in_order_and_handlers_run_side_by_side() -> None:
    case = begin(handling)
    for n in (1, 2):
        case.signal("go", n)
    case.signal("other", 7)
    assert [one[4] for one in state(case.run)["activities"].values()] == [b"[1]", b"[2]"]
    first, second = case.pending()
    case.complete(second, 20)
    case.complete(first, 10)
    case.signal("other", 8)
    assert case.result == [7, 20, 10, 8]


def test_a_plain_name_gives_plain_values() -> None:
    async def listens(ctx: Context) -> list[Any]:
        heard: list[Any] = []
        ctx.on_signal("plain", heard.append)
        await ctx.wait_until(lambda: len(heard) == 2)
        return heard

    case = begin(listens)
    case.signal("plain", {"a": 1})
    case.signal("plain", "b")
    assert case.result == [{"a": 1}, "b"]


def test_a_handler_that_is_registered_late_gets_what_came_before_first() -> None:
    async def late(ctx: Context) -> list[int]:
        got: list[int] = []
        await work(0)
        ctx.on_signal(go, got.append)
        assert got == [], "a handler runs on its own turn"
        await asyncio.sleep(0)
        assert ctx.signals(go).pending() == 0
        await ctx.wait_for_signal(other)
        return got

    case = begin(late)
    for n in (1, 2, 3):
        case.signal("go", n)
    case.complete(2, 0)
    case.signal("go", 4)
    case.signal("other", 0)
    assert case.result == [1, 2, 3, 4]


def test_a_handler_has_precedence_over_waits_and_can_be_replaced() -> None:
    async def replacing(ctx: Context) -> list[Any]:
        first: list[int] = []
        second: list[int] = []
        waiting = ctx.wait_for_signal(go)
        ctx.on_signal(go, first.append)
        await ctx.wait_for_signal(other)
        ctx.on_signal(go, second.append)
        await ctx.wait_for_signal(other)
        return [first, second, waiting.done()]

    case = begin(replacing)
    case.signal("go", 1)
    case.signal("other", 0)
    case.signal("go", 2)
    case.signal("other", 0)
    assert case.result == [[1], [2], False]


async def with_handler(ctx: Context, how: str) -> str:
    async def handle(n: int) -> None:
        if how == "later":
            await work(n)
        if how == "cancelled":
            handle = work(n)
            handle.cancel()
            await handle
        raise {"exit": SystemExit(3), "generator": GeneratorExit()}.get(how, Bad(n))

    ctx.on_signal(go, handle)
    try:
        await ctx.sleep(days(1))
    finally:
        await clean(1)
    return "?"


@pytest.mark.parametrize(
    ("how", "type"),
    [
        ("at once", "Bad"),
        ("later", "Bad"),
        ("exit", "SystemExit"),
        ("generator", "GeneratorExit"),
        ("cancelled", "CancelledError"),
    ],
)
def test_an_error_in_a_handler_breaks_the_run_off_which_may_clean_up(how: str, type: str) -> None:
    case = begin(with_handler, how)
    case.signal("go", 5)
    if how == "later":
        case.complete(case.pending("work")[0], 1)
    assert case.kinds[-2:] == ["TimerCancelled", "ActivityScheduled"]
    case.complete(case.pending("clean")[0], 1)
    assert case.error.type.endswith(type)


def test_while_it_cleans_up_it_is_not_broken_off_again() -> None:
    case = begin(with_handler, "at once")
    case.signal("go", 1)
    case.signal("go", 2)
    assert case.kinds == []
    case.cancel("enough")
    assert case.kinds == []
    case.complete(case.pending("clean")[0], 1)
    assert case.error.message == "1", "the first error is the run's"


def test_code_that_goes_on_regardless_fails_in_the_end() -> None:
    async def regardless(ctx: Context) -> str:
        def handle(n: int) -> None:
            raise Bad(n)

        ctx.on_signal(go, handle)
        with contextlib.suppress(asyncio.CancelledError):
            await ctx.sleep(days(1))
        return "as if nothing had happened"

    case = begin(regardless)
    case.signal("go", 1)
    assert case.error.type.endswith("Bad")


def test_a_handler_that_is_cancelled_by_the_code_is_no_error() -> None:
    async def stopping(ctx: Context) -> str:
        async def handle(n: int) -> None:
            await work(n)

        ctx.on_signal(go, handle)
        await ctx.wait_for_signal(other)
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        await asyncio.sleep(0)
        return await ctx.wait_for_signal("end", type=str)

    case = begin(stopping)
    case.signal("go", 1)
    case.signal("other", 1)
    assert case.kinds == ["ActivityCancelled", "SignalAwaited"]
    case.signal("end", "done")
    assert case.result == "done"


def test_a_run_that_ends_closes_its_handlers() -> None:
    case = begin(handling)
    case.signal("go", 1)
    for n in range(4):
        case.signal("other", n)
    assert case.result == [0, 1, 2, 3]
    assert case.kinds == ["ConditionMet", "ActivityCancelled", "Completed"]


# ---- messages that do not fit


async def hearing(ctx: Context, how: str) -> list[Any]:
    heard: list[Any] = []

    async def slowly(signal: Any) -> None:
        heard.append(await work(len(str(signal.value))))

    def raising(signal: Any) -> None:
        raise Bad(signal.name)

    handlers: dict[str, Any] = {"plain": heard.append, "slowly": slowly, "raises": raising}
    if how in handlers:
        ctx.on_unreadable_signal(handlers[how])
    heard.append(await ctx.wait_for_signal(go))
    return [str(one) for one in heard]


def test_one_that_does_not_fit_is_published() -> None:
    case = begin(hearing, "nobody")
    case.signal("go", "seven", id="s1")
    (fact,) = case.sent("everstep.signal.unreadable")
    assert (fact["name"], fact["reason"], fact["seq"]) == ("go", "Expected `int`, got `str` - at `$`", 4)
    case.signal("go", 1)
    assert case.result == ["1"]


def test_whoever_hears_of_it_may_work_or_fail() -> None:
    slow = begin(hearing, "slowly")
    slow.signal("go", "seven")
    slow.complete(slow.pending()[0], 9)
    slow.signal("go", 1)
    assert slow.result == ["9", "1"]
    failing = begin(hearing, "raises")
    failing.signal("go", "seven")
    assert failing.error.type.endswith("Bad")


ODD = [b'"\xff"', b'{"a": 1, "a": 2}', b"1e400", b"-0", b"123456789" * 50]


@pytest.mark.parametrize("how", ["nobody", "plain"])
@pytest.mark.parametrize("value", ODD, ids=lambda value: repr(value[:20]))
def test_whatever_somebody_sends_does_not_stop_the_run(value: bytes, how: str) -> None:
    async def strict(ctx: Context) -> int:
        heard: list[Any] = []
        if how == "plain":
            ctx.on_unreadable_signal(heard.append)
        await ctx.wait_for_signal(Signal[list[dict[str, bool]]]("odd"))
        return len(heard)

    case = begin(strict)
    case.send(wire.Signal(workflow_id="order-17", name="odd", value=Raw(value), signal_id="s1"))
    assert case.kinds == ["SignalUnreadable"]
    case.signal("odd", [])
    assert case.result == (how == "plain")


def test_an_author_s_error_text_cannot_spoil_the_history() -> None:
    case = begin(picky_run)
    case.signal("picky", {"text": "x" * 50_000})
    (event,) = case.last
    assert isinstance(event, events.SignalUnreadable)
    assert len(event.reason) < 5_000
    case.signal("picky", {"text": "exit"})
    assert case.kinds == ["SignalUnreadable"]
    case.signal("picky", {"text": "ok"})
    assert case.result == "ok"


def test_a_buffered_message_that_does_not_fit_is_put_aside_when_somebody_wants_it() -> None:
    async def late(ctx: Context) -> list[int]:
        got: list[int] = []
        await work(1)
        ctx.on_signal(go, got.append)
        first: int = await ctx.wait_for_signal(other)
        return [first, *got]

    recorder = Recorder()
    case = begin(late, log=recorder)
    for name in ("go", "other"):
        case.signal(name, "wrong")
        case.signal(name, 5)
    assert [line[0] for line in recorder.lines] == []
    case.complete(2, 0)
    assert case.kinds == ["SignalUnreadable", "SignalUnreadable", "Completed"]
    assert [line[2]["name"] for line in recorder.lines] == ["go", "other"]


# ---- what nobody has read


@pytest.mark.parametrize("end", ["return", "raise", "cancel", "terminate"])
def test_messages_that_were_never_received_are_counted_at_the_end(end: str) -> None:
    async def ignoring(ctx: Context) -> int:
        got = await ctx.wait_for_signal(go)
        unlooked = ctx.wait_for_signal(go)
        await work(1)
        assert unlooked.done()
        if end == "raise":
            raise Bad
        return got

    case = begin(ignoring)
    case.signal("go", 1)
    case.signal("go", 2)
    case.signal("go", 3)
    case.signal("other", 1)
    ends: dict[str, Any] = {"cancel": case.cancel, "terminate": case.terminate}
    ends.get(end, lambda: case.complete(case.pending()[0], 1))()
    assert case.last_activation.unread == {"go": 2, "other": 1}
    if end != "terminate":
        assert case.history[-1].unread == {"go": 2, "other": 1}  # type: ignore[union-attr]  # it closes the run


def test_a_message_is_received_where_it_is_looked_at() -> None:
    async def looking(ctx: Context) -> list[int]:
        one, two, three = (ctx.wait_for_signal(go) for _ in range(3))
        await work(1)
        return [await one, two.result(), (await asyncio.gather(three))[0]]

    case = begin(looking)
    for n in (1, 2, 3):
        case.signal("go", n)
    case.complete(case.pending()[0], 1)
    assert case.result == [1, 2, 3]
    assert case.last_activation.unread == {}
