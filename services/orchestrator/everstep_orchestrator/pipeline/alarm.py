"""Wakes the pipeline at the instant of the next timer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Alarm:
    """One timer of the event loop, set to the earliest instant asked for."""

    def __init__(self, now: Callable[[], int], wake: asyncio.Event) -> None:
        self._now = now
        self._wake = wake
        self._at: int | None = None
        self._handle: asyncio.TimerHandle | None = None

    def set(self, at: int | None) -> None:
        """Ring at `at` (microseconds since the epoch), and not at what was asked for before."""
        if at == self._at:
            return
        if self._handle is not None:
            self._handle.cancel()
        self._at, self._handle = at, None
        if at is not None:
            delay = max(0, at - self._now()) / 1_000_000
            self._handle = asyncio.get_running_loop().call_later(delay, self._ring)

    def _ring(self) -> None:
        self._at = None
        self._wake.set()
