"""What calling an activity or a wait of `ctx` returns: scheduled already, awaitable, cancellable.

To a type checker a handle is a Future and a Coroutine, so that `asyncio.wait` takes it and `TaskGroup.create_task` does
too. At run time it is only a Future (`asyncio.wait` refuses coroutines), and the loop's `create_task` returns it as it
is. Tasks have names, so asyncio gives a handle one as well.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from everstep._core.loop import Named

R = TypeVar("R")

if TYPE_CHECKING:

    class Handle(Named[R], Coroutine[Any, Any, R]):
        """Something that a workflow has scheduled: await it, cancel it, gather it."""

        def send(self, value: Any, /) -> Any: ...
        def throw(self, *args: Any) -> Any: ...
        def close(self) -> None: ...

else:

    class Handle(Named):
        """Something that a workflow has scheduled: await it, cancel it, gather it."""

        __slots__ = ()


def fail(future: asyncio.Future[Any], error: BaseException) -> None:
    """End `future` with whatever the author's code has raised."""
    if isinstance(error, StopIteration | GeneratorExit):
        # To whoever awaits, these would not be errors: Python takes them for the end of a coroutine.
        ending, error = error, RuntimeError(f"{type(error).__name__} was raised in what is awaited")
        error.__cause__ = ending
    future.set_exception(error)


def dropped(value: object) -> bool:
    """Whether `value` is something to await; nobody will, so a coroutine is closed."""
    if not inspect.isawaitable(value):
        return False
    if inspect.iscoroutine(value):
        value.close()
    return True
