"""The tasks in which the code of an `async` activity runs that was called outside of any workflow.

A test that runs an attempt by hand asks for them, to cancel what runs as a worker would.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

_noted: ContextVar[set[asyncio.Task[Any]] | None] = ContextVar("everstep_tasks", default=None)


@contextmanager
def noting() -> Iterator[set[asyncio.Task[Any]]]:
    """The tasks that run an activity's code within, at any moment."""
    tasks: set[asyncio.Task[Any]] = set()
    token = _noted.set(tasks)
    try:
        yield tasks
    finally:
        _noted.reset(token)


@contextmanager
def noted() -> Iterator[None]:
    """Within, the current task runs an activity's code."""
    tasks, task = _noted.get(), asyncio.current_task()
    if tasks is None or task is None or task in tasks:
        yield
        return
    tasks.add(task)
    try:
        yield
    finally:
        tasks.discard(task)
