"""One live run: decides which messages concern it, applies input events, and turns what they caused into an activation.

Nothing here awaits, reads a clock or draws a number: the same calls give the same activations, byte for byte.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from msgspec import Raw

from everstep._core.activities import Pending
from everstep._core.handlers import QueryFailed, Refusal
from everstep._core.messages import LOOKED_UP, Lookup, Sender
from everstep._core.model import Activation, CannotRun, ClosedStatus, Identity, StallReason, Successor
from everstep._core.program import Program
from everstep._core.rows import rows_of
from everstep._core.standing import Standing, outline_of, standing_of
from everstep._core.states import ACTIVITY, RUN
from everstep._error_infos import CALLBACK_FAILED
from everstep_schemas import events, wire
from everstep_schemas.errors import ErrorInfo
from everstep_schemas.events import (
    ActivityScheduled,
    AnyEvent,
    CommandEvent,
    InputEvent,
    UpdateCompleted,
    UpdateFailed,
)
from everstep_schemas.names import Token

Message = (
    wire.ActivityResult
    | wire.RunResult
    | wire.Signal
    | wire.Update
    | wire.Cancel
    | wire.Terminate
    | wire.CompleteCallback
    | wire.FailCallback
)
# How soon it is looked at again whether a worker has been heard.
POSTPONED_US = 500_000
# What a live run takes beside its history: loop, task, coroutine frames, tables.
_BASE_BYTES = 6 * 1024
# What each thing takes that its code waits for: a handle, a callback of it, an entry here and there.
_PENDING_BYTES = 2 * 1024


class Lease(NamedTuple):
    """Something that ends unless it is renewed: an attempt, or a callback (`attempt` 0)."""

    seq: int
    attempt: int
    token: str


class LiveRun:
    """A run in memory. After `CannotRun` it is unusable: evict it, and replay it when it is needed again.

    One that `stays` keeps its code's objects after it has closed, so that they can still be asked.
    """

    __slots__ = ("_at", "_program", "_sender", "_stays", "closed", "identity")

    def __init__(self, identity: Identity, program: Program, sender: Sender, *, stays: bool = False) -> None:
        self.identity = identity
        self.closed: ClosedStatus | None = None
        self._program = program
        self._sender = sender
        self._stays = stays
        self._at = 0

    @property
    def next_seq(self) -> int:
        return self._program.scope.journal.next_seq

    @property
    def events(self) -> int:
        """How many events the history has."""
        return self._program.scope.journal.next_seq - 1

    @property
    def size_bytes(self) -> int:
        """About how much memory the run takes at most: its code can hold on to all it was ever given."""
        scope = self._program.scope
        return _BASE_BYTES + scope.journal.history_bytes + _PENDING_BYTES * scope.waits_for()

    @property
    def custom_status(self) -> str | None:
        return self._program.scope.custom_status

    @property
    def attributes(self) -> bytes | None:
        """The attributes as JSON, None for none."""
        return self._program.scope.attributes.encoded()

    @property
    def argument_differences(self) -> int:
        """In how many commands the last replay found other arguments than history holds."""
        return self._program.scope.journal.argument_differences

    @property
    def differing(self) -> StallReason | None:
        """The first of those, in words."""
        return self._program.scope.journal.differing

    def standing(self) -> Standing:
        """All that decides what the run does next, to be compared with another replay of the same rows."""
        return standing_of(self._program)

    def outline(self) -> tuple[object, ...]:
        """The same in numbers, as quick with much pending as with little."""
        return outline_of(self._program)

    def pending_activity(self, seq: int) -> ActivityScheduled | None:
        """The activity that was scheduled at event `seq` and has not ended."""
        pending = self._program.scope.activities.get(seq)
        return None if pending is None else pending.scheduled

    # ---- which event a message is

    def accept(self, message: Message, now: int) -> InputEvent | Refusal | None:
        """The event that `message` is for this run, why it is refused, or None if it is stale, repeated or forged.

        Raises `CannotRun` if the code that validates an update does not yield.
        """
        if self.closed is not None:
            return None
        match message:
            case wire.ActivityCompleted():
                return self._completed(message)
            case wire.ActivityFailed():
                return self._failed(message, now)
            case wire.Signal():
                return self._signal(message)
            case wire.ActivityStarted():
                return self._checked_out(message, now)
            case wire.ChildCompleted() | wire.ChildFailed():
                return self._child(message)
            case wire.RequestAnswered():
                return self._answered(message)
            case wire.CompleteCallback() | wire.FailCallback():
                return self._callback(message)
            case wire.Update():
                return self._update(message)
            case wire.Cancel():
                requested = events.CancelRequested in RUN[self._program.state]
                return events.CancelRequested(reason=message.reason) if requested else None
            case wire.Terminate():
                return events.Terminated(reason=message.reason)

    def _completed(self, message: wire.ActivityCompleted) -> InputEvent | None:
        if self._under_way(message) is None:
            return None
        return events.ActivityCompleted(
            ref=message.seq, value=message.value, attempt=message.attempt, worker=message.worker
        )

    def _failed(self, message: wire.ActivityFailed, now: int) -> InputEvent | None:
        pending = self._under_way(message)
        if pending is None:
            return None
        if isinstance(message.details, Raw):
            pending.details = message.details
        activities = self._program.scope.activities
        return activities.failure(message.seq, message.error, max(now, self._at), worker=message.worker)

    def _checked_out(self, message: wire.ActivityStarted, now: int) -> InputEvent | None:
        if self._under_way(message) is None:
            return None
        activities = self._program.scope.activities
        return activities.checked_out(message, max(now, self._at))

    def _under_way(self, message: wire.ActivityResult) -> Pending | None:
        """The activity that the message answers, if it is the attempt that is under way."""
        pending = self._program.scope.activities.get(message.seq)
        if pending is None or message.token != self._sender.token(message.seq, pending.attempt):
            return None
        if message.attempt != pending.attempt or events.ActivityCompleted not in ACTIVITY[pending.state]:
            return None
        return pending

    def _signal(self, message: wire.Signal) -> InputEvent | None:
        if message.signal_id is None:
            raise ValueError("a signal reached the engine without an id: fill in the identity of its source")
        if self._program.scope.mailbox.applied(message.signal_id):
            return None
        return events.SignalReceived(name=message.name, value=message.value, signal_id=message.signal_id)

    def _child(self, message: wire.ChildCompleted | wire.ChildFailed) -> InputEvent | None:
        if message.seq not in self._program.scope.children or message.token != self._sender.token(message.seq, 0):
            return None
        if isinstance(message, wire.ChildCompleted):
            return events.ChildCompleted(ref=message.seq, value=message.value, run=message.child_run)
        return events.ChildFailed(
            ref=message.seq, status=message.status, error=message.error, reason=message.reason, run=message.child_run
        )

    def _answered(self, message: wire.RequestAnswered) -> InputEvent | None:
        pending = message.seq in self._program.scope.children.requests
        if not pending or message.token != self._sender.token(message.seq, 0):
            return None
        return events.RequestAnswered(ref=message.seq, error=message.error)

    def _callback(self, message: wire.CompleteCallback | wire.FailCallback) -> InputEvent | Refusal | None:
        if message.submission_id is None:
            raise ValueError("a callback reached the engine without an id: fill in the identity of its source")
        callbacks, seq = self._program.scope.callbacks, seq_of(message.token)
        if callbacks.completed_by(seq, message.token) == message.submission_id:
            return None
        value = message.value if isinstance(message, wire.CompleteCallback) else None
        # To read the value may be to run code of the author's.
        reason = self._program.ask(lambda: callbacks.why_refused(seq, message.token, value))
        if reason is not None:
            return Refusal(reason)
        if isinstance(message, wire.CompleteCallback):
            return events.CallbackCompleted(ref=seq, value=message.value, source=message.submission_id)
        error = ErrorInfo(type=message.error.type or CALLBACK_FAILED, message=message.error.message, retryable=False)
        return events.CallbackFailed(ref=seq, error=error, source=message.submission_id)

    def _update(self, message: wire.Update) -> InputEvent | Refusal | None:
        if message.update_id is None:
            raise ValueError("an update reached the engine without an id: fill in the identity of its source")
        updates = self._program.scope.updates
        if updates.known(message.update_id):
            return None
        if message.update_id in updates.inherited:
            return Refusal(f"duplicate: update {message.update_id!r} was carried out by an earlier run of this id")
        if (reason := self._program.why_silent) is not None:
            return Refusal(reason)
        refusal = self._program.ask(lambda: updates.check(message.name, message.value))
        if refusal is not None:
            return refusal
        return events.UpdateRequested(name=message.name, value=message.value, update_id=message.update_id)

    def answer_to(self, update_id: str) -> tuple[int, UpdateCompleted | UpdateFailed] | None:
        """The answer to an update that was carried out, with the number of its event."""
        return self._program.scope.updates.answer(update_id)

    # ---- what is no event

    def query(self, name: str, args: list[Any]) -> bytes:
        """The JSON of the code's answer to a query. Raises `QueryFailed`, and `CannotRun` if it does not yield."""
        if (reason := self._program.why_silent) is not None:
            raise QueryFailed(reason)
        return self._program.ask(lambda: self._program.scope.queries.answer(name, args))

    def query_names(self) -> list[str]:
        return self._program.scope.queries.names()

    def renew(self, seq: int, token: str, at: int, details: Raw | None = None) -> bool:
        """A worker still runs the attempt with this token; with `details`, its code has made a heartbeat.

        Whether that is so: an attempt that nobody waits for has no lease.
        """
        pending = self._program.scope.activities.get(seq)
        if pending is None or pending.lease is None or token != self._sender.token(seq, pending.attempt):
            return False
        self._program.scope.activities.renew(seq, at, details)
        return True

    def give_back(self, seq: int, token: str, at: int) -> bool:
        """A worker has stopped the attempt with this token, which is then due; whether anybody waits for it."""
        pending = self._program.scope.activities.get(seq)
        if pending is None or pending.lease is None or token != self._sender.token(seq, pending.attempt):
            return False
        self._program.scope.activities.give_back(seq, at)
        return True

    def beat(self, token: str, at: int) -> bool:
        """Whoever holds a callback's token still works on it; whether anybody waits for that."""
        seq, callbacks = seq_of(token), self._program.scope.callbacks
        if self.closed is not None or callbacks.why_refused(seq, token, None) is not None:
            return False
        callbacks.heartbeat(seq, at)
        return True

    def leases(self) -> Iterator[Lease]:
        """What lives on being renewed: attempts that are checked out, and callbacks with heartbeats."""
        scope = self._program.scope
        for seq in scope.activities:
            pending = scope.activities.get(seq)
            if pending is not None and pending.lease is not None:
                yield Lease(seq, pending.attempt, self._sender.token(seq, pending.attempt))
        for seq in scope.callbacks.with_heartbeats():
            yield Lease(seq, 0, "")

    def restore(self, seq: int, at: int, details: Raw | None) -> None:
        """After a replay: what was renewed last, and when."""
        scope = self._program.scope
        if seq in scope.callbacks:
            scope.callbacks.heartbeat(seq, at)
        elif seq in scope.activities:
            scope.activities.renew(seq, at, details)

    # ---- time

    def wakeup_at(self) -> int | None:
        """The instant of the earliest open timer, deadline or retry."""
        first = None if self.closed else self._program.wakeups.first()
        return None if first is None else first[0]

    def due(self, now: int, heard: int | None = None) -> InputEvent | None:
        """The next event that time brings, in order of (instant, seq); apply it before asking again.

        Whatever was said to the run until `heard` is known. The end of an activity's time waits until that is so for
        its instant: the worker may have answered, or renewed its lease, in time.
        """
        while True:
            first = None if self.closed else self._program.wakeups.first()
            if first is None or first[0] > now:
                return None
            if heard is None or not self._postpone(first[1], now, heard):
                return self._program.due(first[1], max(now, self._at))

    def _postpone(self, seq: int, now: int, heard: int) -> bool:
        activities = self._program.scope.activities
        return seq in activities and activities.postpone(seq, now + POSTPONED_US, heard)

    # ---- applying

    def apply(self, event: InputEvent, now: int) -> Activation:
        """Apply one event at `now`, but never before the event that came last. Raises `CannotRun`."""
        at = max(now, self._at)
        lookup = self._lookup(event)
        seq = self._program.scope.journal.begin(None)
        self._activate(event, at)
        try:
            return self._activation(seq, at, event, lookup)
        except Exception as error:
            raise _cannot(f"write what {type(event).__name__} at event {seq} has caused", error) from error
        finally:
            if self.closed is not None:
                self._leave()

    def _activation(self, seq: int, at: int, event: InputEvent, lookup: Lookup) -> Activation:
        journal = self._program.scope.journal
        happened: list[AnyEvent] = [event, *journal.commands]
        rows = rows_of(seq, at, happened)
        for row in rows:
            journal.history_bytes += len(row.data)
        kinds = set(map(type, journal.commands))
        return Activation(
            rows,
            self._sender.messages(seq, at, happened, lookup),
            self.closed,
            events.StatusSet in kinds,
            self._program.scope.custom_status,
            events.AttributesSet in kinds,
            self._successor(seq, happened) if self.closed == "continued" else None,
            self._program.unread() if self.closed and self.closed != "continued" else {},
        )

    def _successor(self, seq: int, happened: list[AnyEvent]) -> Successor:
        number, closing = next(
            (number, one) for number, one in enumerate(happened, seq) if isinstance(one, events.Continued)
        )
        return self._program.successor(self._sender.token(number, 0), closing)

    def repeat(self, event: InputEvent, at: int, recorded: list[CommandEvent], size: int) -> None:
        """Apply an event of history again: what the code does must be what is recorded. Raises `CannotRun`."""
        journal = self._program.scope.journal
        journal.begin(recorded)
        self._activate(event, at)
        if self.closed is not None:
            self._leave()
        journal.finish()
        journal.history_bytes += size
        if journal.mismatch is not None:
            raise CannotRun(journal.mismatch)

    def _activate(self, event: InputEvent, at: int) -> None:
        self._at = at
        try:
            self._program.activate(event, at)
        except CannotRun:
            raise
        except Exception as error:
            raise _cannot(f"apply {type(event).__name__} at event {self.next_seq - 1}", error) from error
        self.closed = self._program.closed

    def _leave(self) -> None:
        """A run that has closed leaves memory, unless it is to be asked."""
        if not self._stays:
            self.evict()

    def _lookup(self, event: InputEvent) -> Lookup:
        """Finds the activity an event refers to, also when the activity ends by applying the event."""
        scheduled = self._program.scope.activities.scheduled
        if type(event) not in LOOKED_UP:
            return scheduled
        known = scheduled(event.ref)  # type: ignore[union-attr]  # these have one
        return lambda ref: known

    def evict(self) -> None:
        """Close all of the author's code. Its `finally` blocks run, but can command and record nothing. Idempotent."""
        self._program.close()


def _cannot(what: str, error: Exception) -> CannotRun:
    return CannotRun(StallReason(kind="engine", message=f"the engine cannot {what}: {error!r}"))


def seq_of(token: str) -> int:
    """The event that a token names; 0, which is none, for what is no token."""
    parsed = Token.parse(token)
    return 0 if parsed is None else parsed.seq
