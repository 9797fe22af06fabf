"""One live run: decides which messages concern it, applies input events, and turns what they caused into an activation.

Nothing here awaits, reads a clock or draws a number: the same calls give the same activations, byte for byte.
"""

from __future__ import annotations

from everstep._core.activities import Pending, retry_at
from everstep._core.messages import Lookup, Sender
from everstep._core.model import Activation, CannotRun, ClosedStatus, Identity, StallReason
from everstep._core.program import Program
from everstep._core.rows import rows_of
from everstep._core.states import ACTIVITY, RUN
from everstep._core.timers import instant
from everstep_schemas import events, wire
from everstep_schemas.events import ActivityScheduled, AnyEvent, CommandEvent, InputEvent, StatusSet

Message = wire.ActivityCompleted | wire.ActivityFailed | wire.Signal | wire.Cancel | wire.Terminate
# What a live run takes beside its history: loop, task, coroutine frames, tables.
_BASE_BYTES = 6 * 1024


class LiveRun:
    """A run in memory. After `CannotRun` it is unusable: evict it, and replay it when it is needed again."""

    __slots__ = ("_at", "_history_bytes", "_program", "_sender", "closed", "identity")

    def __init__(self, identity: Identity, program: Program, sender: Sender) -> None:
        self.identity = identity
        self.closed: ClosedStatus | None = None
        self._program = program
        self._sender = sender
        self._at = 0
        self._history_bytes = 0

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
        return _BASE_BYTES + self._history_bytes

    @property
    def custom_status(self) -> str | None:
        return self._program.scope.custom_status

    @property
    def argument_differences(self) -> int:
        """In how many commands the last replay found other arguments than history holds."""
        return self._program.scope.journal.argument_differences

    def pending_activity(self, seq: int) -> ActivityScheduled | None:
        """The activity that was scheduled at event `seq` and has not ended."""
        pending = self._program.scope.activities.get(seq)
        return None if pending is None else pending.scheduled

    # ---- which event a message is

    def accept(self, message: Message, now: int) -> InputEvent | None:
        """The event that `message` is for this run, or None if it is stale, repeated, forged or too late."""
        if self.closed is not None:
            return None
        match message:
            case wire.ActivityCompleted():
                return self._completed(message)
            case wire.ActivityFailed():
                return self._failed(message, now)
            case wire.Signal():
                return self._signal(message)
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
        key = f"{self.identity.nonce}/{message.seq}"
        at = retry_at(pending.scheduled.retry, message.error, key, message.attempt, max(now, self._at))
        return events.ActivityFailed(
            ref=message.seq,
            error=message.error,
            attempt=message.attempt,
            retry_at=None if at is None else instant(at),
            worker=message.worker,
        )

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

    # ---- time

    def wakeup_at(self) -> int | None:
        """The instant of the earliest open timer, deadline or retry."""
        first = None if self.closed else self._program.wakeups.first()
        return None if first is None else first[0]

    def due(self, now: int) -> InputEvent | None:
        """The next event that time brings, in order of (instant, seq); apply it before asking again."""
        first = None if self.closed else self._program.wakeups.first()
        if first is None or first[0] > now:
            return None
        pending = self._program.scope.activities.get(first[1])
        if pending is None:
            return events.TimerFired(ref=first[1])
        return events.ActivityRetried(ref=first[1], attempt=pending.attempt + 1)

    # ---- applying

    def apply(self, event: InputEvent, now: int) -> Activation:
        """Apply one event at `now`, but never before the event that came last. Raises `CannotRun`."""
        journal = self._program.scope.journal
        at = max(now, self._at)
        lookup = self._lookup(event)
        seq = journal.begin(None)
        self._activate(event, at)
        happened: list[AnyEvent] = [event, *journal.commands]
        rows = rows_of(seq, at, happened)
        for row in rows:
            self._history_bytes += len(row.data)
        return Activation(
            rows,
            self._sender.messages(seq, at, happened, lookup),
            self.closed,
            any(type(command) is StatusSet for command in journal.commands),
            self._program.scope.custom_status,
        )

    def repeat(self, event: InputEvent, at: int, recorded: list[CommandEvent], size: int) -> None:
        """Apply an event of history again: what the code does must be what is recorded. Raises `CannotRun`."""
        journal = self._program.scope.journal
        journal.begin(recorded)
        self._activate(event, at)
        journal.finish()
        self._history_bytes += size
        if journal.mismatch is not None:
            raise CannotRun(journal.mismatch)

    def _activate(self, event: InputEvent, at: int) -> None:
        self._at = at
        try:
            self._program.activate(event, at)
        except CannotRun:
            raise
        except Exception as error:
            kind = type(event).__name__
            message = f"the engine cannot apply {kind} at event {self.next_seq - 1}: {error!r}"
            raise CannotRun(StallReason(kind="engine", message=message)) from error
        self.closed = self._program.closed
        if self.closed is not None:
            self.evict()

    def _lookup(self, event: InputEvent) -> Lookup:
        """Finds the activity an event refers to, also when applying the event ends it."""
        scheduled = self._program.scope.activities.scheduled
        if type(event) is not events.ActivityFailed:
            return scheduled
        failed = scheduled(event.ref)
        return lambda ref: failed

    def evict(self) -> None:
        """Close all of the author's code. Its `finally` blocks run, but can command and record nothing. Idempotent."""
        self._program.close()
