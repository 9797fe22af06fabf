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
    """A queue, a retry policy, and the timeout of one attempt."""

    queue: str = "default"
    retry: Retry = Retry()  # noqa: RUF009 - it is immutable
    timeout: timedelta = seconds(10)  # noqa: RUF009 - it is immutable

    def with_given(
        self, *, queue: str | None = None, retry: Retry | None = None, timeout: timedelta | None = None
    ) -> Options:
        """These, but for what is given."""
        given: dict[str, Any] = {"queue": queue, "retry": retry, "timeout": timeout}
        return replace(self, **{name: one for name, one in given.items() if one is not None})

    def check(self, owner: str) -> None:
        """`RegistrationError` for what makes no sense, in words about `owner`."""
        problem = _why_bad(self.queue, self.retry, self.timeout)
        if problem is not None:
            raise RegistrationError(f"{owner}: {problem}")


def _why_bad(queue: object, retry: object, timeout: object) -> str | None:
    if not isinstance(queue, str):
        return f"queue is {queue!r}, not a name"
    if problem := why_bad_queue(queue):
        return f"the queue {queue!r} {problem}"
    if not isinstance(retry, Retry):
        return f"retry is `Retry(max_attempts=3)` or the like, not {retry!r}"
    if not isinstance(timeout, timedelta):
        return f"timeout is a duration such as seconds(30), not {timeout!r}"
    if timeout <= timedelta():
        return f"timeout is {timeout.total_seconds():g} s; an attempt needs some time"
    return None


BUILT_IN = Options()
