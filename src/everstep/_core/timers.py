"""Instants at which a run must be woken, and the durable timers among them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from heapq import heapify, heappop, heappush

from everstep._core.journal import Journal
from everstep_schemas.events import TimerCancelled, TimerStarted

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
# The last microsecond that a datetime can hold: sleeping for ever means until then.
LAST_INSTANT = 253_402_300_799_999_999


def instant(at: int) -> datetime:
    """Microseconds since the epoch as a datetime in UTC; exact."""
    return _EPOCH + timedelta(microseconds=at)


def micros(moment: datetime) -> int:
    """The inverse of `instant`."""
    return (moment - _EPOCH) // _MICROSECOND


class Wakeups:
    """The instants of a run, earliest first and equal ones by number. Cancelled ones are dropped lazily."""

    __slots__ = ("_at", "_heap")

    def __init__(self) -> None:
        self._at: dict[int, int] = {}
        self._heap: list[tuple[int, int]] = []

    def add(self, seq: int, at: int) -> None:
        self._at[seq] = at
        heappush(self._heap, (at, seq))

    def discard(self, seq: int) -> None:
        if self._at.pop(seq, None) is not None and len(self._heap) > 2 * len(self._at) + 16:
            self._heap = [(at, seq) for seq, at in self._at.items()]
            heapify(self._heap)

    def first(self) -> tuple[int, int] | None:
        """The earliest `(instant, seq)`."""
        heap, at = self._heap, self._at
        while heap and at.get(heap[0][1]) != heap[0][0]:
            heappop(heap)
        return heap[0] if heap else None

    def all(self) -> list[tuple[int, int]]:
        """Every `(instant, seq)`, earliest first."""
        return sorted((at, seq) for seq, at in self._at.items())


class Timers:
    """The run's durable timers that have neither fired nor been cancelled."""

    __slots__ = ("_journal", "_pending", "_wakeups")

    def __init__(self, journal: Journal, wakeups: Wakeups) -> None:
        self._journal = journal
        self._wakeups = wakeups
        self._pending: dict[int, Callable[[], object]] = {}

    def __contains__(self, seq: int) -> bool:
        return seq in self._pending

    def __len__(self) -> int:
        return len(self._pending)

    def __iter__(self) -> Iterator[int]:
        return iter(self._pending)

    def start(self, fire_at: int, fire: Callable[[], object]) -> int:
        """Record a timer that calls `fire` at `fire_at`, or when history says so. Returns its number."""
        seq, started = self._journal.record(TimerStarted(fire_at=instant(fire_at)))
        self._pending[seq] = fire
        self._wakeups.add(seq, micros(started.fire_at))
        return seq

    def cancel(self, seq: int) -> None:
        """Record that the timer is no longer wanted, unless it has fired."""
        if self._pending.pop(seq, None) is not None:
            self._wakeups.discard(seq)
            self._journal.record(TimerCancelled(ref=seq))

    def fired(self, seq: int) -> None:
        fire = self._pending.pop(seq)
        self._wakeups.discard(seq)
        fire()
