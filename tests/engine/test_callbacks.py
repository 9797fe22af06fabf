"""Callbacks: completed once, by whoever has the token, for whoever waits, in time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

import msgspec
import pytest
from msgspec import Raw
from tests.engine.kit import NOW, SECOND, URL, Case, begin, raw, replay

from everstep import App, Context, WaitTimeout, days, hours, seconds
from everstep._core.engine import CannotRun, Engine
from everstep._core.timers import LAST_INSTANT, instant
from everstep.errors import CallbackError
from everstep_schemas import cloudevents, events, wire
from everstep_schemas.names import Token, Topics

Verdict = Literal["keep", "remove"]


@dataclass
class Even:
    n: int

    def __post_init__(self) -> None:
        if self.n == 666:
            raise SystemExit
        if self.n % 2:
            raise ValueError(f"{self.n} is odd")


work_app = App("callbacks")


@work_app.activity
async def work(n: int) -> int:
    raise AssertionError("workers run activities")


async def moderate(ctx: Context) -> str:
    verdict = ctx.callback(Verdict, timeout=days(3), heartbeat_timeout=hours(12))
    ctx.set_status(verdict.url)
    try:
        return await verdict
    except WaitTimeout as error:
        return f"timeout: {error}"
    except CallbackError as error:
        return f"{error.type}: {error}"


def test_a_callback_is_an_event_with_a_token_and_a_url() -> None:
    case = begin(moderate)
    token = case.callback_token(2)
    assert case.history[1] == events.CallbackCreated(
        token=token,
        url=f"{URL}/api/v1/callbacks/{token}",
        deadline=instant(NOW + 3 * 86_400 * SECOND),
        heartbeat_timeout_seconds=43_200.0,
    )
    assert case.run.custom_status == f"{URL}/api/v1/callbacks/{token}"
    assert case.run.wakeup_at() == NOW + 43_200 * SECOND


def test_its_token_cannot_be_made_from_what_workers_see() -> None:
    case, other = (begin(moderate, nonce=f"{'same' * 4}{n}") for n in range(2))
    assert case.token(2) == other.token(2), "of the nonce, workers see the first half"
    assert case.callback_token(2) != other.callback_token(2)
    parsed = Token.parse(case.callback_token(2))
    assert parsed is not None
    assert (parsed.run_key, parsed.seq, len(parsed.nonce)) == (case.identity.run_key, 2, 32)


def test_a_completion_gives_the_value_and_is_published() -> None:
    case = begin(moderate)
    case.called_back(2, "keep", id="c1")
    assert case.last_events[0] == events.CallbackCompleted(ref=2, value=raw("keep"), source="c1")
    (fact,) = [one for one in case.last_activation.messages if b"callback" in dict(one.headers)["ce_type"]]
    assert (fact.topic, fact.key) == ("everstep.lifecycle", b"order-17")
    assert cloudevents.header(fact.headers, "ce_type") == "everstep.callback.completed"
    assert msgspec.json.decode(fact.value, type=wire.Lifecycle).submission_id == "c1"
    assert case.result == "keep"
    assert case.run.wakeup_at() is None


def test_a_failure_raises_and_is_published() -> None:
    case = begin(moderate)
    case.callback_failed(2, "no idea", type="Undecided", id="c1")
    (fact,) = case.sent("everstep.callback.failed")
    assert (fact["submission_id"], fact["error"]["type"]) == ("c1", "Undecided")
    assert case.result == "Undecided: Undecided: no idea"


def test_a_failure_without_a_type_has_one() -> None:
    case = begin(moderate)
    case.callback_failed(2, "", type="")
    assert case.result == "CallbackFailed: CallbackFailed: "


async def patient(ctx: Context) -> list[Any]:
    first, second = ctx.callback(int), ctx.callback(int)
    await work(1)
    return [await first, second.done()]


def test_it_may_be_completed_before_it_is_awaited_and_only_once() -> None:
    case = begin(patient)
    assert case.called_back(2, 5, id="c1") is not None
    assert case.called_back(2, 5, id="c1") is None
    assert case.refused is None, "the same completion again is no other one"
    assert case.called_back(2, 6, id="c2") is None
    assert case.refused == "the callback was completed before, or is no longer waited for"
    assert case.callback_failed(2, "too late", id="c3") is None
    assert case.refused == "the callback was completed before, or is no longer waited for"
    assert case.called_back(3, 5, id="c1") is not None, "another callback, whoever completes it"
    case.complete_all(1)
    assert case.result == [5, True]
    assert case.called_back(2, 5, id="c1") is None


def test_forged_tokens_tell_nothing() -> None:
    case = begin(patient)
    case.called_back(2, 5, id="c1")
    attempt, forged = case.token(2, 0), case.callback_token(2)[:-1] + "x"
    strangers = [attempt, forged, "", "token", case.callback_token(4), case.callback_token(1), case.callback_token(99)]
    for token in strangers:
        assert case.called_back(2, 5, id="c1", token=token) is None
        assert case.refused == "no such callback", token
        assert not case.beat(2, token=token)
    for number in ("-1", "ffffffffffffffffffffff", "+2", "0x2", "2_0"):
        shard, key, _, attempt_, nonce = case.callback_token(2).split(".")
        assert case.called_back(2, 5, token=f"{shard}.{key}.{number}.{attempt_}.{nonce}") is None
        assert case.refused == "no such callback"


def test_a_value_that_does_not_fit_is_refused_and_another_is_still_welcome() -> None:
    async def even(ctx: Context) -> int:
        return (await ctx.callback(Even)).n

    case = begin(even)
    assert case.called_back(2, {"m": 1}, id="c1") is None
    assert case.refused == "the value does not fit: Object missing required field `n` - at `$`"
    assert case.called_back(2, {"n": 3}, id="c1") is None
    assert str(case.refused).startswith("the value does not fit: 3 is odd")
    assert case.called_back(2, {"n": 666}, id="c1") is None
    assert str(case.refused).startswith("the value does not fit: "), "whatever the author's class raises"
    deep = wire.CompleteCallback(
        token=case.callback_token(2), value=Raw(b"[" * 2_000 + b"]" * 2_000), submission_id="c1"
    )
    assert case.send(deep) is None
    case.called_back(2, {"n": 4}, id="c1")
    assert case.result == 4


def test_a_deadline_and_heartbeats_end_the_wait_and_say_which() -> None:
    case = begin(moderate)
    case.wake()
    assert case.last_events[0] == events.TimerFired(ref=2, heartbeat=True)
    assert case.result == "timeout: callback 2: no heartbeat came in time"
    beating = begin(moderate)
    for _ in range(7):
        beating.now += 10 * 3_600 * SECOND
        assert beating.run.due(beating.now) is None
        assert beating.beat(2)
    beating.wake()
    assert beating.last_events[0] == events.TimerFired(ref=2)
    assert beating.result == "timeout: callback 2: nobody completed it within its timeout"


def test_after_its_time_it_can_neither_be_completed_nor_renewed() -> None:
    async def gives_up(ctx: Context) -> str:
        try:
            await ctx.callback(int, timeout=seconds(1))
        except WaitTimeout:
            await work(1)
        return "?"

    case = begin(gives_up)
    case.wake()
    assert not case.beat(2)
    assert case.called_back(2, 1) is None
    assert case.refused == "the callback was completed before, or is no longer waited for"


def test_a_completion_that_comes_late_but_before_the_clock_counts() -> None:
    case = begin(moderate)
    case.now += 5 * 86_400 * SECOND
    case.called_back(2, "keep")
    assert case.result == "keep"


def test_heartbeats_leave_no_event_and_never_shorten() -> None:
    case = begin(moderate)
    case.now = NOW + 5 * SECOND
    assert case.beat(2)
    expected = NOW + 5 * SECOND + 43_200 * SECOND
    assert case.run.wakeup_at() == expected
    case.now = NOW
    assert case.beat(2)
    assert case.run.wakeup_at() == expected
    assert len(case.history) == 3
    case.signal("x")
    assert case.run.wakeup_at() == expected
    for _ in range(10_000):
        case.run.beat(case.callback_token(2), case.now)
    for n in range(10_000):
        case.run.beat(case.callback_token(2), case.now + 10 * SECOND + n)
    assert len(case.run._program.wakeups._heap) < 100, "however often somebody says so"


@pytest.mark.parametrize("timeout", [seconds(0), seconds(-5), timedelta.min])
def test_no_time_at_all_is_over_at_once(timeout: timedelta) -> None:
    async def hasty(ctx: Context) -> str:
        try:
            await ctx.callback(int, timeout=timeout)
        except WaitTimeout:
            return "over"
        return "?"

    case = begin(hasty)
    case.wake()
    assert case.now == NOW
    assert case.result == "over"


def test_thousands_of_years_end_with_the_calendar() -> None:
    async def endless(ctx: Context) -> None:
        await ctx.callback(int, timeout=timedelta.max, heartbeat_timeout=timedelta.max)

    case = begin(endless)
    assert case.run.wakeup_at() == LAST_INSTANT
    assert case.beat(2)
    assert case.run.wakeup_at() == LAST_INSTANT


@pytest.mark.parametrize("heartbeat", [seconds(0), seconds(-1), 5])
def test_a_heartbeat_timeout_needs_some_time(heartbeat: Any) -> None:
    async def wrong(ctx: Context) -> str:
        with pytest.raises(ValueError, match="heartbeat_timeout"):
            ctx.callback(int, heartbeat_timeout=heartbeat)
        with pytest.raises(Exception, match="cannot cross the wire"):
            ctx.callback(Case)
        return "found"

    assert begin(wrong).result == "found"


def test_one_that_is_cancelled_is_recorded_and_refused_from_then_on() -> None:
    async def changes_mind(ctx: Context) -> None:
        callback = ctx.callback(int)
        assert callback.cancel()
        assert not callback.cancel()
        try:
            async with asyncio.timeout(1):
                await ctx.callback(int, timeout=days(1))
        except TimeoutError:
            await work(1)

    case = begin(changes_mind)
    assert case.kinds == ["CallbackCreated", "WaitCancelled", "TimerStarted", "CallbackCreated"]
    assert case.called_back(2, 1) is None
    assert case.refused is not None
    case.wake()
    assert case.kinds == ["WaitCancelled", "ActivityScheduled"]
    assert case.run.wakeup_at() is None
    assert not case.beat(5)


@pytest.mark.parametrize("how", ["cancel", "terminate", "complete"])
def test_a_run_that_closes_meanwhile_records_nothing_about_it(how: str) -> None:
    async def forgets(ctx: Context) -> None:
        ctx.callback(int, timeout=days(1))
        await work(1)

    case = begin(forgets)
    ends: dict[str, Callable[[], Any]] = {"cancel": case.cancel, "terminate": case.terminate}
    ends.get(how, lambda: case.complete(3, 1))()
    assert not any(isinstance(event, events.WaitCancelled) for event in case.last)
    assert not case.beat(2)
    assert case.called_back(2, 1) is None


def test_a_type_that_has_changed_since_gives_the_error_to_whoever_awaits() -> None:
    async def number(ctx: Context) -> str:
        return f"{await ctx.callback(int)}"

    async def text(ctx: Context) -> str:
        return await ctx.callback(str)

    case = begin(number)
    engine = Engine(changed(text, "number"), Topics(), max_payload_bytes=1 << 20, api_url=lambda: "http://elsewhere")
    again = replay(engine, case.identity, case.rows)
    again.apply(events.CallbackCompleted(ref=2, value=raw(5), source="c1"), case.now)
    assert again.closed == "failed"
    handle = replay(engine, case.identity, case.rows)._program.scope.callbacks._open[2].handle
    assert handle.url.startswith(URL), "what was given away holds"


def changed(fn: Any, name: str) -> App:
    app = App("changed")
    app.workflow(name=name)(fn)
    return app


def test_another_command_in_its_place_is_a_difference() -> None:
    async def calls(ctx: Context) -> None:
        await ctx.callback(int)

    async def works(ctx: Context) -> None:
        await work(1)

    case = begin(calls)
    with pytest.raises(CannotRun, match=r"holds a callback, the code produced activity 'work'"):
        replay(Engine(changed(works, "calls"), Topics(), max_payload_bytes=1 << 20), case.identity, case.rows)


def test_an_identity_is_needed() -> None:
    case = begin(moderate)
    with pytest.raises(ValueError, match="without an id"):
        case.run.accept(wire.CompleteCallback(token=case.callback_token(2), value=raw("keep")), NOW)
