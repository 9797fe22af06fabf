"""What is still to be delivered, in order.

Runs are stepped from plain callbacks of the test's loop, never inside a task: their code has tasks of another loop.
So everything that touches a run is put here, and done one after the other between the steps of the test's own tasks.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextvars import copy_context
from typing import TypeVar

T = TypeVar("T")

# So many at once, then the test's own tasks have a turn: a run that goes on for ever must not keep the loop.
_AT_ONCE = 200


class Post:
    """A queue of things to do. `failed` hears of errors that nobody awaits, `emptied` that nothing is left."""

    def __init__(self, failed: Callable[[Exception], None], emptied: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._context = copy_context()
        self._failed = failed
        self._emptied = emptied
        self._todo: deque[Callable[[], None]] = deque()
        self._scheduled = False

    @property
    def busy(self) -> bool:
        return self._scheduled

    def put(self, do: Callable[[], None]) -> None:
        """Have something done in its turn."""
        self._todo.append(do)
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._deliver, context=self._context)

    async def ask(self, do: Callable[[], T]) -> T:
        """Have something done in its turn; what it returns or raises."""
        done: asyncio.Future[T] = self._loop.create_future()

        def answer() -> None:
            try:
                result = do()
            except Exception as error:
                if not done.cancelled():
                    done.set_exception(error)
            else:
                if not done.cancelled():
                    done.set_result(result)

        self.put(answer)
        return await done

    def _deliver(self) -> None:
        for _ in range(_AT_ONCE):
            if not self._todo:
                self._scheduled = False
                self._emptied()
                return
            try:
                self._todo.popleft()()
            except Exception as error:
                self._failed(error)
        self._loop.call_soon(self._deliver, context=self._context)
