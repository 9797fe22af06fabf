"""Threads for activities that are plain functions.

They run one after the other, in the order of their calls, as long as each ends at once: so the same test sees the same
order of results each time. One that does not end at once holds up nobody: the next one begins beside it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context
from typing import Any

# What takes longer has something to do, or waits for another activity.
_AT_ONCE_SECONDS = 0.05
_MOST_THREADS = 64

_Call = tuple[Callable[[], Any], Context, "asyncio.Future[Any]"]


class Threads:
    """Calls plain functions; threads are started when they are needed."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._pool: ThreadPoolExecutor | None = None
        self._waiting: deque[_Call] = deque()
        self._first: asyncio.Future[Any] | None = None

    async def call(self, fn: Callable[[], Any], context: Context) -> Any:
        """What `fn` returns or raises in a thread."""
        done: asyncio.Future[Any] = self._loop.create_future()
        self._waiting.append((fn, context, done))
        if self._first is None:
            self._next()
        return await done

    def close(self) -> None:
        """Begin nothing more; what runs is left alone."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)

    def _next(self) -> None:
        self._first = None
        while self._waiting and self._waiting[0][2].done():
            self._waiting.popleft()
        if not self._waiting:
            return
        fn, context, done = self._waiting.popleft()
        if self._pool is None:
            self._pool = ThreadPoolExecutor(_MOST_THREADS, "everstep-activity")
        running = self._loop.run_in_executor(self._pool, context.run, fn)
        self._first = running
        timer = self._loop.call_later(_AT_ONCE_SECONDS, self._go_on, running)

        def ended(running: asyncio.Future[Any]) -> None:
            timer.cancel()
            _hand_over(running, done)
            self._go_on(running)

        running.add_done_callback(ended)

    def _go_on(self, running: asyncio.Future[Any]) -> None:
        if self._first is running:
            self._next()


def _hand_over(running: asyncio.Future[Any], done: asyncio.Future[Any]) -> None:
    if running.cancelled() or done.done():
        return
    error = running.exception()
    if error is None:
        done.set_result(running.result())
    else:
        done.set_exception(error)
