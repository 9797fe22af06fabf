"""The limits of runs: when they begin, how long they may take, and how often they are begun again."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from msgspec import Raw
from tests.engine.kit import NOW, SECOND, Case, begin, raw

from everstep import App, Backoff, Context, Retry, Signal, days, hours, seconds
from everstep._core.handlers import QueryFailed
from everstep._core.starting import Birth, admission, first_signal, of_submission, why_impossible
from everstep._core.timers import LAST_INSTANT, instant
from everstep_schemas import events, wire

app = App("limits")
go = Signal[int]("go")


@app.activity
async def work(n: int) -> int:
    raise AssertionError("workers run activities")


async def plain(ctx: Context) -> str:
    got: int = await ctx.wait_for_signal(go)
    await work(got)
    return f"{ctx.now().timestamp() - NOW / SECOND:g} {ctx.info.started_at.timestamp() - NOW / SECOND:g}"


LATER = NOW + 60 * SECOND


# ---- delayed starts


def test_the_code_begins_at_its_time_with_what_came_before() -> None:
    case = begin(plain, begin={"start_at": instant(LATER)})
    assert case.last == []
    assert [one.topic for one in case.messages] == ["everstep.lifecycle"]
    assert case.run.wakeup_at() == LATER
    assert case.run.due(LATER - 1) is None
    case.signal("go", 5)
    assert case.last == []
    case.wake()
    assert case.last_events[0] == events.TimerFired(ref=1)
    assert case.kinds == ["ActivityScheduled"]
    assert case.run.wakeup_at() is None
    case.complete_all(1)
    assert case.result == "60.001 0"


def test_a_time_that_has_passed_is_now() -> None:
    assert begin(plain, begin={"start_at": instant(NOW - 1)}).kinds == ["SignalAwaited"]
    assert begin(plain, begin={"start_at": instant(NOW)}).kinds == ["SignalAwaited"]


def test_before_its_time_a_run_can_be_ended_and_answers_nothing() -> None:
    case = begin(plain, begin={"start_at": instant(LATER)})
    assert case.update("x", 1) is None
    assert case.refused == "the run has not begun: its code starts at 2023-11-14T22:14:20+00:00"
    with pytest.raises(QueryFailed, match="the run has not begun: its code starts at 2023"):
        case.query("x")
    assert case.send(case.completion(1)) is None
    assert case.called_back(1) is None
    case.signal("go", 5)
    case.cancel("never mind")
    assert case.history[-1] == events.Cancelled(reason="never mind", unread={"go": 1})
    assert case.run.wakeup_at() is None
    terminated = begin(plain, begin={"start_at": instant(LATER)})
    terminated.terminate("enough")
    assert terminated.run.closed == "terminated"


def test_a_run_that_goes_on_later_keeps_what_it_inherits() -> None:
    inherited = events.Inheritance(
        unread=(events.Unread(name="go", value=raw(5), signal_id="g1"),), signal_ids=("g0",), update_ids=("u0",)
    )
    case = begin(plain, begin={"start_at": instant(LATER), "inherited": inherited})
    assert case.signal("go", 6, id="g1") is None
    assert case.signal("go", 6, id="g0") is None
    case.wake()
    assert case.kinds == ["ActivityScheduled"]


# ---- timeouts


def test_a_run_that_takes_too_long_is_closed_without_its_code() -> None:
    ran: list[str] = []

    async def slow(ctx: Context) -> None:
        try:
            work(1)
            ctx.child("x")
            await ctx.sleep(days(1))
        except asyncio.CancelledError:
            ran.append("cleaned")

    case = begin(slow, begin={"timeout_seconds": 60.0})
    assert case.history[0].expires_at == instant(LATER)  # type: ignore[union-attr]  # it is the start
    case.wake()
    assert case.now == LATER
    assert case.last_events[0] == events.TimedOut()
    assert case.kinds == ["ActivityCancelled", "ChildCancelled"]
    assert case.last_activation.closed == "timed_out"
    assert len(case.sent("everstep.run.timed_out")) == 1
    assert ran == []
    assert case.signal("go", 1) is None


def test_the_time_of_a_delayed_run_counts_from_its_beginning() -> None:
    case = begin(plain, begin={"start_at": instant(LATER), "timeout_seconds": 60.0})
    assert case.run.wakeup_at() == LATER
    case.wake()
    assert case.run.wakeup_at() == LATER + 60 * SECOND
    case.wake()
    assert case.run.closed == "timed_out"


def test_a_request_that_names_no_timeout_has_the_workflows() -> None:
    flow = App("flow")
    workflow = flow.workflow(timeout=hours(1))(plain)
    assert Case(flow, workflow).run.wakeup_at() == NOW + 3_600 * SECOND
    assert Case(flow, workflow, begin={"timeout_seconds": 5.0}).run.wakeup_at() == NOW + 5 * SECOND


def test_at_the_same_instant_the_run_ends_before_its_timers() -> None:
    async def sleeping(ctx: Context) -> None:
        await ctx.sleep(seconds(60))

    case = begin(sleeping, begin={"timeout_seconds": 60.0})
    case.wake()
    assert case.run.closed == "timed_out"


def test_a_cancelled_run_that_does_not_end_is_closed_by_its_timeout() -> None:
    async def stubborn(ctx: Context) -> None:
        while True:
            try:
                await ctx.sleep(days(1))
            except asyncio.CancelledError:
                ctx.set_status("no")

    case = begin(stubborn, begin={"timeout_seconds": 60.0})
    case.cancel()
    case.wake()
    assert case.run.closed == "timed_out"


# ---- begun again after a failure


def test_a_run_that_fails_is_begun_again_with_its_limits_and_its_version() -> None:
    flow = App("flow")

    async def flaky(ctx: Context, n: int) -> int:
        ctx.attributes["tried"] = ctx.info.attempt
        if ctx.info.attempt < 3:
            raise ValueError("not yet")
        return ctx.info.attempt

    workflow = flow.workflow(retry=Retry(max_attempts=3), timeout=days(1))(flaky)
    flow.workflow(name="flaky", version=2)(flaky)
    case = Case(flow, workflow, 5)
    closing = case.history[-1]
    assert isinstance(closing, events.Continued)
    assert closing.error is not None
    assert closing.error.type == "ValueError"
    (fact,) = case.sent("everstep.run.continued")
    assert fact["error"]["message"] == "not yet"
    assert fact["retry_at"] == msgspec.json.decode(msgspec.json.encode(closing.retry_at))
    successor = case.last_activation.successor
    assert successor is not None
    assert (successor.attempt, successor.version, successor.args) == (2, 1, b"[5]")
    assert successor.start_at == case.now + round((closing.retry_at - instant(case.now)).total_seconds() * SECOND)  # type: ignore[operator]
    assert successor.expires_at == NOW + 86_400 * SECOND
    second = case.next_run()
    assert second.kinds == [], "its code begins when the pause is over"
    second.wake()
    third = second.next_run()
    assert third.history[0].retry == events.RetryPolicy(max_attempts=3)  # type: ignore[union-attr]
    third.wake()
    assert third.result == 3
    assert third.run.attributes == b'{"tried":3}'


def test_no_further_attempt_begins_after_the_timeout_or_after_what_is_final() -> None:
    class Final(Exception): ...

    async def failing(ctx: Context, how: str) -> None:
        if how == "final":
            raise Final
        if how == "arguments":
            await work("x")  # type: ignore[arg-type]  # the mistake that is final
        if how == "wait":
            await work(1)
        raise ValueError(how)

    flow = App("flow")
    policy = Retry(give_up_on=[Final], backoff=Backoff(seconds(60)), retry_if=lambda error: "odd" not in str(error))
    workflow = flow.workflow(retry=policy, timeout=hours(1))(failing)
    for how in ("final", "arguments", "odd"):
        assert Case(flow, workflow, how).run.closed == "failed"
    assert Case(flow, workflow, "plain").run.closed == "continued"
    late = Case(flow, workflow, "wait")
    late.now += 3_599 * SECOND
    late.complete(2, 1)
    assert late.run.closed == "failed", "the pause would end after the timeout"
    later = Case(flow, workflow, "wait")
    later.wake()
    assert later.run.closed == "timed_out", "and a timeout is not tried again"


@pytest.mark.parametrize("error", [ValueError, SystemExit, GeneratorExit])
def test_a_retry_if_that_raises_does_not_keep_the_run_from_ending(error: type[BaseException]) -> None:
    def odd(raised: BaseException) -> bool:
        raise error

    async def failing(ctx: Context) -> None:
        raise KeyError

    flow = App("flow")
    case = Case(flow, flow.workflow(retry=Retry(retry_if=odd))(failing))
    assert case.run.closed == "continued"


def test_a_cancelled_run_is_not_begun_again() -> None:
    async def cancelled(ctx: Context) -> None:
        try:
            await work(1)
        except asyncio.CancelledError:
            raise ValueError("while cleaning up") from None

    flow = App("flow")
    case = Case(flow, flow.workflow(retry=Retry())(cancelled))
    case.cancel()
    assert case.run.closed == "failed"


def test_the_calendar_ends_no_run() -> None:
    async def failing(ctx: Context) -> None:
        raise ValueError

    flow = App("flow")
    workflow = flow.workflow(retry=Retry(), timeout=timedelta.max)(failing)
    case = Case(flow, workflow, begin={"start_at": instant(LAST_INSTANT)})
    case.wake()
    assert case.run.closed == "failed", "no pause fits in any more"
    unlimited = Case(
        flow, flow.workflow(name="unlimited", retry=Retry())(failing), begin={"start_at": instant(LAST_INSTANT)}
    )
    unlimited.wake()
    assert unlimited.run.closed == "continued"
    assert unlimited.next_run().run.closed == "continued"


# ---- what a start may ask for


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"timeout_seconds": 0.0}, "a number above 0"),
        ({"timeout_seconds": -1.0}, "a number above 0"),
        ({"timeout_seconds": float("nan")}, "a number above 0"),
        ({"timeout_seconds": float("inf")}, "a number above 0"),
        ({"start_at": instant(NOW).replace(tzinfo=None)}, "no time zone"),
        ({"with_signal": wire.FirstSignal(name="")}, "with_signal.name"),
        ({"with_signal": wire.FirstSignal(name="x", signal_id="\0")}, "with_signal.signal_id"),
        ({"attributes": {"": 1}}, "attribute ''"),
    ],
)
def test_what_is_impossible_is_refused_before_there_is_a_run(fields: dict[str, Any], words: str) -> None:
    assert words in str(why_impossible(wire.Start(workflow_id="a", workflow="w", **fields)))


def test_an_endless_timeout_ends_with_the_calendar() -> None:
    start = wire.Start(workflow_id="a", workflow="w", timeout_seconds=1e300, start_at=instant(LAST_INSTANT))
    assert why_impossible(start) is None
    started = of_submission(start, "s", None, Birth(1, "n", "3", NOW, None))
    assert started.expires_at == instant(LAST_INSTANT)


def test_a_first_signal_has_an_identity_that_is_the_same_each_time() -> None:
    start = wire.Start(workflow_id="a", workflow="w", with_signal=wire.FirstSignal(name="go", value=raw(1)))
    first = first_signal(start, "submissions/1/2")
    assert first == wire.Signal(workflow_id="a", name="go", value=raw(1), signal_id="submissions/1/2/signal")
    long = first_signal(start, "s" * 512)
    assert long is not None
    assert len(str(long.signal_id)) <= 512
    named = msgspec.structs.replace(start, with_signal=wire.FirstSignal(name="go", signal_id="mine"))
    assert first_signal(named, "s") == wire.Signal(workflow_id="a", name="go", signal_id="mine")
    assert first_signal(wire.Start(workflow_id="a", workflow="w", args=Raw(b"[1]")), "s") is None


@pytest.mark.parametrize(
    ("on_duplicate", "none", "closed", "is_open"),
    [
        ("reject", "create", "reject", "reject"),
        ("allow_closed", "create", "create", "reject"),
        ("return_existing", "create", "existing", "existing"),
        ("terminate_existing", "create", "create", "replace"),
    ],
)
def test_whether_a_start_makes_a_run(on_duplicate: wire.OnDuplicate, none: str, closed: str, is_open: str) -> None:
    start = wire.Start(workflow_id="a", workflow="w", on_duplicate=on_duplicate)
    assert admission(start, exists=False, is_open=False) == none
    assert admission(start, exists=True, is_open=False) == closed
    assert admission(start, exists=True, is_open=True) == is_open
