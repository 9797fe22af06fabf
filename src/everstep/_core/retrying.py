"""Whether and when a failed attempt is repeated.

It follows from the policy recorded with the call, the error and the attempt's number alone. The jitter is a hash of
these, so that deciding twice decides the same.
"""

from __future__ import annotations

import zlib

from everstep._core.timers import after
from everstep._error_infos import gives_up
from everstep_schemas.errors import ErrorInfo
from everstep_schemas.events import RetryPolicy

_DEFAULT = RetryPolicy()
# A hundred years, so that no delay leaves the calendar.
_LONGEST_SECONDS = 100 * 365 * 86_400.0


def retry_at(policy: RetryPolicy | None, error: ErrorInfo, key: str, attempt: int, now: int) -> int | None:
    """When the next attempt starts, or None if there is none. `key` names what is retried in the whole installation."""
    policy = policy or _DEFAULT
    if not error.retryable or gives_up(policy.give_up_on, error):
        return None
    if policy.max_attempts is not None and attempt >= policy.max_attempts:
        return None
    if error.retry_after_seconds is not None:
        delay = min(max(error.retry_after_seconds, 0.0), _LONGEST_SECONDS)
    else:
        delay = pause_seconds(policy, key, attempt)
    return after(now, delay)


def pause_seconds(policy: RetryPolicy, key: str, attempt: int) -> float:
    """The pause after an attempt."""
    try:
        backoff = min(policy.initial_seconds * policy.factor ** (attempt - 1), policy.maximum_seconds)
    except OverflowError:
        backoff = policy.maximum_seconds if policy.initial_seconds else 0.0
    spread = zlib.crc32(f"{key}/{attempt}".encode()) / 0xFFFFFFFF * 2 - 1
    return min(max(backoff * (1 + policy.jitter * spread), 0.0), _LONGEST_SECONDS)
