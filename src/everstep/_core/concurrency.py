"""Our own versions of the parts of asyncio that step differently from one Python to the next.

A run recorded on Python 3.11 is replayed on 3.13, so the order in which its code resumes must not follow the
interpreter. `wait_for` makes a task on 3.11 and none on 3.12, `gather` looks at finished futures a turn later on 3.11,
`as_completed` walks a set of coroutines by their addresses, a TaskGroup that is cancelled while it aborts ends in
different ways, semaphores and conditions wake others in different turns. Here each of them behaves as in Python 3.13,
everywhere. `dispatch` puts them in place of asyncio's, for code that runs on a `RunLoop` only.
"""

from __future__ import annotations

import asyncio
from asyncio import CancelledError
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Coroutine, Iterable, Iterator
from typing import Any, cast

from everstep._core.loop import Future, RunLoop

AnyFuture = asyncio.Future[Any]


def _loop() -> RunLoop:
    return cast("RunLoop", asyncio.get_running_loop())


# ---- wait_for


async def wait_for(fut: Awaitable[Any], timeout: float | None) -> Any:
    if timeout is not None and timeout <= 0:
        return await _now_or_never(asyncio.ensure_future(fut))
    async with asyncio.timeout(timeout):
        return await fut


async def _now_or_never(future: AnyFuture) -> Any:
    if not future.done():
        await _cancel_and_wait(future)
    try:
        return future.result()
    except CancelledError as error:
        raise TimeoutError from error


async def _cancel_and_wait(future: AnyFuture) -> None:
    waiter = _loop().create_future()

    def release(_: AnyFuture) -> None:
        if not waiter.done():
            waiter.set_result(None)

    future.add_done_callback(release)
    try:
        future.cancel()
        await waiter
    finally:
        future.remove_done_callback(release)


# ---- gather


class Gathering(Future[list[Any]]):
    """What `gather` returns; cancelling it cancels what it gathers."""

    __slots__ = ("_arguments", "_cancel_requested", "_children", "_left", "_return_exceptions")

    def __init__(self, arguments: list[AnyFuture], return_exceptions: bool, *, loop: RunLoop) -> None:
        super().__init__(loop=loop)
        self._arguments = arguments
        self._children = list(dict.fromkeys(arguments))
        self._left = len(self._children)
        self._return_exceptions = return_exceptions
        self._cancel_requested = False

    def begin(self) -> None:
        done = [child for child in self._children if child.done()]
        for child in self._children:
            if not child.done():
                child.add_done_callback(self._child_done)
        for child in done:
            self._child_done(child)

    def cancel(self, msg: Any | None = None) -> bool:
        if self.done():
            return False
        cancelled = [child.cancel(msg=msg) for child in self._children]
        if any(cancelled):
            # The children decide: one that goes on in spite of it holds up the end, and then this is cancelled.
            self._cancel_requested = True
        return any(cancelled)

    def _child_done(self, child: AnyFuture) -> None:
        self._left -= 1
        if self.done():
            if not child.cancelled():
                child.exception()
            return
        if not self._return_exceptions and (error := _error_of(child)) is not None:
            self.set_exception(error)
        elif self._left == 0:
            if self._cancel_requested:
                self.set_exception(CancelledError())
            else:
                self.set_result([_outcome_of(one) for one in self._arguments])


def _error_of(future: AnyFuture) -> BaseException | None:
    return CancelledError() if future.cancelled() else future.exception()


def _outcome_of(future: AnyFuture) -> Any:
    error = _error_of(future)
    return future.result() if error is None else error


def gather(*coros_or_futures: Awaitable[Any], return_exceptions: bool = False) -> AnyFuture:
    loop = _loop()
    # The same coroutine twice is one task.
    futures = {id(one): asyncio.ensure_future(one) for one in coros_or_futures}
    gathering = Gathering([futures[id(one)] for one in coros_or_futures], return_exceptions, loop=loop)
    if futures:
        gathering.begin()
    else:
        gathering.set_result([])
    return gathering


# ---- as_completed


class AsCompleted:
    """Futures in the order of their completion: as coroutines in a `for` loop, as themselves in an `async for`."""

    def __init__(self, fs: Iterable[Awaitable[Any]], timeout: float | None) -> None:
        self._done: asyncio.Queue[AnyFuture | None] = asyncio.Queue()
        self._todo = dict.fromkeys(asyncio.ensure_future(one) for one in dict.fromkeys(fs))
        self._left = len(self._todo)
        self._timer: asyncio.TimerHandle | None = None
        for future in self._todo:
            future.add_done_callback(self._completed)
        if self._todo and timeout is not None:
            self._timer = _loop().call_later(timeout, self._time_is_up)

    def __iter__(self) -> Iterator[Coroutine[Any, Any, Any]]:
        return self

    def __next__(self) -> Coroutine[Any, Any, Any]:
        if not self._left:
            raise StopIteration
        self._left -= 1
        return self._next_result()

    def __aiter__(self) -> AsyncIterator[AnyFuture]:
        return self

    async def __anext__(self) -> AnyFuture:
        if not self._left:
            raise StopAsyncIteration
        self._left -= 1
        return await self._next()

    async def _next(self) -> AnyFuture:
        future = await self._done.get()
        if future is None:
            raise TimeoutError
        return future

    async def _next_result(self) -> Any:
        return (await self._next()).result()

    def _completed(self, future: AnyFuture) -> None:
        if future in self._todo:
            del self._todo[future]
            self._done.put_nowait(future)
            if not self._todo and self._timer is not None:
                self._timer.cancel()

    def _time_is_up(self) -> None:
        for future in self._todo:
            future.remove_done_callback(self._completed)
            self._done.put_nowait(None)
        self._todo.clear()


def as_completed(fs: Iterable[Awaitable[Any]], *, timeout: float | None = None) -> AsCompleted:
    if asyncio.isfuture(fs) or asyncio.iscoroutine(fs):
        raise TypeError(f"expects an iterable of awaitables, not {type(fs).__name__}")
    return AsCompleted(fs, timeout)


def all_tasks(loop: asyncio.AbstractEventLoop | None = None) -> set[asyncio.Task[Any]]:
    return set((cast("RunLoop", loop) if loop else _loop()).open_tasks())


# ---- Semaphore and Condition, as methods of asyncio's classes


async def semaphore_acquire(self: Any) -> bool:
    if not self.locked():
        self._value -= 1
        return True
    if self._waiters is None:
        self._waiters = deque()
    future = _loop().create_future()
    self._waiters.append(future)
    try:
        try:
            await future
        finally:
            self._waiters.remove(future)
    except CancelledError:
        if future.done() and not future.cancelled():
            # Woken, and cancelled before it could run: the place is free again.
            self._value += 1
        raise
    finally:
        while self._value > 0 and _wake_one(self):
            pass
    return True


def semaphore_release(self: Any) -> None:
    self._value += 1
    _wake_one(self)


def _wake_one(semaphore: Any) -> bool:
    for future in semaphore._waiters or ():
        if not future.done():
            semaphore._value -= 1
            future.set_result(True)
            return True
    return False


async def condition_wait(self: Any) -> bool:
    if not self.locked():
        raise RuntimeError("cannot wait on un-acquired lock")
    future = _loop().create_future()
    self.release()
    try:
        try:
            self._waiters.append(future)
            try:
                await future
                return True
            finally:
                self._waiters.remove(future)
        finally:
            await _acquire_in_spite_of_cancellation(self)
    except BaseException:
        # It may have been notified and cannot use it: let another one wake.
        _notify_one(self)
        raise


async def _acquire_in_spite_of_cancellation(condition: Any) -> None:
    cancelled: CancelledError | None = None
    while True:
        try:
            await condition.acquire()
            break
        except CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled


def _notify_one(condition: Any) -> None:
    for future in condition._waiters:
        if not future.done():
            future.set_result(False)
            return
