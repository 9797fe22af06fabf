"""Calls that must not run inside a task.

Authors' code has tasks of its own loop; Python 3.14 refuses to step those inside a task of another loop, and
`asyncio.current_task()` would lie to them. A plain callback of the outer loop is no task.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


async def outside_task(fn: Callable[[], T]) -> T:
    """Runs `fn` as a callback of the running loop and gives back what it returns or raises."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def call() -> None:
        try:
            result = fn()
        except BaseException as error:
            if not done.cancelled():
                done.set_exception(error)
        else:
            if not done.cancelled():
                done.set_result(result)

    loop.call_soon(call)
    return await done
