"""Puts our versions of asyncio's functions in their places.

Each is replaced once by a dispatcher that asks which loop is running: on a run's loop it calls ours, anywhere else the
original, so a service's own asyncio code in the same process is as it was. Methods are replaced on asyncio's own
classes, which stay the same objects: `isinstance`, subclasses and `from asyncio import TaskGroup` are not affected.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from typing import Any

from everstep._core import concurrency, groups
from everstep._core.loop import RunLoop

_get_running_loop = asyncio._get_running_loop
_FUNCTIONS = ("wait_for", "gather", "as_completed", "all_tasks")
_METHODS: tuple[tuple[type, str, Callable[..., Any]], ...] = (
    (asyncio.TaskGroup, "__aenter__", groups.enter),
    (asyncio.TaskGroup, "__aexit__", groups.exit),
    (asyncio.TaskGroup, "create_task", groups.create_task),
    (asyncio.Semaphore, "acquire", concurrency.semaphore_acquire),
    (asyncio.Semaphore, "release", concurrency.semaphore_release),
    (asyncio.Condition, "wait", concurrency.condition_wait),
)
_MARK = "__everstep_original__"


def install() -> None:
    """Install the dispatchers; again does nothing."""
    for name in _FUNCTIONS:
        dispatcher = _diverting(getattr(asyncio, name), getattr(concurrency, name))
        setattr(asyncio, name, dispatcher)
        setattr(asyncio.tasks, name, dispatcher)
    for owner, name, ours in _METHODS:
        setattr(owner, name, _diverting(getattr(owner, name), ours))


def _diverting(original: Callable[..., Any], ours: Callable[..., Any]) -> Callable[..., Any]:
    if hasattr(original, _MARK):
        return original

    @functools.wraps(original)
    def dispatcher(*args: Any, **kwargs: Any) -> Any:
        return (ours if type(_get_running_loop()) is RunLoop else original)(*args, **kwargs)

    setattr(dispatcher, _MARK, original)
    return dispatcher
