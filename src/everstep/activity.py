"""What an activity can ask about the attempt that runs it: `activity.info().idempotency_key`.

The worker says so in a context variable, which threads that it starts inherit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivityInfo:
    """One attempt of an activity.

    `idempotency_key` is the same for every attempt and repetition of this call, and never that of another call: give it
    to the systems that the activity changes. `attempt` counts from 1. After `deadline` (UTC) nobody waits any more.
    """

    workflow_id: str
    run: int
    seq: int
    attempt: int
    idempotency_key: str
    deadline: datetime | None = None


@dataclass(frozen=True, slots=True)
class _Running:
    info: ActivityInfo
    is_cancelled: Callable[[], bool]


_running: ContextVar[_Running] = ContextVar("everstep_activity")


def info() -> ActivityInfo:
    """The attempt that runs here; `RuntimeError` outside of an activity."""
    return _current("activity.info()").info


def is_cancelled() -> bool:
    """Whether nobody waits for this attempt any more; a plain function (in a thread) asks and returns early.

    `async` activities need not ask: they are cancelled at their next `await`. `RuntimeError` outside of an activity.
    """
    return _current("activity.is_cancelled()").is_cancelled()


def _current(question: str) -> _Running:
    running = _running.get(None)
    if running is None:
        raise RuntimeError(
            f"{question} was asked outside of an activity: only code that a worker runs as an activity has an attempt. "
            "A workflow has `ctx.info`; a test can say `with activity.running(ActivityInfo(…)):`"
        )
    return running


@contextmanager
def running(info: ActivityInfo, is_cancelled: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Within, `info()` and `is_cancelled()` speak of this attempt: for workers, and for tests of an activity alone."""
    token = _running.set(_Running(info, is_cancelled))
    try:
        yield
    finally:
        _running.reset(token)
