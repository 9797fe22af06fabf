"""What can be said of an activity besides its code: where it runs, how long, and how often it is tried."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from everstep.durations import seconds
from everstep.errors import RegistrationError
from everstep.retry import Retry
from everstep_schemas.names import why_bad_queue


@dataclass(frozen=True, slots=True)
class Options:
    """A queue, a retry policy, and how long things may take: None is without limit.

    `timeout` is of one attempt, `total_timeout` of all of them with the pauses between; `queue_timeout` is how long an
    attempt may wait for a worker, `heartbeat_timeout` how long one that runs may be silent.
    """

    queue: str = "default"
    retry: Retry = Retry()  # noqa: RUF009 - it is immutable
    timeout: timedelta = seconds(10)  # noqa: RUF009 - it is immutable
    total_timeout: timedelta | None = None
    queue_timeout: timedelta | None = None
    heartbeat_timeout: timedelta | None = None

    def with_given(self, **given: Any) -> Options:
        """These, but for what is given and not None."""
        return replace(self, **{name: one for name, one in given.items() if one is not None})

    def check(self, owner: str) -> None:
        """`RegistrationError` for what makes no sense, in words about `owner`."""
        problem = _why_bad_queue(self.queue) or _why_bad_retry(self.retry) or self._why_bad_times()
        if problem is not None:
            raise RegistrationError(f"{owner}: {problem}")

    def _why_bad_times(self) -> str | None:
        times = {name: getattr(self, name) for name in _TIMES if getattr(self, name) is not None}
        return next((problem for name, one in times.items() if (problem := why_bad_time(name, one))), None)


_TIMES = ("timeout", "total_timeout", "queue_timeout", "heartbeat_timeout")


def why_bad_time(name: str, time: object) -> str | None:
    """Why `time` cannot be how long something may take."""
    if not isinstance(time, timedelta):
        return f"{name} is a duration such as seconds(30), not {time!r}"
    if time <= timedelta():
        return f"{name} is {time.total_seconds():g} s; it needs some time"
    return None


def _why_bad_queue(queue: object) -> str | None:
    if not isinstance(queue, str):
        return f"queue is {queue!r}, not a name"
    problem = why_bad_queue(queue)
    return None if problem is None else f"the queue {queue!r} {problem}"


def _why_bad_retry(retry: object) -> str | None:
    return None if isinstance(retry, Retry) else f"retry is `Retry(max_attempts=3)` or the like, not {retry!r}"


def in_seconds(time: timedelta | None) -> float | None:
    return None if time is None else time.total_seconds()


BUILT_IN = Options()
