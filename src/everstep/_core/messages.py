"""The messages that a run's events cause, rebuilt from history alone.

What is published right after a commit and what a new owner publishes again come from the same function over the same
events, so a message has the same bytes and the same identity each time: the token of an attempt, or the position of a
fact in its run's history.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec
from msgspec import UNSET, Raw, UnsetType

from everstep._core.model import HistoryRow, Identity
from everstep._core.timers import after, instant
from everstep_schemas import cloudevents, events, names, wire
from everstep_schemas.events import AnyEvent, Event, decode_events, with_headroom
from everstep_schemas.names import Topics
from everstep_schemas.wire import LifecycleType, Outgoing

Lookup = Callable[[int], events.ActivityScheduled]
COMMAND_TYPE = "everstep.activity.command"
CONTROL_TYPE = "everstep.activity.cancel"

SHOWN_OF_NONCE = 16

_COMMAND_HEADERS = cloudevents.headers(COMMAND_TYPE, "")[:-1]
_CONTROL_HEADERS = cloudevents.headers(CONTROL_TYPE, "")[:-1]
_encode = wire.encoder.encode


class Sender:
    """Makes the messages of one run; what is the same in all of them is made once."""

    __slots__ = ("_identity", "_reply_to", "_token_end", "_token_start", "_topics", "out")

    def __init__(self, identity: Identity, topics: Topics) -> None:
        shard = identity.shard
        self._identity = identity
        self._topics = topics
        self._token_start = f"{shard:x}.{identity.run_key:x}."
        # Only half of the nonce is shown to workers; the rest stays between the run and its callbacks.
        self._token_end = f".{identity.nonce[:SHOWN_OF_NONCE]}"
        self._reply_to = wire.ReplyTo(topics.inbox, shard)
        self.out: list[Outgoing] = []

    def token(self, seq: int, attempt: int) -> str:
        """The text of `names.Token` for an attempt of this run's."""
        return f"{self._token_start}{seq:x}.{attempt:x}{self._token_end}"

    def messages(self, seq: int, at: int, happened: Iterable[AnyEvent], lookup: Lookup) -> list[Outgoing]:
        """What the events numbered from `seq` cause, in their order."""
        out: list[Outgoing] = []
        self.out = out
        for event in happened:
            make = _MAKERS.get(type(event))
            if make is not None:
                make(self, seq, at, event, lookup)
            seq += 1
        return out

    # ---- to workers

    def _scheduled(self, seq: int, at: int, event: events.ActivityScheduled, lookup: Lookup) -> None:
        self._command(seq, 1, event, at, UNSET)

    def _retried(self, seq: int, at: int, event: events.ActivityRetried, lookup: Lookup) -> None:
        self._command(event.ref, event.attempt, lookup(event.ref), at, event.details)

    def _released(self, seq: int, at: int, event: events.ActivityReleased, lookup: Lookup) -> None:
        suspect = not event.given_back
        self._command(event.ref, event.attempt, lookup(event.ref), at, event.details, suspect=suspect)

    def _command(
        self,
        seq: int,
        attempt: int,
        scheduled: events.ActivityScheduled,
        at: int,
        details: Raw | UnsetType,
        *,
        suspect: bool = False,
    ) -> None:
        run = self._identity
        token = self.token(seq, attempt)
        queue_seconds = scheduled.queue_timeout_seconds
        command = wire.ActivityCommand(
            workflow_id=run.workflow_id,
            run=run.run,
            seq=seq,
            attempt=attempt,
            token=token,
            activity=scheduled.name,
            idempotency_key=names.idempotency_key(run.workflow_id, run.run, seq),
            reply_to=self._reply_to,
            workflow=run.workflow,
            args=scheduled.args,
            kwargs=scheduled.kwargs,
            timeout_seconds=scheduled.timeout_seconds,
            deadline=scheduled.expires_at,
            start_by=None if queue_seconds is None else instant(after(at, queue_seconds)),
            heartbeat_timeout_seconds=scheduled.heartbeat_timeout_seconds,
            heartbeat=details,
            suspect=suspect,
        )
        headers = (*_COMMAND_HEADERS, ("ce_id", token.encode()))
        self.out.append(Outgoing(self._topics.activities(scheduled.queue), _encode(command), None, None, headers))

    def _cancelled(self, seq: int, at: int, event: events.ActivityCancelled, lookup: Lookup) -> None:
        self._call_off(event.ref, event.attempt)

    def _call_off(self, ref: int, attempt: int) -> None:
        token = self.token(ref, attempt)
        headers = (*_CONTROL_HEADERS, ("ce_id", token.encode()))
        value = _encode(wire.Control(kind="cancel", token=token))
        self.out.append(Outgoing(self._topics.control, value, None, None, headers))

    # ---- to other runs

    def _to_run(self, message: wire.Inbox, workflow_id: str, id: str, partition: int | None = None) -> None:
        """To the inbox of a run, in the partition of its id unless that is known."""
        headers = cloudevents.headers(wire.INBOX_TYPES[type(message)], id)
        self.out.append(Outgoing(self._topics.inbox, _encode(message), partition, workflow_id.encode(), headers))

    def _me(self, seq: int) -> events.Parent:
        """This run as one that waits, at event `seq`."""
        run = self._identity
        depth = 1 if run.parent is None else run.parent.depth + 1
        return events.Parent(workflow_id=run.workflow_id, run=run.run, seq=seq, token=self.token(seq, 0), depth=depth)

    def _child_started(self, seq: int, at: int, event: events.ChildStarted, lookup: Lookup) -> None:
        parent = self._me(seq)
        start = wire.ChildStart(
            workflow_id=event.workflow_id,
            parent=parent,
            workflow=event.workflow,
            args=event.args,
            kwargs=event.kwargs,
            version=event.version,
            timeout_seconds=event.timeout_seconds,
        )
        self._to_run(start, event.workflow_id, parent.token)

    def _child_cancelled(self, seq: int, at: int, event: events.ChildCancelled, lookup: Lookup) -> None:
        if event.how != "abandon":
            token = self.token(event.ref, 0)
            end = wire.ChildEnd(
                workflow_id=event.workflow_id, token=token, how=event.how, reason="its parent no longer waits for it"
            )
            self._to_run(end, event.workflow_id, f"{token}/{event.how}")

    def _signal_sent(self, seq: int, at: int, event: events.SignalSent, lookup: Lookup) -> None:
        signal_id = event.signal_id or self.token(seq, 0)
        signal = wire.Signal(workflow_id=event.workflow_id, name=event.name, value=event.value, signal_id=signal_id)
        self._request(seq, event.workflow_id, signal, signal_id)

    def _cancel_sent(self, seq: int, at: int, event: events.CancelSent, lookup: Lookup) -> None:
        cancel = wire.Cancel(workflow_id=event.workflow_id, reason=event.reason)
        self._request(seq, event.workflow_id, cancel, self.token(seq, 0))

    def _request(self, seq: int, workflow_id: str, submission: wire.AnySubmission, source: str) -> None:
        forwarded = wire.Forwarded(
            workflow_id=workflow_id, source=source, submission=Raw(_encode(submission)), reply_to=self._me(seq)
        )
        self._to_run(forwarded, workflow_id, self.token(seq, 0))

    def _tell_parent(self, **outcome: Any) -> None:
        """The run's end, to whoever started it and waits."""
        parent = self._identity.parent
        if parent is None:
            return
        token = names.Token.parse(parent.token)
        kind = wire.ChildCompleted if "value" in outcome else wire.ChildFailed
        message = kind(
            workflow_id=parent.workflow_id,
            run=parent.run,
            seq=parent.seq,
            token=parent.token,
            child_run=self._identity.run,
            **outcome,
        )
        self._to_run(message, parent.workflow_id, parent.token, None if token is None else token.shard)

    # ---- to everyone

    def _fact(self, type: str, seq: int, at: int, traceparent: str | None = None, **fields: Any) -> None:
        run = self._identity
        fact = wire.Lifecycle(
            workflow_id=run.workflow_id,
            run=run.run,
            seq=seq,
            at=instant(at),
            workflow=run.workflow,
            version=run.version,
            **fields,
        )
        headers = cloudevents.headers(type, f"{run.workflow_id}/{run.run}/{seq}", traceparent)
        self.out.append(Outgoing(self._topics.lifecycle, _encode(fact), run.shard, run.workflow_id.encode(), headers))

    def _run_started(self, seq: int, at: int, event: events.Started, lookup: Lookup) -> None:
        self._fact(LifecycleType.STARTED, seq, at, event.traceparent, submission_id=event.source, parent=event.parent)

    def _run_completed(self, seq: int, at: int, event: events.Completed, lookup: Lookup) -> None:
        self._fact(LifecycleType.COMPLETED, seq, at, result=event.value, unread=event.unread)
        self._tell_parent(value=event.value)

    def _run_failed(self, seq: int, at: int, event: events.Failed, lookup: Lookup) -> None:
        self._fact(LifecycleType.FAILED, seq, at, error=event.error, unread=event.unread)
        self._tell_parent(status="failed", error=event.error)

    def _run_cancelled(self, seq: int, at: int, event: events.Cancelled, lookup: Lookup) -> None:
        self._fact(LifecycleType.CANCELLED, seq, at, reason=event.reason, unread=event.unread)
        self._tell_parent(status="cancelled", reason=event.reason)

    def _run_terminated(self, seq: int, at: int, event: events.Terminated, lookup: Lookup) -> None:
        self._fact(LifecycleType.TERMINATED, seq, at, reason=event.reason)
        self._tell_parent(status="terminated", reason=event.reason)

    def _run_timed_out(self, seq: int, at: int, event: events.TimedOut, lookup: Lookup) -> None:
        self._fact(LifecycleType.TIMED_OUT, seq, at)
        self._tell_parent(status="timed_out")

    def _run_continued(self, seq: int, at: int, event: events.Continued, lookup: Lookup) -> None:
        self._fact(LifecycleType.CONTINUED, seq, at, error=event.error, retry_at=event.retry_at)

    def _status_set(self, seq: int, at: int, event: events.StatusSet, lookup: Lookup) -> None:
        self._fact(LifecycleType.STATUS_CHANGED, seq, at, status=event.text)

    def _milestone_reached(self, seq: int, at: int, event: events.MilestoneReached, lookup: Lookup) -> None:
        self._fact(LifecycleType.MILESTONE, seq, at, status=event.text)

    def _signal_unreadable(self, seq: int, at: int, event: events.SignalUnreadable, lookup: Lookup) -> None:
        self._fact(LifecycleType.SIGNAL_UNREADABLE, seq, at, name=event.name, reason=event.reason)

    def _update_completed(self, seq: int, at: int, event: events.UpdateCompleted, lookup: Lookup) -> None:
        self._fact(LifecycleType.UPDATE_COMPLETED, seq, at, submission_id=event.update_id, result=event.value)

    def _update_failed(self, seq: int, at: int, event: events.UpdateFailed, lookup: Lookup) -> None:
        self._fact(LifecycleType.UPDATE_FAILED, seq, at, submission_id=event.update_id, error=event.error)

    def _callback_completed(self, seq: int, at: int, event: events.CallbackCompleted, lookup: Lookup) -> None:
        self._fact(LifecycleType.CALLBACK_COMPLETED, seq, at, submission_id=event.source)

    def _callback_failed(self, seq: int, at: int, event: events.CallbackFailed, lookup: Lookup) -> None:
        self._fact(LifecycleType.CALLBACK_FAILED, seq, at, submission_id=event.source, error=event.error)

    def _attempt_failed(self, seq: int, at: int, event: events.ActivityFailed, lookup: Lookup) -> None:
        self._fact(
            LifecycleType.ACTIVITY_FAILED,
            seq,
            at,
            error=event.error,
            activity=lookup(event.ref).name,
            attempt=event.attempt,
            retry_at=event.retry_at,
        )
        if event.unanswered:
            self._call_off(event.ref, event.attempt)


_MAKERS: dict[type[Event], Callable[..., None]] = {
    events.ActivityScheduled: Sender._scheduled,
    events.ActivityRetried: Sender._retried,
    events.ActivityReleased: Sender._released,
    events.ActivityCancelled: Sender._cancelled,
    events.ActivityFailed: Sender._attempt_failed,
    events.ChildStarted: Sender._child_started,
    events.ChildCancelled: Sender._child_cancelled,
    events.SignalSent: Sender._signal_sent,
    events.CancelSent: Sender._cancel_sent,
    events.Started: Sender._run_started,
    events.Completed: Sender._run_completed,
    events.Failed: Sender._run_failed,
    events.Cancelled: Sender._run_cancelled,
    events.Terminated: Sender._run_terminated,
    events.TimedOut: Sender._run_timed_out,
    events.Continued: Sender._run_continued,
    events.StatusSet: Sender._status_set,
    events.MilestoneReached: Sender._milestone_reached,
    events.SignalUnreadable: Sender._signal_unreadable,
    events.UpdateCompleted: Sender._update_completed,
    events.UpdateFailed: Sender._update_failed,
    events.CallbackCompleted: Sender._callback_completed,
    events.CallbackFailed: Sender._callback_failed,
}
# These speak of an activity that was scheduled before.
LOOKED_UP = (events.ActivityRetried, events.ActivityReleased, events.ActivityFailed)
_LOOKED_UP_KINDS = tuple(str(event.__struct_config__.tag) for event in LOOKED_UP)


def messages_of(identity: Identity, topics: Topics, rows: Sequence[HistoryRow], lookup: Lookup) -> list[Outgoing]:
    """The messages of stored rows of one run, in order. `lookup` finds the activity that an event refers to."""
    sender = Sender(identity, topics)
    out: list[Outgoing] = []
    for row in rows:
        out += sender.messages(row.seq, row.at, decode_events(row.data), lookup)
    return out


class _Reference(msgspec.Struct):
    kind: str
    ref: int = 0


_references = msgspec.json.Decoder(list[_Reference])


def references(rows: Iterable[HistoryRow]) -> list[int]:
    """The numbers that `messages_of` will look up for these rows."""
    return [
        event.ref
        for row in rows
        for event in with_headroom(_references.decode, row.data)
        if event.kind in _LOOKED_UP_KINDS
    ]
