"""A record of every message, made by the code of the services that sends it; named as in the AsyncAPI document."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec
from msgspec import Raw

from everstep._core.messages import messages_of
from everstep._core.model import HistoryRow, Identity
from everstep_orchestrator.pipeline.drafting import Entry
from everstep_orchestrator.pipeline.incoming import Dead
from everstep_orchestrator.pipeline.notices import Notices
from everstep_orchestrator.store import RunRow
from everstep_schemas import events, names, wire
from everstep_schemas.errors import ErrorInfo
from everstep_schemas.names import Topics
from everstep_schemas.wire import LifecycleType as Type
from everstep_schemas.wire import Outgoing
from everstep_worker.answers import Answers, dead_letter

TOPICS = Topics()
NOW = 1_769_903_999_123_456
AT = datetime(2026, 1, 31, 23, 59, 59, 123456, tzinfo=UTC)
TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
IDENTITY = Identity(names.run_key(3, 7), "order-17", 1, "fulfil_order", 1, "8c5a1e")
PARENT = events.Parent(
    workflow_id="order-17", run=1, seq=5, token=str(names.Token(3, names.run_key(3, 7), 5, 0, "8c5a1e"))
)
CHILD = Identity(names.run_key(2, 8), "parcel-17", 1, "ship", 1, "77aa01", PARENT)
SCHEDULED = events.ActivityScheduled(name="process_payment", queue="payments", args=Raw(b"[17]"), timeout_seconds=30.0)
ERROR = ErrorInfo(type="CardDeclined", message="no credit", retryable=False)


@dataclass(frozen=True)
class Record:
    topic: str
    value: bytes | None = b"not JSON"
    partition: int = 3
    offset: int = 42
    key: bytes | None = b"order-17"
    timestamp: int = 0
    headers: Sequence[tuple[str, bytes]] = (("traceparent", TRACEPARENT.encode()),)


def of(event: events.AnyEvent) -> Outgoing:
    """What the event, number 9 of its run, causes."""
    row = HistoryRow(9, NOW, events.encode_events([event]))
    message, *_ = messages_of(IDENTITY, TOPICS, [row], lambda _: SCHEDULED)
    return message


def to_parent(event: events.AnyEvent) -> Outgoing:
    """What a child's end, number 9 of its run, says to its parent."""
    row = HistoryRow(9, NOW, events.encode_events([event]))
    return messages_of(CHILD, TOPICS, [row], lambda _: SCHEDULED)[-1]


STARTED = events.Started(
    workflow="fulfil_order", version=1, nonce="8c5a1e", source="checkout-17", python="3.11.7", traceparent=TRACEPARENT
)
RUN = Entry(
    RunRow(
        run_key=IDENTITY.run_key,
        workflow_id="order-17",
        run=1,
        workflow="fulfil_order",
        version=1,
        nonce="8c5a1e",
        source="checkout-17",
        status="running",
        condition=None,
        reason=None,
        custom_status=None,
        started_at=NOW,
        closed_at=None,
        next_wakeup_at=None,
    )
)
REQUEST = wire.Cancel(workflow_id="order-17")

_command = of(SCHEDULED)
_received = wire.command_decoder.decode(_command.value)
HEARTBEAT = wire.Heartbeat(token=_received.token, details=Raw(b'{"frame":7}'))
_answers = Answers("worker-1", max_payload_bytes=1000)
_notices = Notices(TOPICS, 3)
_forwarded = wire.Forwarded(
    workflow_id="order-17",
    source="everstep.submissions/0/42",
    submission=Raw(wire.encoder.encode(REQUEST)),
    traceparent=TRACEPARENT,
)

SENT: dict[str, Outgoing] = {
    "activity_command": _command,
    "activity_command, again": of(events.ActivityRetried(ref=2, attempt=2)),
    "activity_command, given again": of(events.ActivityReleased(ref=2, attempt=2, details=Raw(b'{"frame":7}'))),
    "control": of(events.ActivityCancelled(ref=2)),
    "activity_started": _answers.started(_received, 15.0, TRACEPARENT),
    "activity_started, still": _answers.started(_received, 15.0, again=True),
    "activities_renewed": _answers.renewed(_received.reply_to, "worker-1/1", [_received.token], [HEARTBEAT]),
    "activity_completed": _answers.completed(_received, b'{"paid":true}', TRACEPARENT),
    "activity_completed, untraced": _answers.completed(_received, b"null"),
    "activity_failed": _answers.failed(_received, ERROR, TRACEPARENT),
    "forwarded": _notices.forwarded(3, _forwarded),
    "forwarded, a signal of a run": of(
        events.SignalSent(workflow_id="parcel-17", name="go", value=Raw(b"7"), signal_id="s1")
    ),
    "forwarded, a cancellation of a run": of(events.CancelSent(workflow_id="parcel-17")),
    "child_start": of(events.ChildStarted(workflow="ship", workflow_id="parcel-17", args=Raw(b"[17]"))),
    "child_end": of(events.ChildCancelled(ref=5, workflow_id="parcel-17", how="cancel")),
    "child_end, terminating": of(events.ChildCancelled(ref=5, workflow_id="parcel-17", how="terminate")),
    "child_completed": to_parent(events.Completed(value=Raw(b'"shipped"'))),
    "child_failed": to_parent(events.Failed(error=ERROR)),
    "child_failed, timed out": to_parent(events.TimedOut()),
    "child_failed, never started": _notices.child_refused(PARENT, ERROR),
    "request_answered": _notices.answered(PARENT, None),
    "request_answered, with an error": _notices.answered(PARENT, ERROR),
    Type.STARTED: of(STARTED),
    f"{Type.STARTED}, an answer": _notices.existing(RUN, "checkout-17"),
    Type.COMPLETED: of(events.Completed(value=Raw(b'"shipped"'))),
    Type.FAILED: of(events.Failed(error=ERROR)),
    Type.CANCELLED: of(events.Cancelled(reason="customer asked")),
    f"{Type.CANCELLED}, without a reason": of(events.Cancelled()),
    Type.TERMINATED: of(events.Terminated(reason="stuck")),
    f"{Type.STARTED}, a child": of(msgspec.structs.replace(STARTED, parent=PARENT)),
    f"{Type.COMPLETED}, with unread signals": of(events.Completed(value=Raw(b"null"), unread={"NoteAdded": 2})),
    Type.TIMED_OUT: of(events.TimedOut()),
    Type.CONTINUED: of(events.Continued(workflow="fulfil_order")),
    f"{Type.CONTINUED}, after a failure": of(events.Continued(workflow="fulfil_order", error=ERROR, retry_at=AT)),
    Type.MILESTONE: of(events.MilestoneReached(text="reminded")),
    Type.SIGNAL_UNREADABLE: of(events.SignalUnreadable(name="go", signal_id="s1", reason="Expected `int`")),
    Type.UPDATE_COMPLETED: of(events.UpdateCompleted(ref=7, update_id="u-1", value=Raw(b"true"))),
    f"{Type.UPDATE_COMPLETED}, again": _notices.answered_before(
        RUN, 8, events.UpdateCompleted(ref=7, update_id="u-1", value=Raw(b"true")), NOW
    ),
    Type.UPDATE_FAILED: of(events.UpdateFailed(ref=7, update_id="u-1", error=ERROR)),
    Type.CALLBACK_COMPLETED: of(events.CallbackCompleted(ref=4, value=Raw(b"1"), source="ticket-4711")),
    Type.CALLBACK_FAILED: of(events.CallbackFailed(ref=4, error=ERROR, source="ticket-4711")),
    Type.STALLED: _notices.stalled(RUN, 4, "no code", NOW),
    Type.HELD: _notices.held(RUN, 4, NOW),
    Type.RESUMED: _notices.resumed(RUN, 4, NOW),
    Type.STATUS_CHANGED: of(events.StatusSet(text="waiting")),
    Type.ACTIVITY_FAILED: of(events.ActivityFailed(ref=2, error=ERROR)),
    f"{Type.ACTIVITY_FAILED}, retried": of(events.ActivityFailed(ref=2, error=ERROR, retry_at=AT)),
    Type.SUBMISSION_REJECTED: _notices.rejected("order-17", "s2", "no run has the id 'order-17'", NOW),
    "dead_letter": _notices.dead(Record(TOPICS.submissions), Dead("not_json", "JSON is malformed")),
    "dead_letter, a command": dead_letter(TOPICS.dlq, Record(TOPICS.activities("q")), "not_json", "JSON is malformed"),
    "dead_letter, unpublishable": _notices.unpublishable(_command, "the record is too large"),
}

HEADERS = {name: message.headers for name, message in SENT.items()}
