"""The activities that a run waits for: scheduled, backing off, answered, no longer wanted.

The run decides about retries, from the policy recorded with the activity (`retrying`). Times run on two clocks. A
worker measures an attempt from its first line. The run counts what is between attempts and what a worker cannot say:
the wait in the queue, the total, and, once a worker has *checked out* an attempt, the attempt itself, its heartbeats
and its lease.
Renewed leases and heartbeats are no events: they only move instants, and what a heartbeat said of the progress becomes
part of history when the attempt ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from msgspec import UNSET, Raw, UnsetType

from everstep._core.calls import ActivityCall
from everstep._core.handles import Handle, fail
from everstep._core.journal import Journal
from everstep._core.retrying import retry_at
from everstep._core.states import ACTIVITY, NEW, FailedAttempt
from everstep._core.timers import Wakeups, after, instant, micros
from everstep._error_infos import activity_error, timed_out, worker_lost
from everstep.errors import PayloadError, Which
from everstep_schemas import events, wire
from everstep_schemas.errors import ErrorInfo
from everstep_schemas.events import ActivityCancelled, ActivityScheduled

if TYPE_CHECKING:
    from everstep._core.loop import RunLoop

SECOND = 1_000_000
# A worker that is still there says that a time is up before the run does, however long its answer travels.
GRACE = 2 * SECOND
# The third worker to check one attempt out is not let have it: the attempt seems to end those that try.
MOST_CHECKOUTS = 2


class ActivityHandle(Handle[Any]):
    """The handle of a scheduled activity; cancelling it is a command."""

    __slots__ = ("_activities", "_seq")

    _activities: Activities
    _seq: int

    def cancel(self, msg: Any | None = None) -> bool:
        if self.done():
            return False
        self._activities.cancel(self._seq)
        return super().cancel(msg)


class Lease:
    """A worker's hold on an attempt, from the instant at which it was checked out."""

    __slots__ = ("at", "beat_at", "given_back", "renewed_at", "seconds")

    def __init__(self, at: int, seconds: float) -> None:
        self.at = at
        self.seconds = seconds
        self.renewed_at = at
        self.beat_at = at
        self.given_back = False

    @property
    def ends_at(self) -> int:
        return self.renewed_at if self.given_back else after(self.renewed_at, self.seconds)


class Pending:
    """An activity without a final answer."""

    __slots__ = (
        "at",
        "attempt",
        "call",
        "checkouts",
        "details",
        "error",
        "handle",
        "lease",
        "retry_at",
        "scheduled",
        "state",
        "watched",
    )

    def __init__(self, scheduled: ActivityScheduled, call: ActivityCall, handle: ActivityHandle, at: int) -> None:
        self.scheduled = scheduled
        self.call = call
        self.handle = handle
        self.attempt = 1
        self.state = ACTIVITY[NEW][ActivityScheduled]
        self.at = at  # when the attempt was last given to workers
        self.retry_at: int | None = None
        self.lease: Lease | None = None
        self.checkouts = 0
        self.details: Raw | UnsetType = UNSET
        self.error: ErrorInfo | None = None
        self.watched = False  # whether it has ever been among the wake-ups

    def deadlines(self) -> Iterator[tuple[int, str]]:
        """The instants at which something is to happen unless an answer comes, with what that is."""
        scheduled = self.scheduled
        if self.retry_at is not None:
            yield self.retry_at, "retry"
            return
        if scheduled.expires_at is not None:
            yield micros(scheduled.expires_at), "total"
        if self.lease is None:
            if scheduled.queue_timeout_seconds is not None:
                yield after(self.at, scheduled.queue_timeout_seconds), "queue"
            return
        yield self.lease.ends_at, "lease"
        if scheduled.timeout_seconds is not None:
            yield after(self.lease.at + GRACE, scheduled.timeout_seconds), "attempt"
        if scheduled.heartbeat_timeout_seconds is not None:
            yield after(self.lease.beat_at + GRACE, scheduled.heartbeat_timeout_seconds), "heartbeat"

    def begin(self, at: int) -> None:
        """The attempt is given to workers, for the first time or again."""
        self.at = at
        self.lease = None
        self.retry_at = None


class Activities:
    """The run's pending activities by number. `limit` is the most bytes that arguments may take."""

    __slots__ = ("_journal", "_key", "_limit", "_loop", "_pending", "_wakeups")

    def __init__(self, loop: RunLoop, journal: Journal, wakeups: Wakeups, limit: int, nonce: str) -> None:
        self._loop = loop
        self._journal = journal
        self._wakeups = wakeups
        self._limit = limit
        self._key = nonce
        self._pending: dict[int, Pending] = {}

    def __len__(self) -> int:
        return len(self._pending)

    def __iter__(self) -> Iterator[int]:
        return iter(self._pending)

    def __contains__(self, seq: int) -> bool:
        return seq in self._pending

    def get(self, seq: int) -> Pending | None:
        return self._pending.get(seq)

    def scheduled(self, seq: int) -> ActivityScheduled:
        return self._pending[seq].scheduled

    # ---- from the author's code

    def schedule(self, call: ActivityCall) -> ActivityHandle:
        """Record the call. Raises `PayloadError` if its arguments are too large."""
        if len(call.args) + len(call.kwargs or b"") > self._limit:
            check_size(f"the arguments of activity {call.name!r}", call, self._limit, self._journal, ActivityScheduled)
        now, total = self._loop.now, call.total_timeout_seconds
        seq, scheduled = self._journal.record(
            ActivityScheduled(
                name=call.name,
                queue=call.queue,
                args=Raw(call.args),
                kwargs=UNSET if call.kwargs is None else Raw(call.kwargs),
                timeout_seconds=call.timeout_seconds,
                retry=call.retry,
                expires_at=None if total is None else instant(after(now, total)),
                queue_timeout_seconds=call.queue_timeout_seconds,
                heartbeat_timeout_seconds=call.heartbeat_timeout_seconds,
            )
        )
        handle = ActivityHandle(loop=self._loop)
        handle._activities = self
        handle._seq = seq
        self._pending[seq] = pending = Pending(scheduled, call, handle, now)
        if scheduled.expires_at is not None or scheduled.queue_timeout_seconds is not None:
            self._watch(seq, pending)
        return handle

    def cancel(self, seq: int) -> None:
        """Record that the answer is no longer wanted."""
        pending = self._pending[seq]
        self._journal.record(ActivityCancelled(ref=seq, attempt=pending.attempt))
        pending.state = ACTIVITY[pending.state][ActivityCancelled]
        self._remove(seq)

    def cancel_all(self) -> None:
        """The run closes: record for each activity that its answer is no longer wanted."""
        for seq in list(self._pending):
            self.cancel(seq)

    # ---- from input events

    def started(self, event: events.ActivityStarted) -> None:
        """A worker has checked the attempt out."""
        pending = self._pending[event.ref]
        pending.state = ACTIVITY[pending.state][events.ActivityStarted]
        pending.checkouts += not event.again
        pending.lease = Lease(self._loop.now, event.lease_seconds)
        self._watch(event.ref, pending)

    def released(self, event: events.ActivityReleased) -> None:
        """It is given to workers again."""
        pending = self._pending[event.ref]
        pending.state = ACTIVITY[pending.state][events.ActivityReleased]
        pending.details = event.details
        pending.checkouts -= event.given_back
        pending.begin(self._loop.now)
        self._watch(event.ref, pending)

    def completed(self, event: events.ActivityCompleted) -> None:
        pending = self._remove(event.ref)
        pending.state = ACTIVITY[pending.state][events.ActivityCompleted]
        try:
            value = pending.call.decode(event.value)
        except PayloadError as error:
            fail(pending.handle, error.saying(f"the result of activity {pending.scheduled.name!r} does not fit"))
        except BaseException as error:
            fail(pending.handle, error)
        else:
            pending.handle.set_result(value)

    def failed(self, event: events.ActivityFailed) -> None:
        pending = self._pending[event.ref]
        if event.retry_at is not None:
            pending.state = ACTIVITY[pending.state][FailedAttempt]
            pending.error = event.error
            pending.details = event.details
            pending.lease = None
            pending.retry_at = micros(event.retry_at)
            self._watch(event.ref, pending)
            return
        pending.state = ACTIVITY[pending.state][events.ActivityFailed]
        self._remove(event.ref)
        fail(pending.handle, activity_error(pending.scheduled.name, event.attempt, event.error, pending.call.raises))

    def retried(self, event: events.ActivityRetried) -> None:
        pending = self._pending[event.ref]
        pending.state = ACTIVITY[pending.state][events.ActivityRetried]
        pending.attempt = event.attempt
        pending.checkouts = 0
        pending.begin(self._loop.now)
        self._watch(event.ref, pending)

    def _remove(self, seq: int) -> Pending:
        pending = self._pending.pop(seq)
        if pending.watched:
            self._wakeups.discard(seq)
        return pending

    def _watch(self, seq: int, pending: Pending) -> None:
        pending.watched = True
        first = min(pending.deadlines(), default=None)
        if first is None:
            self._wakeups.discard(seq)
        else:
            self._wakeups.add(seq, first[0])

    # ---- what is no event: a worker says that it still works

    def renew(self, seq: int, at: int, details: Raw | None) -> None:
        """The lease counts from `at`; `details` is what a heartbeat said, None that there was none."""
        pending = self._pending[seq]
        if pending.lease is None:
            return
        pending.lease.renewed_at = max(at, pending.lease.renewed_at)
        if details is not None:
            pending.lease.beat_at = max(at, pending.lease.beat_at)
            pending.details = details
        self._watch(seq, pending)

    def give_back(self, seq: int, at: int) -> None:
        """The worker has stopped the attempt: its lease is due."""
        pending = self._pending[seq]
        if pending.lease is not None:
            pending.lease.renewed_at = at
            pending.lease.given_back = True
            self._watch(seq, pending)

    def postpone(self, seq: int, until: int, heard: int) -> bool:
        """Put off what is due if a worker may have said something by then that is not known yet; whether it was."""
        pending = self._pending[seq]
        at, what = min(pending.deadlines())
        given_back = pending.lease is not None and pending.lease.given_back
        if what == "retry" or given_back or at <= heard:
            return False
        self._wakeups.add(seq, until)
        return True

    # ---- which event comes next

    def failure(
        self, seq: int, error: ErrorInfo, now: int, *, worker: str | None = None, unanswered: bool = False
    ) -> events.ActivityFailed:
        """The event for an attempt that has failed, with the instant of the next one if there is to be one."""
        pending = self._pending[seq]
        at = retry_at(pending.scheduled.retry, error, f"{self._key}/{seq}", pending.attempt, now)
        expires_at = pending.scheduled.expires_at
        if at is not None and expires_at is not None and at >= micros(expires_at):
            at, error = None, timed_out("total", "the next attempt would begin after the total timeout", error)
        return events.ActivityFailed(
            ref=seq,
            error=error,
            attempt=pending.attempt,
            retry_at=None if at is None else instant(at),
            worker=worker,
            details=pending.details if at is not None else UNSET,
            unanswered=unanswered,
        )

    def checked_out(self, said: wire.ActivityStarted, now: int) -> events.ActivityStarted | events.ActivityFailed:
        """The event for a worker that says it has begun."""
        seq = said.seq
        pending = self._pending[seq]
        if pending.checkouts >= MOST_CHECKOUTS and not said.again:
            return self.failure(seq, worker_lost(pending.checkouts), now, unanswered=True)
        return events.ActivityStarted(
            ref=seq, attempt=pending.attempt, lease_seconds=said.lease_seconds, worker=said.worker, again=said.again
        )

    def due(self, seq: int, now: int) -> events.InputEvent:
        """What happens to the activity because its time has come."""
        pending = self._pending[seq]
        _, what = min(pending.deadlines())
        return _DUE[what](self, seq, pending, now)

    def _retry(self, seq: int, pending: Pending, now: int) -> events.InputEvent:
        return events.ActivityRetried(ref=seq, attempt=pending.attempt + 1, details=pending.details)

    def _release(self, seq: int, pending: Pending, now: int) -> events.InputEvent:
        given_back = pending.lease is not None and pending.lease.given_back
        return events.ActivityReleased(ref=seq, attempt=pending.attempt, details=pending.details, given_back=given_back)

    def _expire_total(self, seq: int, pending: Pending, now: int) -> events.InputEvent:
        return self._expire(seq, "total", "all its attempts together took longer than the total timeout", now)

    def _expire_queue(self, seq: int, pending: Pending, now: int) -> events.InputEvent:
        seconds = pending.scheduled.queue_timeout_seconds
        return self._expire(seq, "queue", f"no worker began it within its queue timeout of {seconds:g} s", now)

    def _expire_attempt(self, seq: int, pending: Pending, now: int) -> events.InputEvent:
        seconds = pending.scheduled.timeout_seconds
        return self._expire(seq, "attempt", f"the attempt took longer than its timeout of {seconds:g} s", now)

    def _expire_heartbeat(self, seq: int, pending: Pending, now: int) -> events.InputEvent:
        seconds = pending.scheduled.heartbeat_timeout_seconds
        return self._expire(seq, "heartbeat", f"no heartbeat came for {seconds:g} s", now)

    def _expire(self, seq: int, which: Which, message: str, now: int) -> events.InputEvent:
        return self.failure(seq, timed_out(which, message, self._pending[seq].error), now, unanswered=True)


_DUE: dict[str, Callable[[Activities, int, Pending, int], events.InputEvent]] = {
    "retry": Activities._retry,
    "lease": Activities._release,
    "total": Activities._expire_total,
    "queue": Activities._expire_queue,
    "attempt": Activities._expire_attempt,
    "heartbeat": Activities._expire_heartbeat,
}


def check_size(what: str, call: Any, limit: int, journal: Journal, kind: type[events.Event]) -> None:
    """Raises `PayloadError` for arguments over the limit, unless history already holds them."""
    size = len(call.args) + len(call.kwargs or b"")
    if size > limit and not journal.follows(kind):
        raise PayloadError("$", too_large(what, size, limit))


def too_large(what: str, size: int, limit: int) -> str:
    """The words for a payload over the limit."""
    return (
        f"{what} would take {size} bytes, and {limit} are allowed (EVERSTEP_MAX_PAYLOAD_BYTES): "
        "store the data elsewhere and pass a reference to it"
    )
