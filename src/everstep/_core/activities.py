"""The activities that a run waits for: scheduled, backing off, answered, no longer wanted.

The run decides about retries. Whether and when a failed attempt is repeated follows from the policy recorded with the
activity, the error and the attempt's number; the jitter is a hash of these, so that deciding twice decides the same.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from msgspec import UNSET, Raw

from everstep._core.calls import ActivityCall
from everstep._core.handles import Handle
from everstep._core.journal import Journal
from everstep._core.states import ACTIVITY, NEW, FailedAttempt
from everstep._core.timers import Wakeups, micros
from everstep.errors import PayloadError, activity_error, gives_up
from everstep_schemas import events
from everstep_schemas.errors import ErrorInfo
from everstep_schemas.events import ActivityCancelled, ActivityScheduled, RetryPolicy

if TYPE_CHECKING:
    from everstep._core.loop import RunLoop

_DEFAULT_POLICY = RetryPolicy()


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


class Pending:
    """An activity without a final answer."""

    __slots__ = ("attempt", "call", "handle", "scheduled", "state")

    def __init__(self, scheduled: ActivityScheduled, call: ActivityCall, handle: ActivityHandle) -> None:
        self.scheduled = scheduled
        self.call = call
        self.handle = handle
        self.attempt = 1
        self.state = ACTIVITY[NEW][ActivityScheduled]


class Activities:
    """The run's pending activities by number. `limit` is the most bytes that arguments may take."""

    __slots__ = ("_journal", "_limit", "_loop", "_pending", "_wakeups")

    def __init__(self, loop: RunLoop, journal: Journal, wakeups: Wakeups, limit: int) -> None:
        self._loop = loop
        self._journal = journal
        self._wakeups = wakeups
        self._limit = limit
        self._pending: dict[int, Pending] = {}

    def __len__(self) -> int:
        return len(self._pending)

    def __iter__(self) -> Iterator[int]:
        return iter(self._pending)

    def get(self, seq: int) -> Pending | None:
        return self._pending.get(seq)

    def scheduled(self, seq: int) -> ActivityScheduled:
        return self._pending[seq].scheduled

    # ---- from the author's code

    def schedule(self, call: ActivityCall) -> ActivityHandle:
        """Record the call. Raises `PayloadError` if its arguments are too large."""
        size = len(call.args) + len(call.kwargs or b"")
        if size > self._limit and not self._journal.follows(ActivityScheduled):
            raise PayloadError("$", too_large(f"the arguments of activity {call.name!r}", size, self._limit))
        seq, scheduled = self._journal.record(
            ActivityScheduled(
                name=call.name,
                queue=call.queue,
                args=Raw(call.args),
                kwargs=UNSET if call.kwargs is None else Raw(call.kwargs),
                timeout_seconds=call.timeout_seconds,
                retry=call.retry,
            )
        )
        handle = ActivityHandle(loop=self._loop)
        handle._activities = self
        handle._seq = seq
        self._pending[seq] = Pending(scheduled, call, handle)
        return handle

    def cancel(self, seq: int) -> None:
        """Record that the answer is no longer wanted."""
        pending = self._pending[seq]
        self._journal.record(ActivityCancelled(ref=seq, attempt=pending.attempt))
        pending.state = ACTIVITY[pending.state][ActivityCancelled]
        del self._pending[seq]
        self._wakeups.discard(seq)

    def cancel_all(self) -> None:
        """The run closes: record for each activity that its answer is no longer wanted."""
        for seq in list(self._pending):
            self.cancel(seq)

    # ---- from input events

    def completed(self, event: events.ActivityCompleted) -> None:
        pending = self._pending.pop(event.ref)
        pending.state = ACTIVITY[pending.state][events.ActivityCompleted]
        try:
            value = pending.call.decode(event.value)
        except Exception as error:
            pending.handle.set_exception(error)
        else:
            pending.handle.set_result(value)

    def failed(self, event: events.ActivityFailed) -> None:
        pending = self._pending[event.ref]
        if event.retry_at is not None:
            pending.state = ACTIVITY[pending.state][FailedAttempt]
            self._wakeups.add(event.ref, micros(event.retry_at))
            return
        pending.state = ACTIVITY[pending.state][events.ActivityFailed]
        del self._pending[event.ref]
        pending.handle.set_exception(
            activity_error(pending.scheduled.name, event.attempt, event.error, pending.call.raises)
        )

    def retried(self, event: events.ActivityRetried) -> None:
        pending = self._pending[event.ref]
        pending.state = ACTIVITY[pending.state][events.ActivityRetried]
        pending.attempt = event.attempt
        self._wakeups.discard(event.ref)


def too_large(what: str, size: int, limit: int) -> str:
    """The words for a payload over the limit."""
    return (
        f"{what} would take {size} bytes, and {limit} are allowed (EVERSTEP_MAX_PAYLOAD_BYTES): "
        "store the data elsewhere and pass a reference to it"
    )


def retry_at(policy: RetryPolicy | None, error: ErrorInfo, key: str, attempt: int, now: int) -> int | None:
    """When the next attempt starts, or None if there is none. `key` names the activity in the whole installation."""
    policy = policy or _DEFAULT_POLICY
    if not error.retryable or gives_up(policy.give_up_on, error):
        return None
    if policy.max_attempts is not None and attempt >= policy.max_attempts:
        return None
    return now + round(_delay_seconds(policy, error, key, attempt) * 1_000_000)


def _delay_seconds(policy: RetryPolicy, error: ErrorInfo, key: str, attempt: int) -> float:
    if error.retry_after_seconds is not None:
        return min(max(error.retry_after_seconds, 0.0), _LONGEST_SECONDS)
    try:
        backoff = min(policy.initial_seconds * policy.factor ** (attempt - 1), policy.maximum_seconds)
    except OverflowError:
        backoff = policy.maximum_seconds
    spread = zlib.crc32(f"{key}/{attempt}".encode()) / 0xFFFFFFFF * 2 - 1
    return min(max(backoff * (1 + policy.jitter * spread), 0.0), _LONGEST_SECONDS)


# A hundred years, so that no delay leaves the calendar.
_LONGEST_SECONDS = 100 * 365 * 86_400.0
