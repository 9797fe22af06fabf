"""The messages that a run's events cause, rebuilt from history alone.

What is published right after a commit and what a new owner publishes again come from the same function over the same
events, so a message has the same bytes and the same identity each time: the token of an attempt, or the position of a
fact in its run's history.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec

from everstep._core.model import HistoryRow, Identity
from everstep._core.timers import instant
from everstep_schemas import cloudevents, events, names, wire
from everstep_schemas.events import AnyEvent, Event, decode_events
from everstep_schemas.names import Topics
from everstep_schemas.wire import LifecycleType, Outgoing

Lookup = Callable[[int], events.ActivityScheduled]
COMMAND_TYPE = "everstep.activity.command"
CONTROL_TYPE = "everstep.activity.cancel"

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
        self._token_end = f".{identity.nonce}"
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
        self._command(seq, 1, event)

    def _retried(self, seq: int, at: int, event: events.ActivityRetried, lookup: Lookup) -> None:
        self._command(event.ref, event.attempt, lookup(event.ref))

    def _command(self, seq: int, attempt: int, scheduled: events.ActivityScheduled) -> None:
        run = self._identity
        token = self.token(seq, attempt)
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
        )
        headers = (*_COMMAND_HEADERS, ("ce_id", token.encode()))
        self.out.append(Outgoing(self._topics.activities(scheduled.queue), _encode(command), None, None, headers))

    def _cancelled(self, seq: int, at: int, event: events.ActivityCancelled, lookup: Lookup) -> None:
        token = self.token(event.ref, event.attempt)
        headers = (*_CONTROL_HEADERS, ("ce_id", token.encode()))
        value = _encode(wire.Control(kind="cancel", token=token))
        self.out.append(Outgoing(self._topics.control, value, None, None, headers))

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
        self._fact(LifecycleType.STARTED, seq, at, event.traceparent, submission_id=event.source)

    def _run_completed(self, seq: int, at: int, event: events.Completed, lookup: Lookup) -> None:
        self._fact(LifecycleType.COMPLETED, seq, at, result=event.value)

    def _run_failed(self, seq: int, at: int, event: events.Failed, lookup: Lookup) -> None:
        self._fact(LifecycleType.FAILED, seq, at, error=event.error)

    def _run_cancelled(self, seq: int, at: int, event: events.Cancelled, lookup: Lookup) -> None:
        self._fact(LifecycleType.CANCELLED, seq, at, reason=event.reason)

    def _run_terminated(self, seq: int, at: int, event: events.Terminated, lookup: Lookup) -> None:
        self._fact(LifecycleType.TERMINATED, seq, at, reason=event.reason)

    def _status_set(self, seq: int, at: int, event: events.StatusSet, lookup: Lookup) -> None:
        self._fact(LifecycleType.STATUS_CHANGED, seq, at, status=event.text)

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


_MAKERS: dict[type[Event], Callable[..., None]] = {
    events.ActivityScheduled: Sender._scheduled,
    events.ActivityRetried: Sender._retried,
    events.ActivityCancelled: Sender._cancelled,
    events.Started: Sender._run_started,
    events.Completed: Sender._run_completed,
    events.Failed: Sender._run_failed,
    events.Cancelled: Sender._run_cancelled,
    events.Terminated: Sender._run_terminated,
    events.StatusSet: Sender._status_set,
    events.ActivityFailed: Sender._attempt_failed,
}


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
        for event in _references.decode(row.data)
        if event.kind in ("activity_retried", "activity_failed")
    ]
