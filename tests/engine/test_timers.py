"""Durable time: sleeps, deadlines, and everything asyncio makes of `call_at`."""

from __future__ import annotations

import asyncio
import math
from datetime import UTC, datetime, timedelta

import pytest
from tests.engine.kit import NOW, SECOND, Case

from everstep import App, Context, days, seconds
from everstep._core.timers import Wakeups, instant, micros
from everstep_schemas import events

app = App("timers")


@app.activity
async def work(n: int) -> int:
    raise AssertionError("workers run activities")


@app.workflow
async def sleeper(ctx: Context) -> list[float]:
    start = ctx.now()
    await asyncio.sleep(1.5)
    first = (ctx.now() - start).total_seconds()
    await ctx.sleep(days(365))
    await ctx.sleep_until(start + days(366))
    await ctx.sleep_until(start)
    await ctx.sleep(seconds(-1))
    return [first, (ctx.now() - start).total_seconds(), asyncio.get_running_loop().time()]


def test_sleeping_is_a_timer_in_history_and_time_is_the_events() -> None:
    case = Case(app, sleeper)
    assert case.history[-1] == events.TimerStarted(fire_at=instant(NOW + 1_500_000))
    assert case.run.due(NOW + 1_499_999) is None
    case.wake()
    case.wake()
    case.wake()
    end = NOW + 366 * 86_400 * SECOND
    assert case.result == [1.5, 366 * 86_400.0, end / SECOND]


def test_a_timer_that_fires_late_shows_the_late_instant() -> None:
    case = Case(app, sleeper)
    case.now = NOW + 10 * SECOND
    case.wake()
    assert case.run.wakeup_at() == NOW + 10 * SECOND + 365 * 86_400 * SECOND


def test_timers_that_are_due_together_come_in_order_of_instant_and_number() -> None:
    @app.workflow
    async def alarms(ctx: Context) -> list[int]:
        rang: list[int] = []

        async def alarm(n: int, after: float) -> None:
            await asyncio.sleep(after)
            rang.append(n)

        await asyncio.gather(alarm(1, 3), alarm(2, 1), alarm(3, 3), alarm(4, 2))
        return rang

    case = Case(app, alarms)
    case.now = NOW + 60 * SECOND
    while case.run.closed is None:
        case.wake()
    assert case.result == [2, 4, 1, 3]


def test_a_sleep_can_be_cancelled_and_stays_cancelled() -> None:
    @app.workflow
    async def awake(ctx: Context) -> str:
        nap = ctx.sleep(days(1))
        assert nap.cancel()
        assert not nap.cancel()
        short = ctx.sleep(seconds(-1))
        assert short.cancel(), "not even a sleep of no length is over before the next turn"
        done = ctx.sleep(seconds(0))
        await done
        assert not done.cancel()
        return "awake"

    case = Case(app, awake)
    assert case.result == "awake"
    assert [type(event) for event in case.history[1:]] == [
        events.TimerStarted,
        events.TimerCancelled,
        events.Completed,
    ]


def test_call_at_and_call_later_can_be_cancelled_until_they_have_fired() -> None:
    @app.workflow
    async def calls(ctx: Context) -> list[str]:
        loop = asyncio.get_running_loop()
        heard: list[str] = []
        loop.call_at(loop.time() - 5, heard.append, "past")
        past = loop.call_later(-1, heard.append, "cancelled")
        past.cancel()
        early = loop.call_later(1, heard.append, "early")
        assert early.when() == loop.time() + 1
        never = loop.call_later(2, heard.append, "never")
        assert not never.cancelled()
        never.cancel()
        never.cancel()
        assert never.cancelled()
        await asyncio.sleep(3)
        early.cancel()
        return heard

    case = Case(app, calls)
    assert [type(event) for event in case.last] == [
        events.TimerStarted,
        events.TimerStarted,
        events.TimerCancelled,
        events.TimerStarted,
    ]
    case.wake()
    case.wake()
    assert case.result == ["past", "early"]


def test_sleeping_for_ever_and_not_a_number() -> None:
    @app.workflow
    async def endless(ctx: Context) -> None:
        with pytest.raises(ValueError, match="number"):
            await asyncio.sleep(math.nan)
        async with asyncio.timeout(math.inf):
            await ctx.sleep(timedelta.max)

    case = Case(app, endless)
    end = micros(datetime(9999, 12, 31, 23, 59, 59, 999_999, UTC))
    assert case.run.wakeup_at() == end
    assert [type(event) for event in case.last] == [events.TimerStarted, events.TimerStarted]


def test_waits_want_durations_and_instants_with_a_zone() -> None:
    @app.workflow
    async def wrong(ctx: Context) -> str:
        with pytest.raises(TypeError, match=r"seconds\(30\)"):
            ctx.sleep(30)  # type: ignore[arg-type]  # the mistake that the message explains
        with pytest.raises(ValueError, match="time zone"):
            ctx.sleep_until(datetime(2030, 1, 1))  # the mistake that the message explains
        return "explained"

    assert Case(app, wrong).result == "explained"


def test_every_microsecond_of_the_calendar_survives_as_a_datetime() -> None:
    for at in (0, 1, NOW, NOW + 1, 253_402_300_799_999_999):
        assert micros(instant(at)) == at


def test_wakeups_forget_what_is_cancelled() -> None:
    wakeups = Wakeups()
    for seq in range(10_000):
        wakeups.add(seq, 1_000 + seq)
        wakeups.discard(seq)
    wakeups.add(10_001, 7)
    wakeups.add(10_001, 5_000)
    wakeups.add(10_002, 4_000)
    assert len(wakeups._heap) < 100
    assert wakeups.first() == (4_000, 10_002)
    wakeups.discard(10_002)
    assert wakeups.first() == (5_000, 10_001)
    wakeups.discard(10_001)
    wakeups.discard(10_001)
    assert wakeups.first() is None
