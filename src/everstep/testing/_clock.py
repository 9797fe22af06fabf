"""Time that stands still until somebody moves it, and what is due when."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from heapq import heappop, heappush

# At one instant, what happens in the installation comes before what ends somebody's waiting for it.
HAPPENS, ENDS_A_WAIT = 0, 1


class Alarm:
    """Something that is due at an instant, unless it is cancelled before."""

    __slots__ = ("at", "fire")

    def __init__(self, at: int, fire: Callable[[], None]) -> None:
        self.at = at
        self.fire: Callable[[], None] | None = fire

    def cancel(self) -> None:
        """It is not due any more. Idempotent."""
        self.fire = None

    def ring(self) -> None:
        """Do what is due, unless it was cancelled; once."""
        fire, self.fire = self.fire, None
        if fire is not None:
            fire()


class Clock:
    """The present instant in microseconds, and the alarms that are set."""

    def __init__(self, now: int) -> None:
        self.now = now
        self._count = 0
        self._heap: list[tuple[int, int, int, Alarm]] = []

    def set(self, at: int, fire: Callable[[], None], rank: int = HAPPENS) -> Alarm:
        """Have `fire` called once it is `at`; among equals in the order of `rank` and of setting."""
        self._count += 1
        alarm = Alarm(at, fire)
        heappush(self._heap, (at, rank, self._count, alarm))
        return alarm

    def next_at(self) -> int | None:
        """When the next thing is due, which may be now."""
        first = self._first()
        return None if first is None else first[0]

    def advance(self) -> list[Alarm]:
        """Move to the next thing that is due; all that is due with it, of one rank."""
        first = self._first()
        if first is None:
            return []
        self.now = max(self.now, first[0])
        return list(self._due(first[1]))

    def _due(self, rank: int) -> Iterator[Alarm]:
        while (first := self._first()) is not None and first[0] <= self.now and first[1] == rank:
            heappop(self._heap)
            yield first[3]

    def _first(self) -> tuple[int, int, int, Alarm] | None:
        while self._heap and self._heap[0][3].fire is None:
            heappop(self._heap)
        return self._heap[0] if self._heap else None
