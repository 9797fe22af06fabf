"""Threads for activities that are plain functions.

They are daemons, so a function that never returns cannot keep a stopping process alive, as the standard executor's
threads do. What they finish is handed to the event loop in bulk: however many end while the loop is busy, it is woken
once.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue

Work = Callable[[], Callable[[], None]]


class Threads:
    """At most `size` threads, started when needed. Work beyond waits for one to be free."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._loop = asyncio.get_running_loop()
        self._work: SimpleQueue[Work | None] = SimpleQueue()
        self._done: deque[Callable[[], None]] = deque()
        self._started = 0
        self._busy = 0  # submitted and not done: counted on the loop's thread only
        self._woken = False

    def submit(self, work: Work) -> None:
        """Runs `work` in a thread, and what it returns on the loop. Neither may raise."""
        self._busy += 1
        if self._busy > self._started and self._started < self._size:
            self._started += 1
            threading.Thread(target=self._serve, name=f"everstep-activity-{self._started}", daemon=True).start()
        self._work.put(work)

    def close(self) -> None:
        """Idle threads end; busy ones when they are done, or with the process."""
        for _ in range(self._started):
            self._work.put(None)

    def _serve(self) -> None:
        while (work := self._work.get()) is not None:
            self._done.append(work())
            del work
            if not self._woken:  # else a `_collect` is due that has not looked yet
                self._wake()

    def _wake(self) -> None:
        self._woken = True
        try:
            self._loop.call_soon_threadsafe(self._collect)
        except RuntimeError:  # the loop is closed: the process is ending and nobody waits for this
            self._done.clear()

    def _collect(self) -> None:
        self._woken = False
        while self._done:
            self._busy -= 1
            self._done.popleft()()
