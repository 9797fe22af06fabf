"""Attempt timeouts with one timer for all: it is armed for the earliest instant at which any could be due.

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
    """Something that may run for so long, on the monotonic clock from `started` on (None: not yet)."""

    @property
    def started(self) -> float | None: ...
    @property
    def timeout_seconds(self) -> float: ...


T = TypeVar("T", bound=Timed)


class Deadlines(Generic[T]):
    """Calls `expire` for each of `running` that has run for too long; `expire` takes it out of `running`."""

    def __init__(self, running: Iterable[T], expire: Callable[[T], None]) -> None:
        self._running = running
        self._expire = expire
        self._timer: asyncio.TimerHandle | None = None
        self._armed_for = math.inf

    def watch(self, timed: T) -> None:
        """To be called when `timed` joins `running`, or starts."""
        self._arm(time.monotonic() + timed.timeout_seconds)

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
        for timed in list(self._running):
            due = (now if timed.started is None else timed.started) + timed.timeout_seconds
            if due <= now and timed.started is not None:
                self._expire(timed)
            else:
                self._arm(due)
