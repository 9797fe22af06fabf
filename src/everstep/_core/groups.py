"""`asyncio.TaskGroup` within a workflow: Python 3.13's behaviour on every Python, and an order of our own.

When one task fails, the others are cancelled in the order they were created. A task that is done when it is added, such
as the handle of a wait that was answered at once, is looked at in the next turn of the loop, like all others.
"""

from __future__ import annotations

import asyncio
from asyncio import CancelledError
from collections.abc import Coroutine
from contextvars import Context
from typing import Any

from everstep._core.calls import GoOn
from everstep._core.loop import RunLoop

AnyFuture = asyncio.Future[Any]
# These leave a group as they are. To go on as a new run is no error.
_FATAL = (SystemExit, KeyboardInterrupt, GoOn)


class Group:
    """The state of one entered TaskGroup."""

    def __init__(self, loop: RunLoop) -> None:
        parent = asyncio.current_task(loop)
        if parent is None:
            raise RuntimeError("a TaskGroup cannot determine the parent task")
        self._loop = loop
        self._parent = parent
        self._parent_cancelled = False
        self._tasks: dict[AnyFuture, None] = {}
        self._errors: list[BaseException] = []
        self._fatal: BaseException | None = None
        self._exiting = False
        self._aborting = False
        self._all_done: AnyFuture | None = None

    def create_task(self, coro: Coroutine[Any, Any, Any], name: str | None, context: Context | None) -> Any:
        if self._aborting or (self._exiting and not self._tasks):
            coro.cancel() if isinstance(coro, asyncio.Future) else coro.close()
            raise RuntimeError(f"TaskGroup {'is shutting down' if self._aborting else 'is finished'}")
        task: AnyFuture = self._loop.create_task(coro, name=name, context=context)
        self._tasks[task] = None
        task.add_done_callback(self._task_done)
        return task

    async def exit(self, error: BaseException | None) -> None:
        self._exiting = True
        if error is not None:
            self._failed_body(error)
        cancelled = await self._wait(error if isinstance(error, CancelledError) else None)
        if self._fatal is not None:
            raise self._fatal
        if self._parent_cancelled and self._parent.uncancel() == 0:
            cancelled = None
        if cancelled is not None and not self._errors:
            raise cancelled
        if error is not None and not isinstance(error, CancelledError):
            self._errors.append(error)
        if self._errors:
            self._raise_errors()

    def _failed_body(self, error: BaseException) -> None:
        if isinstance(error, _FATAL):
            self._fatal = self._fatal or error
        if not self._aborting:
            self._abort()

    async def _wait(self, cancelled: CancelledError | None) -> CancelledError | None:
        """Wait for all tasks. Returns the cancellation that came from outside, if one did."""
        while self._tasks:
            self._all_done = self._loop.create_future()
            try:
                await self._all_done
            except CancelledError as error:
                if not self._aborting:
                    cancelled = error
                    self._abort()
            self._all_done = None
        return cancelled

    def _raise_errors(self) -> None:
        if self._parent.cancelling():
            # A cancellation from outside came while the group was aborting: it is delivered at the next await.
            self._parent.uncancel()
            self._parent.cancel()
        errors, self._errors = self._errors, []
        raise BaseExceptionGroup("unhandled errors in a TaskGroup", errors) from None

    def _abort(self) -> None:
        self._aborting = True
        for task in list(self._tasks):
            if not task.done():
                task.cancel()

    def _task_done(self, task: AnyFuture) -> None:
        self._tasks.pop(task, None)
        if self._all_done is not None and not self._tasks and not self._all_done.done():
            self._all_done.set_result(None)
        error = None if task.cancelled() else task.exception()
        if error is None:
            return
        self._errors.append(error)
        if isinstance(error, _FATAL):
            self._fatal = self._fatal or error
        if not self._aborting and not self._parent_cancelled and not self._parent.done():
            self._abort()
            self._parent_cancelled = True
            self._parent.cancel()


# ---- as methods of asyncio.TaskGroup


async def enter(self: Any) -> Any:
    if getattr(self, "_group", None) is not None:
        raise RuntimeError("a TaskGroup can be entered only once")
    self._group = Group(asyncio.get_running_loop())  # type: ignore[arg-type]  # only called on a RunLoop
    return self


async def exit(self: Any, et: object, error: BaseException | None, tb: object) -> None:
    await self._group.exit(error)


def create_task(
    self: Any,
    coro: Coroutine[Any, Any, Any],
    *,
    name: str | None = None,
    context: Context | None = None,
) -> Any:
    group = getattr(self, "_group", None)
    if group is None:
        raise RuntimeError("this TaskGroup has not been entered")
    return group.create_task(coro, name, context)
