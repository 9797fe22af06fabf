"""A history as a person reads it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any, get_args

import pytest
from msgspec import Raw

from everstep.pending import Pending
from everstep.words import Line, Teller, error_text, fact_text, moment, shorten, span, story
from everstep_schemas import events
from everstep_schemas.errors import ErrorInfo
from everstep_schemas.wire import Lifecycle, LifecycleType

T0 = datetime(2026, 11, 21, 14, 2, tzinfo=UTC)
SECOND = timedelta(seconds=1)


@pytest.mark.parametrize(
    ("length", "text"),
    [
        (timedelta(0), "0 ms"),
        (timedelta(milliseconds=20), "20 ms"),
        (timedelta(seconds=1.5), "1.5 s"),
        (timedelta(seconds=60), "1 min"),
        (timedelta(hours=2), "2 h"),
        (timedelta(hours=2, minutes=5, seconds=9), "2 h 5 min"),
        (timedelta(days=7, minutes=3), "7 d"),
        (timedelta(seconds=-90), "1 min 30 s"),
    ],
)
def test_a_length_of_time_has_its_two_largest_units(length: timedelta, text: str) -> None:
    assert span(length) == text


def test_an_instant_is_shown_in_utc() -> None:
    assert moment(T0.astimezone(timezone(timedelta(hours=2)))) == "2026-11-21 14:02:00 UTC"


def lines(*history: tuple[timedelta, events.AnyEvent]) -> list[str]:
    return [line.text for line in story((seq, T0 + after, event) for seq, (after, event) in enumerate(history, 1))]


def started() -> events.Started:
    return events.Started(
        workflow="fulfil_order", version=2, nonce="n", source="s", python="3.11", args=Raw(b'[{"order_id":"17"}]')
    )


def test_an_order_in_words() -> None:
    refused = ErrorInfo(type="ConnectionError", message="the bank does not answer\nsecond line")
    assert lines(
        (0 * SECOND, started()),
        (0 * SECOND, events.ActivityScheduled(name="process_payment", queue="default", args=Raw(b'["17"]'))),
        (1 * SECOND, events.ActivityFailed(ref=2, attempt=1, error=refused, retry_at=T0 + 2 * SECOND)),
        (2 * SECOND, events.ActivityRetried(ref=2, attempt=2)),
        (3 * SECOND, events.ActivityCompleted(ref=2, attempt=2, value=Raw(b'"paid"'))),
        (3 * SECOND, events.StatusSet(text="waiting on shipping confirmation")),
        (3 * SECOND, events.SignalAwaited(name="ShippingConfirmed", deadline=T0 + timedelta(days=7))),
        (
            timedelta(hours=2, seconds=3),
            events.SignalReceived(name="ShippingConfirmed", value=Raw(b"{}"), signal_id="x"),
        ),
        (timedelta(hours=2, seconds=3), events.Completed(value=Raw(b'"shipped"'))),
    ) == [
        'fulfil_order (version 2) started with {"order_id":"17"}',
        'process_payment called with "17"',
        "process_payment attempt 1 failed: ConnectionError: the bank does not answer, next in 1 s",
        "process_payment attempt 2 begins",
        'process_payment returned "paid" at attempt 2',
        "status: waiting on shipping confirmation",
        "waiting for ShippingConfirmed until 2026-11-28 14:02:00 UTC",
        "resumed after 2 h",
        "signal ShippingConfirmed received: {}",
        'completed with "shipped"',
    ]


def test_what_ends_badly() -> None:
    broken = ErrorInfo(type="CardDeclined")
    assert lines(
        (0 * SECOND, started()),
        (0 * SECOND, events.TimerStarted(fire_at=T0 + 30 * SECOND)),
        (0 * SECOND, events.SignalAwaited(name="Approved")),
        (1 * SECOND, events.ActivityScheduled(name="refund", queue="default")),
        (2 * SECOND, events.ActivityFailed(ref=4, attempt=3, error=broken)),
        (30 * SECOND, events.TimerFired(ref=2)),
        (31 * SECOND, events.WaitCancelled(ref=3)),
        (31 * SECOND, events.ActivityCancelled(ref=4, attempt=3)),
        (32 * SECOND, events.CancelRequested(reason="customer asked")),
        (32 * SECOND, events.Failed(error=broken)),
        (33 * SECOND, events.Cancelled()),
        (34 * SECOND, events.Terminated(reason="enough")),
    )[1:] == [
        "timer set for 30 s, until 2026-11-21 14:02:30 UTC",
        "waiting for Approved",
        "refund called with nothing",
        "refund attempt 3 failed: CardDeclined, for good",
        "timer until 2026-11-21 14:02:30 UTC: the time is up",
        "waiting for Approved: no longer needed",
        "refund cancelled",
        "cancellation requested: customer asked",
        "failed: CardDeclined",
        "cancelled",
        "terminated: enough",
    ]


def test_runs_that_talk_to_others_in_words() -> None:
    error = ErrorInfo(type="OutOfStock", message="none left")
    parent = events.Parent(workflow_id="boss", run=1, seq=2, token="secret")
    began = events.Started(
        workflow="w", version=1, nonce="n", source="s", python="3", parent=parent, attempt=2, start_at=T0 + SECOND
    )
    told = lines(
        (0 * SECOND, began),
        (1 * SECOND, events.TimerFired(ref=1)),
        (1 * SECOND, events.ChildStarted(workflow="ship", workflow_id="ship-1", args=Raw(b"[1]"))),
        (1 * SECOND, events.ChildStarted(workflow="ship", workflow_id="ship-2", on_parent_close="abandon")),
        (1 * SECOND, events.ChildCompleted(ref=3, value=Raw(b'"sent"'))),
        (1 * SECOND, events.ChildFailed(ref=4, status="timed_out")),
        (1 * SECOND, events.ChildCancelled(ref=4, workflow_id="ship-2", how="abandon")),
        (1 * SECOND, events.CallbackCreated(token="secret", url="u", deadline=T0 + 60 * SECOND)),
        (1 * SECOND, events.CallbackCompleted(ref=8, value=Raw(b"true"), source="s1")),
        (1 * SECOND, events.CallbackFailed(ref=8, error=error, source="s1")),
        (1 * SECOND, events.TimerFired(ref=8, heartbeat=True)),
        (1 * SECOND, events.ConditionAwaited(what="ready (line 7)")),
        (1 * SECOND, events.ConditionMet(ref=12)),
        (1 * SECOND, events.UpdateRequested(name="add", value=Raw(b"3"), update_id="u1")),
        (1 * SECOND, events.UpdateCompleted(ref=14, update_id="u1", value=Raw(b"4"))),
        (1 * SECOND, events.UpdateFailed(ref=14, update_id="u1", error=error)),
        (1 * SECOND, events.SignalSent(workflow_id="b", name="go", value=Raw(b"1"), signal_id="x")),
        (1 * SECOND, events.RequestAnswered(ref=17)),
        (1 * SECOND, events.CancelSent(workflow_id="b", reason="enough")),
        (1 * SECOND, events.RequestAnswered(ref=19, error=error)),
        (1 * SECOND, events.SignalUnreadable(name="go", signal_id="x", reason="Expected `int`")),
        (1 * SECOND, events.AttributesSet(values={"customer": "C-9", "old": None})),
        (1 * SECOND, events.MilestoneReached(text="half-way")),
        (1 * SECOND, events.PatchMarked(id="fraud-check")),
        (1 * SECOND, events.SideEffectRecorded(value=Raw(b"7"))),
        (1 * SECOND, events.Continued(workflow="w", args=Raw(b"[2]"))),
        (1 * SECOND, events.Continued(workflow="w", error=error, retry_at=T0 + 3 * SECOND)),
        (1 * SECOND, events.TimedOut()),
    )
    assert told == [
        "w (version 1) started with nothing, attempt 2, for boss, to begin at 2026-11-21 14:02:01 UTC",
        "its code begins",
        "ship started as ship-1 with 1",
        "ship started as ship-2 with nothing",
        'child ship-1 returned "sent"',
        "child ship-2 timed out",
        "child ship-2: no longer needed, left alone",
        "callback created, open until 2026-11-21 14:03:00 UTC",
        "callback 8 completed with true",
        "callback 8 failed: OutOfStock: none left",
        "callback 8: no heartbeat came in time",
        "waiting for ready (line 7)",
        "waiting for ready (line 7): it is true",
        "update add requested: 3",
        "update add answered with 4",
        "update add failed: OutOfStock: none left",
        "signal go sent to b: 1",
        "signal go to b: it has arrived",
        "b asked to end: enough",
        "the request to b: OutOfStock: none left",
        "signal go put aside: Expected `int`",
        'customer="C-9", old=null',
        "milestone: half-way",
        "takes the way of change fraud-check",
        "a side effect gave 7",
        "goes on as a new run of w with 2",
        "failed: OutOfStock: none left, begun again in 2 s as a new run",
        "timed out",
    ]
    assert "secret" not in "".join(told)


def test_an_attempt_that_workers_check_out_in_words() -> None:
    assert lines(
        (0 * SECOND, activity("pay")),
        (0 * SECOND, events.ActivityStarted(ref=1, attempt=1, lease_seconds=15.0, worker="worker-1")),
        (9 * SECOND, events.ActivityReleased(ref=1, attempt=1)),
        (9 * SECOND, events.ActivityStarted(ref=1, attempt=1, lease_seconds=15.0)),
    )[1:] == [
        "pay attempt 1 taken up by worker-1",
        "pay attempt 1 given to workers again: who had it is silent",
        "pay attempt 1 taken up",
    ]


def test_every_kind_of_event_has_a_sentence() -> None:
    """A new event without one would show as its bare class name."""
    told = set(Teller.__dict__["_sentence"].dispatcher.registry)
    assert set(get_args(events.AnyEvent)) <= told


def test_every_kind_of_fact_has_a_sentence() -> None:
    """One that is only its type in other letters is made of a word that says it all."""
    types = {type for name, type in vars(LifecycleType).items() if name.isupper()}
    bare = {type for type in types if fact_text(type, fact()) == type.rpartition(".")[2].replace("_", " ")}
    assert {type.rpartition(".")[2] for type in bare} == {
        "cancelled",
        "terminated",
        "timed_out",
        "stalled",
        "held",
        "resumed",
    }


def fact(**fields: Any) -> Lifecycle:
    return Lifecycle(workflow_id="a", run=1, seq=1, at=T0, **fields)


def test_a_remark_has_no_event_number() -> None:
    remark = list(story([(1, T0, started()), (2, T0 + timedelta(days=1), events.Terminated())]))[1]
    assert remark == Line(None, T0 + timedelta(days=1), "resumed after 1 d")


def test_long_values_are_cut() -> None:
    assert shorten("x" * 80) == "x" * 80
    assert shorten("x" * 81) == "x" * 79 + "…"
    assert error_text(ErrorInfo(type="E", message="y" * 500)) == "E: " + "y" * 299 + "…"


def pending(*history: events.AnyEvent) -> list[str]:
    found = Pending()
    for seq, event in enumerate(history, 1):
        found.add(seq, T0, event)
    assert len(found) == len(list(found.lines()))
    return list(found.lines())


def activity(name: str) -> events.ActivityScheduled:
    return events.ActivityScheduled(name=name, queue="default")


def awaited(name: str) -> events.SignalAwaited:
    return events.SignalAwaited(name=name)


def received(name: str) -> events.SignalReceived:
    return events.SignalReceived(name=name, value=Raw(b"1"), signal_id="x")


def test_what_a_run_waits_for() -> None:
    error = ErrorInfo(type="ConnectionError", message="gone")
    assert pending(
        started(),
        activity("pay"),
        activity("mail"),
        activity("done"),
        events.TimerStarted(fire_at=T0 + SECOND),
        events.SignalAwaited(name="shipped", deadline=T0 + timedelta(days=7)),
        events.ActivityCompleted(ref=4, value=Raw(b"1")),
        events.ActivityFailed(ref=3, attempt=1, error=error, retry_at=T0 + SECOND),
        events.ActivityFailed(ref=2, attempt=1, error=error, retry_at=T0 + SECOND),
        events.ActivityRetried(ref=2, attempt=2),
    ) == [
        "pay, attempt 2, since 2026-11-21 14:02:00 UTC",
        "mail: attempt 1 failed (ConnectionError: gone), next at 2026-11-21 14:02:01 UTC",
        "the time 2026-11-21 14:02:01 UTC",
        "signal shipped until 2026-11-28 14:02:00 UTC",
    ]


def test_signals_meet_the_waits_for_them_in_order() -> None:
    assert pending(awaited("a"), awaited("b"), received("a")) == ["signal b"]
    assert pending(awaited("a"), awaited("a"), received("a")) == ["signal a"]
    assert pending(received("a"), awaited("b")) == ["signal b"]
    assert pending(activity("a"), received("a"))[0].startswith("a, attempt 1")
    assert pending(awaited("a"), awaited("a"), received("a"), events.WaitCancelled(ref=1)) == []
    assert pending(awaited("a"), events.WaitCancelled(ref=1), received("a")) == []


def test_a_wait_that_finds_a_signal_is_not_recorded_so_one_that_is_waits() -> None:
    assert pending(received("a"), awaited("a")) == ["signal a"]
    assert pending(awaited("a"), events.WaitCancelled(ref=1), received("a"), awaited("a")) == ["signal a"]


def test_a_wait_outlives_a_signal_that_is_put_aside() -> None:
    aside = events.SignalUnreadable(name="a", signal_id="x", reason="no")
    assert pending(awaited("a"), awaited("b"), received("a"), aside) == ["signal a", "signal b"]
    assert pending(awaited("a"), received("a"), activity("x"), aside)[0].startswith("x, attempt 1")


def test_what_a_run_waits_for_from_others() -> None:
    error = ErrorInfo(type="E")
    began = events.Started(workflow="w", version=1, nonce="n", source="s", python="3", start_at=T0 + SECOND)
    assert pending(began) == ["its beginning at 2026-11-21 14:02:01 UTC"]
    waiting = (
        began,
        events.TimerFired(ref=1),
        activity("pay"),
        events.ActivityStarted(ref=3, attempt=1, lease_seconds=15.0, worker="worker-1"),
        events.ChildStarted(workflow="ship", workflow_id="ship-1"),
        events.CallbackCreated(token="t", url="u", deadline=T0 + timedelta(hours=1)),
        events.ConditionAwaited(what="ready (line 7)", deadline=T0 + SECOND),
        events.UpdateRequested(name="add", value=Raw(b"3"), update_id="u1"),
        events.SignalSent(workflow_id="b", name="go", value=Raw(b"1"), signal_id="x"),
        events.CancelSent(workflow_id="c"),
    )
    assert pending(*waiting) == [
        "pay, attempt 1, on worker-1 since 2026-11-21 14:02:00 UTC",
        "child ship-1 (ship), since 2026-11-21 14:02:00 UTC",
        "callback 6 until 2026-11-21 15:02:00 UTC",
        "a condition in ready (line 7) until 2026-11-21 14:02:01 UTC",
        "update add under way, since 2026-11-21 14:02:00 UTC",
        "signal go to reach b",
        "the request to cancel c",
    ]
    assert (
        pending(
            *waiting,
            events.ActivityCompleted(ref=3, value=Raw(b"1")),
            events.ChildFailed(ref=5, status="failed", error=error),
            events.CallbackFailed(ref=6, error=error, source="s"),
            events.ConditionMet(ref=7),
            events.UpdateFailed(ref=8, update_id="u1", error=error),
            events.RequestAnswered(ref=9),
            events.RequestAnswered(ref=10, error=error),
        )
        == []
    )
    released = events.ActivityReleased(ref=1, attempt=1)
    assert pending(activity("a"), released) == ["a, attempt 1, for another worker since 2026-11-21 14:02:00 UTC"]


def test_what_is_over_is_no_longer_waited_for() -> None:
    error = ErrorInfo(type="E")
    timer = events.TimerStarted(fire_at=T0)
    assert pending(activity("a"), events.ActivityFailed(ref=1, error=error)) == []
    assert pending(activity("a"), events.ActivityCancelled(ref=1)) == []
    assert pending(timer, events.TimerFired(ref=1)) == pending(timer, events.TimerCancelled(ref=1)) == []
    assert pending(awaited("a"), events.TimerFired(ref=1)) == []


@pytest.mark.parametrize(
    ("type", "fields", "text"),
    [
        (LifecycleType.STARTED, {"workflow": "fulfil_order"}, "fulfil_order started"),
        (LifecycleType.COMPLETED, {"result": Raw(b'"shipped"')}, 'completed with "shipped"'),
        (LifecycleType.COMPLETED, {}, "completed with null"),
        (LifecycleType.FAILED, {"error": ErrorInfo(type="E", message="m")}, "failed: E: m"),
        (LifecycleType.CANCELLED, {"reason": "customer asked"}, "cancelled: customer asked"),
        (LifecycleType.TERMINATED, {}, "terminated"),
        (LifecycleType.STATUS_CHANGED, {"status": "packing"}, "status: packing"),
        (
            LifecycleType.ACTIVITY_FAILED,
            {"activity": "pay", "attempt": 2, "error": ErrorInfo(type="E"), "retry_at": T0 + 2 * SECOND},
            "pay attempt 2 failed: E, next in 2 s",
        ),
        (
            LifecycleType.ACTIVITY_FAILED,
            {"activity": "pay", "attempt": 3, "error": ErrorInfo(type="E")},
            "pay attempt 3 failed: E, for good",
        ),
        (LifecycleType.STALLED, {"reason": "no code"}, "stalled: no code"),
        (LifecycleType.TIMED_OUT, {}, "timed out"),
        (LifecycleType.CONTINUED, {}, "goes on as a new run"),
        (LifecycleType.CONTINUED, {"error": ErrorInfo(type="E")}, "failed: E, begun again as a new run"),
        (LifecycleType.MILESTONE, {"status": "half-way"}, "milestone: half-way"),
        (LifecycleType.SIGNAL_UNREADABLE, {"name": "go", "reason": "no"}, "signal go put aside: no"),
        (LifecycleType.UPDATE_COMPLETED, {"submission_id": "u1", "result": Raw(b"4")}, "update u1 answered with 4"),
        (LifecycleType.UPDATE_FAILED, {"error": ErrorInfo(type="E")}, "update failed: E"),
        (LifecycleType.CALLBACK_FAILED, {"error": ErrorInfo(type="E")}, "callback failed: E"),
        (LifecycleType.SUBMISSION_REJECTED, {"reason": "duplicate"}, "submission rejected: duplicate"),
    ],
)
def test_facts_in_words(type: str, fields: dict[str, Any], text: str) -> None:
    assert fact_text(type, fact(**fields)) == text
