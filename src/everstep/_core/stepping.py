"""How a run's code is stepped and how it is closed.

A step runs from a plain callback: no task of an outer loop may be current (Python 3.14 refuses to nest them). For its
length the run's loop is the running one, asynchronous generators report to the run, and the author's code sees the
run's own context variables. Cyclic garbage collection is off: it runs finalisers, and a `finally` of another run that
is collected here would put its commands into this run's history.

Eviction is explicit for the same reason. The loop turns dead, so that everything its code could use raises
`RunEvicted`; then that is thrown into each suspended coroutine, newest task first, and the open generators are closed
the same way. The author's `finally` runs, can let go of things, and can neither command, nor await, nor record.
"""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import Callable, Coroutine, Generator, Iterator
from contextlib import contextmanager
from contextvars import Context
from typing import Any

from everstep._core.loop import DeadLoop, RunLoop, Task
from everstep._core.ports import Guard
from everstep.errors import RunEvicted

_get_running_loop = asyncio._get_running_loop
_set_running_loop = asyncio._set_running_loop
Suspended = Coroutine[Any, Any, Any] | Generator[Any, Any, Any]
# A coroutine that awaits in its `finally` yields instead of ending; each time RunEvicted is thrown again, this often.
_PATIENCE = 100


def step(loop: RunLoop, guard: Guard, context: Context, first: Callable[..., None], *args: Any) -> str | None:
    """Call `first(*args)` and all that becomes ready. Returns where the code was when the guard broke it, if it did."""
    outer = _get_running_loop()
    if outer is not None and asyncio.current_task(outer) is not None:
        raise RuntimeError("a run was stepped within an asyncio task: step runs from a plain callback (loop.call_soon)")
    collecting = gc.isenabled()
    hooks = sys.get_asyncgen_hooks()
    gc.disable()
    sys.set_asyncgen_hooks(loop.generator_started, loop.generator_dropped)
    _set_running_loop(loop)
    broken: str | None = None
    guard.enter()
    try:
        context.run(first, *args)
        loop.run_ready()
    finally:
        broken = guard.leave()
        _set_running_loop(outer)
        sys.set_asyncgen_hooks(*hooks)
        if collecting:
            gc.enable()
    return broken


@contextmanager
def outside() -> Iterator[None]:
    """Within a step, let Everstep's own code use clocks, files and randomness: no run's loop is running meanwhile."""
    loop = _get_running_loop()
    _set_running_loop(None)
    try:
        yield
    finally:
        _set_running_loop(loop)


def evict(loop: RunLoop, guard: Guard) -> None:
    """Close all of the run's code; afterwards the loop is dead. Idempotent."""
    if type(loop) is DeadLoop:
        return
    tasks = loop.open_tasks()
    loop.die()
    outer = _get_running_loop()
    hooks = sys.get_asyncgen_hooks()
    collecting = gc.isenabled()
    gc.disable()
    sys.set_asyncgen_hooks(loop.generator_started, loop.generator_dropped)
    _set_running_loop(loop)
    guard.enter()
    try:
        while tasks:
            _close_task(tasks.pop())
        _close_generators(loop)
    finally:
        guard.leave()
        loop.let_go()
        _set_running_loop(outer)
        sys.set_asyncgen_hooks(*hooks)
        if collecting:
            gc.enable()


def _close_task(task: Task[Any]) -> None:
    coroutine = task.get_coro()
    task._log_destroy_pending = False  # type: ignore[attr-defined]  # asyncio's own switch, used by gather
    if coroutine is not None:
        task.run_context.run(_throw, coroutine)


def _close_generators(loop: RunLoop) -> None:
    for _ in range(_PATIENCE):
        generators = loop.take_generators()
        if not generators:
            return
        while generators:
            closing = generators.pop().aclose()
            if not _ends(closing.send, None):
                _throw(closing)


def _throw(suspended: Suspended) -> None:
    for _ in range(_PATIENCE):
        if _ends(suspended.throw, RunEvicted("the run has left this process's memory")):
            return


def _ends(resume: Callable[[Any], object], value: object) -> bool:
    """Resume suspended code; whether that ended it, in whatever way."""
    try:
        awaited = resume(value)
    except BaseException:
        # The author's `finally` failed or let RunEvicted pass: either way the code is closed and nobody waits for it.
        return True
    finally:
        # The exception's traceback refers to this frame: a ring would keep the author's frames until a collection.
        del value
    if isinstance(awaited, asyncio.Future):
        # As a task does: the next await of this future suspends again, instead of failing at once for ever.
        awaited._asyncio_future_blocking = False
    return False
