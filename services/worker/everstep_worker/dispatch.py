"""Decides what starts next: no more at once than the worker may run, nor than each queue may, the queues in turns."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable

from everstep_worker.deliveries import Delivery


class Line:
    """The commands of one queue that were fetched and wait for a free slot."""

    def __init__(self, queue: str, limit: int) -> None:
        self.queue = queue
        self.limit = limit
        self.running = 0
        self.waiting: deque[Delivery] = deque()
        self.held = False
        self.room = asyncio.Event()
        self.room.set()
        self._certain = asyncio.Event()
        self._certain.set()

    @property
    def ready(self) -> bool:
        return bool(self.waiting) and not self.held and self.running < self.limit

    def hold(self) -> None:
        """The group is rebalancing: it is unknown which commands are still this worker's, so nothing begins."""
        self.held = True
        self._certain.clear()

    def resume(self) -> None:
        """It is known again."""
        self.held = False
        self._certain.set()

    async def certain(self) -> None:
        """Returns when nothing is held."""
        await self._certain.wait()

    def extend(self, deliveries: Iterable[Delivery]) -> None:
        self.waiting.extend(deliveries)
        if len(self.waiting) >= self.limit:
            self.room.clear()

    def pop(self) -> Delivery:
        delivery = self.waiting.popleft()
        if len(self.waiting) < self.limit:
            self.room.set()
        return delivery


class Dispatcher:
    """Starts commands while slots are free. `start` says whether the command took one; `release` gives it back."""

    def __init__(self, limit: int, lines: Iterable[Line], start: Callable[[Delivery, Line], bool]) -> None:
        self._limit = limit
        self._lines = deque(lines)
        self._start = start
        self._open = True
        self.running = 0
        self.idle = asyncio.Event()
        self.idle.set()

    def fill(self) -> None:
        """Starts what can start now."""
        while self._open and self.running < self._limit and (line := self._next()):
            delivery = line.pop()
            if delivery.partition.assigned and self._start(delivery, line):
                line.running += 1
                self.running += 1
                self.idle.clear()

    def release(self, line: Line) -> None:
        """A command that took a slot has ended."""
        line.running -= 1
        self.running -= 1
        if not self.running:
            self.idle.set()
        self.fill()

    def close(self) -> None:
        """Nothing starts any more; what was fetched and has not started comes again elsewhere."""
        self._open = False

    def _next(self) -> Line | None:
        for _ in range(len(self._lines)):
            line = self._lines[0]
            self._lines.rotate(-1)
            if line.ready:
                return line
        return None
