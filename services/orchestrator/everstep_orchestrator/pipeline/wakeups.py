"""The timers of a shard's runs in memory."""

from __future__ import annotations

import heapq


class Wakeups:
    """When runs want to be looked at: exact for runs in memory, a lower bound for the others."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int]] = []
        self._at: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._at)

    def add(self, key: int, at: int) -> None:
        """Look at run `key` at `at`, unless it is looked at earlier anyway."""
        known = self._at.get(key)
        if known is None or at < known:
            self._at[key] = at
            heapq.heappush(self._heap, (at, key))

    def discard(self, key: int) -> None:
        """The run wants nothing any more."""
        self._at.pop(key, None)

    def next(self) -> int | None:
        """The earliest instant, or None."""
        while self._heap and self._at.get(self._heap[0][1]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def pop_due(self, now: int, limit: int) -> list[int]:
        """The keys of runs that are due, at most `limit` of them."""
        due: list[int] = []
        while len(due) < limit and (at := self.next()) is not None and at <= now:
            key = heapq.heappop(self._heap)[1]
            del self._at[key]
            due.append(key)
        return due
