"""One or more examples of everything that is stored or sent, and their bytes as the version that added them wrote them.

A line of `golden/*.jsonl` is `{"name": …, "body": <the exact bytes>}`. Lines are only ever added: what was written once
has to be read for ever, and a released reader has to understand what is written today. For a new example run
`python -m tests.schemas.examples`, which appends what is not recorded yet and changes nothing else.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Raw
from tests.schemas.sent import HEADERS

from everstep._core.model import StallReason
from everstep_orchestrator.store.commit import Statements, outbox_row
from everstep_orchestrator.store.rows import OutboxRow, ShardCommit
from everstep_schemas import events, wire
from everstep_schemas.errors import ErrorInfo
from everstep_schemas.wire import LifecycleType as Type

DIRECTORY = Path(__file__).parent / "golden"


@dataclass(frozen=True, slots=True)
class Group:
    """Examples that are written and read by the same code."""

    encode: Callable[[Any], bytes]
    decode: Callable[[bytes], Any]
    examples: Mapping[str, Any]


class Line(msgspec.Struct):
    name: str
    body: Raw


AT = datetime(2026, 1, 31, 23, 59, 59, 123456, tzinfo=UTC)
WHOLE_SECOND = datetime(2026, 2, 1, tzinfo=UTC)
TOKEN = "3.3000000000007.2.1.8c5a1e"
TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
ORDER = Raw(b'[{"order_id":"17","sku":"A","quantity":1}]')
# Payloads pass through undecoded: spaces, number forms and escapes stay as their writer chose them.
ODD = Raw(b'{"b" : 1.0, "a":[1E+2,12345678901234567890], "nul":"\\u0000","text":"\\u00e9\xc3\xa9"}')
KWARGS = Raw(b'{"gift":true}')
DECLINED = ErrorInfo(
    type="CardDeclined",
    message='no "credit" – none',
    traceback='Traceback (most recent call last):\n  File "shop.py", line 7\n',
    cause=ErrorInfo(type="builtins.OSError", message="down", retry_after_seconds=2.5),
    retryable=False,
    fields=Raw(b'["no credit"]'),
)
PLAIN_ERROR = ErrorInfo(type="ValueError")
CALLBACK = "3.3000000000007.4.0.5f0c2f7f0b3d4ad0a8f1d0f3c1f0b7aa"
IDS: dict[str, Any] = {"workflow_id": "order-17", "run": 1, "seq": 2, "attempt": 1, "token": TOKEN}

PARENT = events.Parent(workflow_id="order-17", run=1, seq=5, token="3.3000000000007.5.0.8c5a1e")
DEEP_PARENT = events.Parent(workflow_id="order-17", run=1, seq=5, token="3.3000000000007.5.0.8c5a1e", depth=3)
CHILD_IDS: dict[str, Any] = {"workflow_id": "order-17", "run": 1, "seq": 5, "token": PARENT.token}

SUBMISSIONS: dict[str, wire.AnySubmission] = {
    "start": wire.Start(workflow_id="order-17", workflow="fulfil_order", args=ORDER),
    "start, least": wire.Start(workflow_id="order-17", workflow="fulfil_order"),
    "start, all": wire.Start(
        workflow_id="Bestellung/17 ß 🎁",
        workflow="fulfil_order",
        args=Raw(b"[" + bytes(ODD) + b"]"),
        kwargs=KWARGS,
        version=2,
        on_duplicate="return_existing",
        submission_id="checkout-17",
    ),
    "start, everything": wire.Start(
        workflow_id="order-17",
        workflow="fulfil_order",
        args=ORDER,
        submission_id="checkout-17",
        attributes={"customer": "C-9", "express": True, "parcels": 2, "weight": 1.5, "tags": ["gift", "heavy"]},
        memo={"campaign": Raw(b'{"name":"spring"}')},
        start_at=WHOLE_SECOND,
        timeout_seconds=86400.0,
        with_signal=wire.FirstSignal(name="NoteAdded", value=Raw(b'"leave it at the door"'), signal_id="note-1"),
    ),
    "start, with a signal": wire.Start(
        workflow_id="order-17", workflow="fulfil_order", with_signal=wire.FirstSignal(name="NoteAdded")
    ),
    "start, terminating": wire.Start(workflow_id="a", workflow="w", on_duplicate="terminate_existing"),
    "start, allowing closed": wire.Start(workflow_id="a", workflow="w", on_duplicate="allow_closed"),
    "signal": wire.Signal(
        workflow_id="order-17", name="ShippingConfirmed", value=Raw(b'{"carrier":"DHL"}'), signal_id="parcel-4711"
    ),
    "signal, least": wire.Signal(workflow_id="order-17", name="ShippingConfirmed"),
    "update": wire.Update(
        workflow_id="order-17", name="change_address", value=Raw(b'{"city":"Bremen"}'), update_id="u-1"
    ),
    "update, least": wire.Update(workflow_id="order-17", name="change_address"),
    "complete_callback": wire.CompleteCallback(token=CALLBACK, value=Raw(b'"keep"'), submission_id="ticket-4711"),
    "complete_callback, least": wire.CompleteCallback(token=CALLBACK),
    "fail_callback": wire.FailCallback(
        token=CALLBACK,
        error=wire.CallbackProblem(message="nobody is in the office", type="OfficeClosed"),
        submission_id="ticket-4711",
    ),
    "fail_callback, least": wire.FailCallback(token=CALLBACK, error=wire.CallbackProblem(message="no")),
    "heartbeat_callback": wire.HeartbeatCallback(token=CALLBACK, details=Raw(b'{"read":3}')),
    "heartbeat_callback, least": wire.HeartbeatCallback(token=CALLBACK),
    "cancel": wire.Cancel(workflow_id="order-17", reason="customer asked"),
    "cancel, least": wire.Cancel(workflow_id="order-17"),
    "terminate": wire.Terminate(workflow_id="order-17", reason="stuck"),
    "terminate, least": wire.Terminate(workflow_id="order-17"),
}

INBOX: dict[str, wire.InboxMessage] = {
    "activity_completed": wire.ActivityCompleted(**IDS, value=Raw(b'{"payment_id":"p-1"}'), worker="worker-1"),
    "activity_completed, least": wire.ActivityCompleted(**IDS),
    "activity_completed, odd value": wire.ActivityCompleted(**IDS, value=ODD),
    "activity_failed": wire.ActivityFailed(**IDS, error=DECLINED, worker="worker-1"),
    "activity_failed, declared": wire.ActivityFailed(
        **IDS,
        error=ErrorInfo(type="CardDeclined", message="no credit", retryable=False, fields=Raw(b'["no credit"]')),
        worker="worker-1",
    ),
    "activity_failed, least": wire.ActivityFailed(**IDS, error=PLAIN_ERROR),
    "activity_failed, with progress": wire.ActivityFailed(**IDS, error=PLAIN_ERROR, details=Raw(b'{"frame":7}')),
    "activity_started": wire.ActivityStarted(**IDS, lease_seconds=15.0, worker="worker-1"),
    "activity_started, least": wire.ActivityStarted(**IDS, lease_seconds=15.0),
    "activity_started, again": wire.ActivityStarted(**IDS, lease_seconds=15.0, again=True),
    "activities_renewed": wire.ActivitiesRenewed(
        tokens=(TOKEN, "3.3000000000008.2.1.77aa01"),
        heartbeats=(wire.Heartbeat(token=TOKEN, details=Raw(b'{"frame":7}')),),
        worker="worker-1",
    ),
    "activities_renewed, least": wire.ActivitiesRenewed(tokens=(TOKEN,), heartbeats=(wire.Heartbeat(token=TOKEN),)),
    "activities_renewed, given back": wire.ActivitiesRenewed(
        tokens=(), heartbeats=(wire.Heartbeat(token=TOKEN),), worker="worker-1", released=(TOKEN,)
    ),
    "child_start": wire.ChildStart(
        workflow_id="parcel-17",
        parent=DEEP_PARENT,
        workflow="ship",
        args=ORDER,
        kwargs=KWARGS,
        version=2,
        timeout_seconds=3600.0,
    ),
    "child_start, least": wire.ChildStart(workflow_id="parcel-17", parent=PARENT, workflow="ship"),
    "child_end": wire.ChildEnd(workflow_id="parcel-17", token=PARENT.token, how="cancel", reason="not wanted"),
    "child_end, terminating": wire.ChildEnd(workflow_id="parcel-17", token=PARENT.token, how="terminate"),
    "child_completed": wire.ChildCompleted(**CHILD_IDS, value=ODD, child_run=2),
    "child_completed, least": wire.ChildCompleted(**CHILD_IDS),
    "child_failed": wire.ChildFailed(**CHILD_IDS, status="failed", error=DECLINED, child_run=1),
    "child_failed, cancelled": wire.ChildFailed(**CHILD_IDS, status="cancelled", reason="customer asked", child_run=1),
    "child_failed, never started": wire.ChildFailed(**CHILD_IDS, status="rejected", error=PLAIN_ERROR),
    "request_answered": wire.RequestAnswered(**CHILD_IDS, error=PLAIN_ERROR),
    "request_answered, least": wire.RequestAnswered(**CHILD_IDS),
    "forwarded, of a run": wire.Forwarded(
        workflow_id="parcel-17",
        source=PARENT.token,
        submission=Raw(b'{"workflow_id":"parcel-17","kind":"cancel"}'),
        reply_to=PARENT,
    ),
    "forwarded, of a callback": wire.Forwarded(
        workflow_id=CALLBACK, source="s1", submission=Raw(b'{"kind":"heartbeat_callback","token":"t"}')
    ),
    "forwarded": wire.Forwarded(
        workflow_id="order-17",
        source="everstep.submissions/0/42",
        submission=Raw(b'{"workflow_id":"order-17", "kind":"cancel"}'),
        traceparent=TRACEPARENT,
    ),
    "forwarded, least": wire.Forwarded(
        workflow_id="order-17",
        source="s1",
        submission=Raw(b'{"kind":"start","workflow_id":"order-17","workflow":"w"}'),
    ),
}

COMMAND: dict[str, Any] = {
    **IDS,
    "activity": "process_payment",
    "idempotency_key": "order-17/1/2",
    "reply_to": wire.ReplyTo("everstep.inbox", 3),
}
COMMANDS = {
    "activity_command": wire.ActivityCommand(**COMMAND, workflow="fulfil_order", args=ORDER, timeout_seconds=30.0),
    "activity_command, least": wire.ActivityCommand(**COMMAND),
    "activity_command, all": wire.ActivityCommand(
        **COMMAND, workflow="fulfil_order", args=ORDER, kwargs=KWARGS, timeout_seconds=0.25, deadline=AT
    ),
    "activity_command, long": wire.ActivityCommand(
        **COMMAND,
        timeout_seconds=21600.0,
        start_by=WHOLE_SECOND,
        heartbeat_timeout_seconds=30.0,
        heartbeat=Raw(b'{"frame":7}'),
    ),
    "activity_command, suspect": wire.ActivityCommand(**COMMAND, suspect=True),
}

CONTROL = {
    "cancel": wire.Control(kind="cancel", token=TOKEN),
    "drop": wire.Control(kind="drop", token=TOKEN),
}

RUN: dict[str, Any] = {"workflow_id": "order-17", "run": 1, "at": AT, "workflow": "fulfil_order", "version": 1}
LIFECYCLE = {
    Type.STARTED: wire.Lifecycle(**RUN, seq=1, submission_id="checkout-17"),
    f"{Type.STARTED}, an answer": wire.Lifecycle(**RUN, seq=1, submission_id="checkout-18", status="completed"),
    f"{Type.STARTED}, without code": wire.Lifecycle(
        workflow_id="order-17", run=1, at=WHOLE_SECOND, workflow="fulfil_order", seq=1, submission_id="s1"
    ),
    Type.COMPLETED: wire.Lifecycle(**RUN, seq=9, result=Raw(b'"shipped"')),
    f"{Type.COMPLETED}, with null": wire.Lifecycle(**RUN, seq=9, result=Raw(b"null")),
    Type.FAILED: wire.Lifecycle(**RUN, seq=9, error=DECLINED),
    Type.CANCELLED: wire.Lifecycle(**RUN, seq=9, reason="customer asked"),
    Type.TERMINATED: wire.Lifecycle(**RUN, seq=9, reason=""),
    f"{Type.STARTED}, a child": wire.Lifecycle(**RUN, seq=1, submission_id=PARENT.token, parent=PARENT),
    f"{Type.COMPLETED}, with unread signals": wire.Lifecycle(
        **RUN, seq=9, result=Raw(b'"shipped"'), unread={"NoteAdded": 2}
    ),
    Type.TIMED_OUT: wire.Lifecycle(**RUN, seq=9),
    Type.CONTINUED: wire.Lifecycle(**RUN, seq=9),
    f"{Type.CONTINUED}, after a failure": wire.Lifecycle(**RUN, seq=9, error=PLAIN_ERROR, retry_at=AT),
    Type.MILESTONE: wire.Lifecycle(**RUN, seq=5, status="reminded the approver"),
    Type.SIGNAL_UNREADABLE: wire.Lifecycle(
        **RUN, seq=5, name="ShippingConfirmed", reason="Expected `object`, got `str` - at `$`"
    ),
    Type.UPDATE_COMPLETED: wire.Lifecycle(**RUN, seq=8, submission_id="u-1", result=Raw(b"true")),
    Type.UPDATE_FAILED: wire.Lifecycle(**RUN, seq=8, submission_id="u-1", error=PLAIN_ERROR),
    Type.CALLBACK_COMPLETED: wire.Lifecycle(**RUN, seq=8, submission_id="ticket-4711"),
    Type.CALLBACK_FAILED: wire.Lifecycle(**RUN, seq=8, submission_id="ticket-4711", error=PLAIN_ERROR),
    Type.STALLED: wire.Lifecycle(**RUN, seq=4, submission_id="s1", reason="the code does something else"),
    Type.HELD: wire.Lifecycle(**RUN, seq=0, submission_id="s1"),
    Type.RESUMED: wire.Lifecycle(**RUN, seq=4, submission_id="s1"),
    Type.STATUS_CHANGED: wire.Lifecycle(**RUN, seq=5, status="waiting on shipping confirmation"),
    Type.ACTIVITY_FAILED: wire.Lifecycle(
        **RUN, seq=3, error=PLAIN_ERROR, activity="process_payment", attempt=2, retry_at=WHOLE_SECOND
    ),
    f"{Type.ACTIVITY_FAILED}, for good": wire.Lifecycle(
        **RUN, seq=3, error=DECLINED, activity="process_payment", attempt=3
    ),
    Type.SUBMISSION_REJECTED: wire.Lifecycle(
        workflow_id="order-17", run=0, seq=0, at=AT, submission_id="s2", reason="run 1 of 'order-17' exists (running)"
    ),
}

STARTED = events.Started(
    workflow="fulfil_order",
    version=2,
    nonce="8c5a1e",
    source="checkout-17",
    python="3.11.7",
    args=ORDER,
    kwargs=KWARGS,
    flags=(1, 2),
    traceparent=TRACEPARENT,
)
INPUTS: dict[str, events.InputEvent] = {
    "started": STARTED,
    "started, least": events.Started(workflow="w", version=1, nonce="n", source="s", python="3.14.0"),
    "started, a child": events.Started(
        workflow="ship",
        version=1,
        nonce="n",
        source=PARENT.token,
        python="3.11.7",
        parent=PARENT,
        attributes={"customer": "C-9", "express": True},
        memo={"campaign": Raw(b'"spring"')},
        start_at=AT,
        timeout_seconds=60.0,
        expires_at=WHOLE_SECOND,
        retry=events.RetryPolicy(max_attempts=3),
        attempt=2,
    ),
    "started, going on": events.Started(
        workflow="ship",
        version=1,
        nonce="n",
        source="3.3000000000007.9.0.8c5a1e",
        python="3.11.7",
        inherited=events.Inheritance(
            unread=(events.Unread(name="NoteAdded", value=Raw(b'"x"'), signal_id="s1"),),
            signal_ids=("s0", "s1"),
            update_ids=("u-1",),
        ),
    ),
    "activity_started": events.ActivityStarted(ref=2, attempt=2, lease_seconds=15.0, worker="worker-1"),
    "activity_started, least": events.ActivityStarted(ref=2, attempt=1, lease_seconds=15.0),
    "activity_started, again": events.ActivityStarted(ref=2, attempt=1, lease_seconds=15.0, again=True),
    "activity_released, given back": events.ActivityReleased(ref=2, attempt=1, given_back=True),
    "activity_released": events.ActivityReleased(ref=2, attempt=2, details=Raw(b'{"frame":7}')),
    "activity_released, least": events.ActivityReleased(ref=2, attempt=1),
    "activity_failed, in time": events.ActivityFailed(
        ref=2, error=PLAIN_ERROR, retry_at=AT, details=Raw(b'{"frame":7}'), unanswered=True
    ),
    "activity_retried, with progress": events.ActivityRetried(ref=2, attempt=2, details=Raw(b'{"frame":7}')),
    "timer_fired, for a heartbeat": events.TimerFired(ref=4, heartbeat=True),
    "child_completed": events.ChildCompleted(ref=5, value=ODD, run=2),
    "child_completed, least": events.ChildCompleted(ref=5, value=Raw(b"null")),
    "child_failed": events.ChildFailed(ref=5, status="failed", error=DECLINED, run=1),
    "child_failed, terminated": events.ChildFailed(ref=5, status="terminated", reason="stuck", run=1),
    "request_answered": events.RequestAnswered(ref=5, error=PLAIN_ERROR),
    "request_answered, least": events.RequestAnswered(ref=5),
    "callback_completed": events.CallbackCompleted(ref=4, value=Raw(b'"keep"'), source="ticket-4711"),
    "callback_failed": events.CallbackFailed(ref=4, error=PLAIN_ERROR, source="ticket-4711"),
    "update_requested": events.UpdateRequested(name="change_address", value=Raw(b"{}"), update_id="u-1"),
    "timed_out": events.TimedOut(),
    "activity_completed": events.ActivityCompleted(ref=2, value=ODD, attempt=3, worker="worker-1"),
    "activity_completed, least": events.ActivityCompleted(ref=2, value=Raw(b"null")),
    "activity_failed": events.ActivityFailed(ref=2, error=DECLINED, attempt=2, retry_at=AT, worker="worker-1"),
    "activity_failed, least": events.ActivityFailed(ref=2, error=PLAIN_ERROR),
    "activity_retried": events.ActivityRetried(ref=2, attempt=2),
    "timer_fired": events.TimerFired(ref=4),
    "signal_received": events.SignalReceived(name="ShippingConfirmed", value=Raw(b'{"carrier":"DHL"}'), signal_id="p"),
    "cancel_requested": events.CancelRequested(reason="customer asked"),
    "cancel_requested, least": events.CancelRequested(),
    "terminated": events.Terminated(reason="stuck"),
    "terminated, least": events.Terminated(),
}
COMMAND_EVENTS: dict[str, events.CommandEvent] = {
    "activity_scheduled": events.ActivityScheduled(
        name="process_payment",
        queue="payments",
        args=ORDER,
        kwargs=KWARGS,
        timeout_seconds=30.0,
        retry=events.RetryPolicy(
            max_attempts=3,
            initial_seconds=0.5,
            factor=1.5,
            maximum_seconds=10.0,
            jitter=0.0,
            give_up_on=("CardDeclined", "Lost"),
        ),
    ),
    "activity_scheduled, least": events.ActivityScheduled(name="check", queue="default"),
    "activity_scheduled, with limits": events.ActivityScheduled(
        name="transcode",
        queue="gpu",
        expires_at=AT,
        queue_timeout_seconds=5.0,
        heartbeat_timeout_seconds=30.0,
    ),
    "activity_scheduled, default retries": events.ActivityScheduled(
        name="check", queue="default", retry=events.RetryPolicy()
    ),
    "activity_cancelled": events.ActivityCancelled(ref=2, attempt=2),
    "activity_cancelled, least": events.ActivityCancelled(ref=2),
    "timer_started": events.TimerStarted(fire_at=AT),
    "timer_started, at a whole second": events.TimerStarted(fire_at=WHOLE_SECOND),
    "timer_cancelled": events.TimerCancelled(ref=4),
    "signal_awaited": events.SignalAwaited(name="ShippingConfirmed", deadline=AT),
    "signal_awaited, least": events.SignalAwaited(name="ShippingConfirmed"),
    "wait_cancelled": events.WaitCancelled(ref=5),
    "condition_awaited": events.ConditionAwaited(what="fulfil_order (line 41)", deadline=AT),
    "condition_awaited, least": events.ConditionAwaited(what="fulfil_order (line 41)"),
    "condition_met": events.ConditionMet(ref=5),
    "signal_unreadable": events.SignalUnreadable(name="go", signal_id="s1", reason="Expected `int`, got `str`"),
    "child_started": events.ChildStarted(
        workflow="ship",
        workflow_id="parcel-17",
        args=ORDER,
        kwargs=KWARGS,
        version=2,
        timeout_seconds=3600.0,
        on_parent_close="abandon",
    ),
    "child_started, least": events.ChildStarted(workflow="ship", workflow_id="parcel-17"),
    "child_cancelled": events.ChildCancelled(ref=5, workflow_id="parcel-17", how="terminate"),
    "child_cancelled, least": events.ChildCancelled(ref=5, workflow_id="parcel-17"),
    "signal_sent": events.SignalSent(workflow_id="parcel-17", name="go", value=Raw(b"7"), signal_id="s1"),
    "cancel_sent": events.CancelSent(workflow_id="parcel-17", reason="not wanted"),
    "cancel_sent, least": events.CancelSent(workflow_id="parcel-17"),
    "callback_created": events.CallbackCreated(
        token=CALLBACK,
        url=f"http://localhost:8080/api/v1/callbacks/{CALLBACK}",
        deadline=AT,
        heartbeat_timeout_seconds=43200.0,
    ),
    "callback_created, least": events.CallbackCreated(token="t", url="u"),
    "update_completed": events.UpdateCompleted(ref=7, update_id="u-1", value=Raw(b"true")),
    "update_failed": events.UpdateFailed(ref=7, update_id="u-1", error=PLAIN_ERROR),
    "milestone_reached": events.MilestoneReached(text="reminded the approver"),
    "attributes_set": events.AttributesSet(values={"approver": "ann", "old": None, "tags": ["a"]}),
    "patch_marked": events.PatchMarked(id="fraud-check-2026-11"),
    "side_effect_recorded": events.SideEffectRecorded(value=Raw(b'{"region":"eu"}')),
    "side_effect_recorded_failed": events.SideEffectRecorded(error=PLAIN_ERROR),
    "continued": events.Continued(workflow="subscription", args=ORDER, kwargs=KWARGS, version=2),
    "continued, after a failure": events.Continued(workflow="subscription", error=PLAIN_ERROR, retry_at=AT),
    "completed, with unread signals": events.Completed(value=Raw(b"null"), unread={"NoteAdded": 2}),
    "failed, with unread signals": events.Failed(error=PLAIN_ERROR, unread={"NoteAdded": 1}),
    "cancelled, with unread signals": events.Cancelled(unread={"NoteAdded": 1}),
    "status_set": events.StatusSet(text="waiting on\nshipping 📦"),
    "completed": events.Completed(value=ODD),
    "failed": events.Failed(error=DECLINED),
    "cancelled": events.Cancelled(reason="customer asked"),
    "cancelled, least": events.Cancelled(),
}

FIRST_ACTIVATION = (
    "activity_scheduled",
    "activity_scheduled, least",
    "activity_scheduled, default retries",
    "activity_cancelled",
    "activity_cancelled, least",
    "timer_started",
    "timer_started, at a whole second",
    "timer_cancelled",
    "signal_awaited",
    "signal_awaited, least",
    "wait_cancelled",
    "status_set",
    "completed",
    "failed",
    "cancelled",
    "cancelled, least",
)
HISTORY: dict[str, list[events.AnyEvent]] = {
    **{name: [event] for name, event in (INPUTS | COMMAND_EVENTS).items()},
    "an activation": [STARTED, *(COMMAND_EVENTS[name] for name in FIRST_ACTIVATION)],
}

PARKED = {
    "started": STARTED,
    **{
        name: INBOX[name]
        for name in (
            "activity_completed",
            "activity_failed",
            "activity_started",
            "child_completed",
            "child_failed",
            "request_answered",
        )
    },
    **{
        name: SUBMISSIONS[name]
        for name in ("signal", "cancel", "terminate", "update", "complete_callback", "fail_callback")
    },
}

OUTBOX = {
    "rows": OutboxRow(1, [(844424930131975, 1), (844424930131975, 12)], []),
    "bodies": OutboxRow(
        1,
        [],
        [
            wire.Outgoing(
                "everstep.lifecycle",
                wire.encoder.encode(LIFECYCLE[Type.SUBMISSION_REJECTED]),
                3,
                b"order-17",
                HEADERS[Type.SUBMISSION_REJECTED],
            ),
            wire.Outgoing("everstep.dlq", b"\x00\xff not JSON", headers=(("everstep_reason", b"not_json"), ("x", b""))),
        ],
    ),
}

STALLS = {
    "all": StallReason("nondeterminism", "the code does something else", "timer_started", "activity_scheduled", 4),
    "least": StallReason("crashed", "KeyError: 'sku'"),
}


def encode_outbox(row: OutboxRow) -> bytes:
    """The columns as the store fills them."""
    commit = ShardCommit(
        shard=3,
        epoch=1,
        commit_no=row.commit_no,
        submissions_position=0,
        inbox_position=0,
        last_number=0,
        published=0,
        refs=row.refs,
        bodies=row.bodies,
    )
    _, columns = Statements(defaultdict(str)).of([commit])
    [refs], [bodies] = columns[7:9]
    return b'{"refs":%b,"bodies":%b}' % (refs, bodies)


def decode_outbox(data: bytes) -> OutboxRow:
    columns = msgspec.json.decode(data, type=dict[str, Raw])
    return outbox_row(1, bytes(columns["refs"]), bytes(columns["bodies"]))


def encode_headers(headers: tuple[tuple[str, bytes], ...]) -> bytes:
    return msgspec.json.encode([(name, value.decode()) for name, value in headers])


def decode_headers(data: bytes) -> tuple[tuple[str, bytes], ...]:
    return tuple((name, value.encode()) for name, value in msgspec.json.decode(data, type=list[tuple[str, str]]))


_encode = wire.encoder.encode
GROUPS = {
    "submissions": Group(_encode, wire.submission_decoder.decode, SUBMISSIONS),
    "inbox": Group(_encode, wire.inbox_decoder.decode, INBOX),
    "commands": Group(_encode, wire.command_decoder.decode, COMMANDS),
    "control": Group(_encode, wire.control_decoder.decode, CONTROL),
    "lifecycle": Group(_encode, wire.lifecycle_decoder.decode, LIFECYCLE),
    "inputs": Group(events.encode_input, events.decode_input, INPUTS),
    "history": Group(events.encode_events, events.decode_events, HISTORY),
    "parked": Group(_encode, wire.parked_decoder.decode, PARKED),
    "outbox": Group(encode_outbox, decode_outbox, OUTBOX),
    "stalls": Group(msgspec.json.encode, msgspec.json.Decoder(StallReason).decode, STALLS),
    "headers": Group(encode_headers, decode_headers, HEADERS),
}


def recorded(group: str) -> dict[str, bytes]:
    """The golden bytes of a group, by the names of its examples."""
    lines = (DIRECTORY / f"{group}.jsonl").read_bytes().splitlines()
    return {line.name: bytes(line.body) for line in map(msgspec.json.Decoder(Line).decode, lines)}


def record() -> None:
    """Appends the examples that have no golden bytes yet."""
    for name, group in GROUPS.items():
        path = DIRECTORY / f"{name}.jsonl"
        path.touch()
        known = recorded(name)
        new = (Line(one, Raw(group.encode(value))) for one, value in group.examples.items() if one not in known)
        with path.open("ab") as file:
            file.writelines(msgspec.json.encode(line) + b"\n" for line in new)


if __name__ == "__main__":
    record()
