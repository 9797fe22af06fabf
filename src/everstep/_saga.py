"""Sagas: what was done is undone in reverse when a later step fails, or the run is cancelled.

An undo is registered when its step has succeeded. A step whose outcome stays unknown, because it was cancelled or timed
out, has none; for that there is `on_failure`, registered before. Undoing goes on in spite of a cancellation that comes
meanwhile, and past an undo that fails: all others are still tried.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from functools import partial
from types import TracebackType
from typing import Any, NamedTuple, ParamSpec, Self, TypeVar

from everstep._core.scope import Scope
from everstep._error_infos import message_of
from everstep.errors import CompensationError

P = ParamSpec("P")
R = TypeVar("R")


class _Undo(NamedTuple):
    name: str
    call: Callable[[], Awaitable[object]]


class Saga:
    """Use as `async with ctx.saga() as saga`. What leaves the block as an exception undoes what was done in it."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope
        self._undo: list[_Undo] = []
        self._entered = 0

    async def __aenter__(self) -> Self:
        self._entered += 1
        return self

    async def step(self, call: Awaitable[R], /, *, undo: Callable[[R], Awaitable[object]]) -> R:
        """Await `call`; from then on `undo(result)` is what undoes it."""
        self._check("saga.step: undo", undo)
        try:
            result = await call
        except asyncio.CancelledError:
            # The step can have succeeded at the very moment in which whoever awaits it is cancelled.
            if isinstance(call, asyncio.Future) and _has_succeeded(call):
                self._undo.append(_Undo(_name(undo), partial(undo, call.result())))
            raise
        self._undo.append(_Undo(_name(undo), partial(undo, result)))
        return result

    def on_failure(self, fn: Callable[P, Awaitable[object]], /, *args: P.args, **kwargs: P.kwargs) -> None:
        """Call this, in its place in the reverse order, if the saga fails."""
        self._check("saga.on_failure: the first argument", fn)
        self._undo.append(_Undo(_name(fn), partial(fn, *args, **kwargs)))

    def _check(self, what: str, fn: object) -> None:
        """Found before the step is done, which could not be undone afterwards."""
        if not callable(fn):
            raise TypeError(f"{what} is a function or an activity, not called yet; this is {fn!r}")
        if not self._entered:
            raise RuntimeError("a saga undoes what is done within its block: `async with ctx.saga() as saga`")

    async def __aexit__(
        self, type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        try:
            await self._leave(error)
        finally:
            self._entered -= 1

    async def _leave(self, error: BaseException | None) -> None:
        if not isinstance(error, Exception | asyncio.CancelledError):
            self._undo.clear()
            return
        failures = await self._undo_all()
        if failures:
            raise CompensationError(_told(failures), failures, error)

    async def _undo_all(self) -> list[tuple[str, BaseException]]:
        """Undo in a task of its own, which nobody cancels. A cancellation meanwhile is passed on afterwards."""
        undoing = self._scope.loop.create_task(self._in_reverse(), name="saga")
        cancelled: asyncio.CancelledError | None = None
        while not undoing.done():
            try:
                await asyncio.wait([undoing])
            except asyncio.CancelledError as error:
                cancelled = error
        failures: list[tuple[str, BaseException]] = undoing.result()
        if cancelled is not None and not failures:
            raise cancelled
        return failures

    async def _in_reverse(self) -> list[tuple[str, BaseException]]:
        failures: list[tuple[str, BaseException]] = []
        while self._undo:
            name, call = self._undo.pop()
            try:
                undone: object = call()
                if not inspect.isawaitable(undone):
                    raise TypeError(f"it gave {undone!r:.100}, nothing to await: write `async def`, or return the call")
                await undone
            except (Exception, asyncio.CancelledError) as error:
                failures.append((name, error))
        return failures


def _has_succeeded(call: asyncio.Future[Any]) -> bool:
    return call.done() and not call.cancelled() and call.exception() is None


def _told(failures: list[tuple[str, BaseException]]) -> str:
    what = "; ".join(f"{name}: {message_of(error) or type(error).__name__}" for name, error in failures)
    return f"{len(failures)} of the saga's compensations failed ({what})"


def _name(fn: Callable[..., Any]) -> str:
    return str(getattr(fn, "name", getattr(fn, "__qualname__", repr(fn))))
