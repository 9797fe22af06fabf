"""All times of running attempts with one timer: it is armed for the earliest instant at which any could be due.

When it fires, everything that runs is looked at (no more than the worker's slots) and it is armed again. So an attempt
that ends in time costs one comparison, where a timer of its own would cost more than a trivial activity.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterable
from typing import Generic, Protocol, TypeVar


class Timed(Protocol):
    """Something that has to be looked at from time to time."""

    def due(self, now: float) -> float:
        """When next, on the monotonic clock. It may turn out later than it was, but no earlier."""


T = TypeVar("T", bound=Timed)


class Deadlines(Generic[T]):
    """Calls `expire` for each of `running` that is due; after that it is due later, or no longer in `running`."""

    def __init__(self, running: Iterable[T], expire: Callable[[T, float], None]) -> None:
        self._running = running
        self._expire = expire
        self._timer: asyncio.TimerHandle | None = None
        self._armed_for = math.inf

    def watch(self, timed: T) -> None:
        """To be called when `timed` joins `running`."""
        self._arm(timed.due(time.monotonic()))

    def close(self) -> None:
        if self._timer:
            self._timer.cancel()

    def _arm(self, at: float) -> None:
        if at >= self._armed_for:
            return
        if self._timer:
            self._timer.cancel()
        self._armed_for = at
        self._timer = asyncio.get_running_loop().call_later(max(0.0, at - time.monotonic()), self._look)

    def _look(self) -> None:
        now = time.monotonic()
        self._timer, self._armed_for = None, math.inf
        for timed in [timed for timed in self._running if timed.due(now) <= now]:
            self._expire(timed, now)
        self._arm(min((timed.due(now) for timed in self._running), default=math.inf))
