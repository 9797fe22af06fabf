"""A history as a person reads it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, get_args

import pytest
from msgspec import Raw

from everstep.words import Line, Pending, Teller, error_text, fact_text, shorten, span, story
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


def test_every_kind_of_event_has_a_sentence() -> None:
    """A new event without one would show as its bare class name."""
    told = set(Teller.__dict__["_sentence"].dispatcher.registry)
    assert set(get_args(events.AnyEvent)) <= told


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
    assert pending(received("a"), awaited("a"), awaited("a")) == ["signal a"]
    assert pending(received("a"), awaited("b")) == ["signal b"]
    assert pending(activity("a"), received("a"))[0].startswith("a, attempt 1")
    assert pending(awaited("a"), awaited("a"), received("a"), events.WaitCancelled(ref=1)) == []
    assert pending(awaited("a"), events.WaitCancelled(ref=1), received("a"), awaited("a")) == []


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
        (LifecycleType.SUBMISSION_REJECTED, {"reason": "duplicate"}, "submission rejected: duplicate"),
    ],
)
def test_facts_in_words(type: str, fields: dict[str, Any], text: str) -> None:
    assert fact_text(type, Lifecycle(workflow_id="a", run=1, seq=1, at=T0, **fields)) == text


TALE: list[events.AnyEvent] = [
    started(),
    events.ChildStarted(workflow="load_table", workflow_id="load-a", args=Raw(b'["a"]')),
    events.CallbackCreated(token="t", url="u", deadline=T0 + timedelta(days=3)),
    events.ConditionAwaited(what="fulfil_order (line 7)"),
    events.SignalSent(workflow_id="order-18", name="go", value=Raw(b"1"), signal_id=""),
    events.CancelSent(workflow_id="order-19", reason="why not"),
    events.ActivityScheduled(name="transcode", queue="default"),
    events.ActivityStarted(ref=7, attempt=1, lease_seconds=15, worker="w-1"),
    events.ActivityReleased(ref=7, attempt=1),
    events.AttributesSet(values={"region": "eu"}),
    events.MilestoneReached(text="half way"),
    events.PatchMarked(id="fraud-check"),
    events.SideEffectRecorded(value=Raw(b"3")),
    events.SignalUnreadable(name="go", signal_id="x", reason="Expected `int`"),
    events.UpdateRequested(name="change_plan", value=Raw(b'"pro"'), update_id="u"),
]


def test_what_runs_say_to_each_other_and_answer_in_words() -> None:
    told = lines(*((0 * SECOND, event) for event in TALE))
    assert told[1:] == [
        'load_table started as load-a with "a"',
        "callback created, until 2026-11-24 14:02:00 UTC",
        "waiting for fulfil_order (line 7)",
        "signal go sent to order-18: 1",
        "order-19 asked to end: why not",
        "transcode called with nothing",
        "transcode attempt 1 taken up by w-1",
        "transcode attempt 1 given to workers again: the one that had it is silent",
        "attributes: region = 'eu'",
        "milestone: half way",
        "takes the way of patch fraud-check",
        "a side effect gave 3",
        "signal go put aside: Expected `int`",
        'update change_plan requested: "pro"',
    ]


def test_how_what_was_begun_ends_in_words() -> None:
    problem = ErrorInfo(type="RunNotFound", message="no run has the id 'order-18'")
    endings: list[events.AnyEvent] = [
        events.ChildCompleted(ref=2, value=Raw(b"7")),
        events.ChildFailed(ref=2, status="timed_out"),
        events.ChildCancelled(ref=2, workflow_id="load-a", how="abandon"),
        events.CallbackCompleted(ref=3, value=Raw(b'"keep"'), source="s"),
        events.CallbackFailed(ref=3, error=problem, source="s"),
        events.ConditionMet(ref=4),
        events.RequestAnswered(ref=5, error=problem),
        events.RequestAnswered(ref=6),
        events.UpdateCompleted(ref=15, update_id="u", value=Raw(b"1")),
        events.UpdateFailed(ref=15, update_id="u", error=problem),
        events.Continued(workflow="fulfil_order", args=Raw(b"[1]")),
        events.Continued(workflow="fulfil_order", error=problem, retry_at=T0 + SECOND),
        events.TimedOut(),
    ]
    assert lines(*((0 * SECOND, event) for event in [*TALE, *endings]))[len(TALE) :] == [
        "child load-a returned 7",
        "child load-a timed out",
        "child load-a: no longer needed, left alone",
        'the callback completed with "keep"',
        "the callback failed: RunNotFound: no run has the id 'order-18'",
        "waiting for fulfil_order (line 7): it is true",
        "signal go to order-18: RunNotFound: no run has the id 'order-18'",
        "the request to order-19: it has arrived",
        "update change_plan answered with 1",
        "update change_plan failed: RunNotFound: no run has the id 'order-18'",
        "goes on as a new run of fulfil_order with 1",
        "failed: RunNotFound: no run has the id 'order-18', again in 1 s",
        "the run has reached its timeout",
    ]


def waited_for(*history: events.AnyEvent) -> list[str]:
    pending = Pending()
    for seq, event in enumerate(history, 1):
        pending.add(seq, T0, event)
    return list(pending.lines())


def test_children_callbacks_conditions_and_requests_are_waited_for_until_they_end() -> None:
    assert waited_for(*TALE) == [
        "child run load-a of load_table, since 2026-11-21 14:02:00 UTC",
        "callback 3 until 2026-11-24 14:02:00 UTC",
        "a condition in fulfil_order (line 7)",
        "signal go to reach order-18",
        "order-19 to hear that it is to end",
        "transcode, attempt 1, since 2026-11-21 14:02:00 UTC",
    ]
    ended: list[events.AnyEvent] = [
        events.ChildFailed(ref=2, status="failed"),
        events.TimerFired(ref=3),
        events.WaitCancelled(ref=4),
        events.RequestAnswered(ref=5),
        events.WaitCancelled(ref=6),
        events.ActivityCompleted(ref=7, value=Raw(b"1")),
    ]
    assert waited_for(*TALE, *ended) == []


def test_a_run_that_begins_later_waits_for_that() -> None:
    late = events.Started(
        workflow="w", version=1, nonce="n", source="s", python="3.11", start_at=T0 + timedelta(days=1)
    )
    assert waited_for(late) == ["its beginning at 2026-11-22 14:02:00 UTC"]
    assert waited_for(late, events.TimerFired(ref=1)) == []
