"""Races, polling, and retries of whole blocks: small programs on the run's loop, with durable pauses."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar, cast

from everstep._core.handles import Handle, dropped
from everstep._core.retrying import pause_seconds
from everstep._core.scope import Scope
from everstep._core.timers import after
from everstep._error_infos import gives_up, type_name
from everstep.errors import NonRetryable, RetryAfter, WaitTimeout
from everstep.retry import Backoff, Retry
from everstep_schemas.errors import ErrorInfo
from everstep_schemas.events import RetryPolicy

R = TypeVar("R")

MICROSECONDS = 1_000_000


def first(scope: Scope, calls: Sequence[Awaitable[Any]]) -> Handle[Any]:
    """What the first of these to end gives; the others are cancelled."""
    if not calls:
        raise ValueError("ctx.first needs something to wait for")
    futures = [asyncio.ensure_future(call, loop=scope.loop) for call in calls]
    race = scope.loop.create_task(_first(futures), name="first")
    # Not in the task itself, which never begins if it is cancelled at once.
    race.add_done_callback(lambda _: _let_go(futures))
    return cast("Handle[Any]", race)


async def _first(futures: Sequence[asyncio.Future[Any]]) -> Any:
    await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)
    return next(future for future in futures if future.done()).result()


def _let_go(futures: Sequence[asyncio.Future[Any]]) -> None:
    for future in futures:
        # Also one that is done: unless it has won, a signal that it was given goes back.
        future.cancel()
        if future.done() and not future.cancelled():
            future.exception()


def poll(
    scope: Scope,
    call: Callable[[], Awaitable[R]],
    until: Callable[[R], bool],
    every: Backoff,
    deadline: int | None,
) -> Handle[R]:
    """Call until the result is right."""
    if not callable(call):
        raise TypeError(f"ctx.poll calls a function again and again, such as `lambda: look(id)`; {call!r} is none")
    if not isinstance(every, Backoff):
        raise TypeError(f"ctx.poll: every is a Backoff such as Backoff(minutes(1)), not {every!r}")
    return cast("Handle[R]", scope.loop.create_task(_poll(scope, call, until, every, deadline), name="poll"))


async def _poll(
    scope: Scope, call: Callable[[], Awaitable[R]], until: Callable[[R], bool], every: Backoff, deadline: int | None
) -> R:
    limit = asyncio.timeout_at(None if deadline is None else deadline / MICROSECONDS)
    try:
        async with limit:
            return await _right(scope, call, until, Retry(backoff=every).policy() or RetryPolicy())
    except TimeoutError:
        if not limit.expired():
            raise
        raise WaitTimeout("what was polled for did not come true within the timeout") from None


async def _right(scope: Scope, call: Callable[[], Awaitable[R]], until: Callable[[R], bool], policy: RetryPolicy) -> R:
    key, attempt = _key(scope), 1
    while not _is_right(until(result := await call())):
        await _pause(scope, pause_seconds(policy, key, attempt))
        attempt += 1
    return result


def _is_right(answer: object) -> bool:
    if dropped(answer):
        raise TypeError("ctx.poll: `until` awaits something; it only looks at what the call has given")
    return bool(answer)


def retried(scope: Scope, fn: Callable[[], Awaitable[R]], retry: Retry) -> Handle[R]:
    """Run `fn` until it raises nothing, or nothing that is retried."""
    if not callable(fn):
        raise TypeError(f"ctx.retry calls a function again and again, such as `lambda: pay(id)`; {fn!r} is none")
    if not isinstance(retry, Retry):
        raise TypeError(f"ctx.retry needs `Retry(max_attempts=3)` or the like, not {retry!r}")
    return cast("Handle[R]", scope.loop.create_task(_retried(scope, fn, retry), name="retry"))


async def _retried(scope: Scope, fn: Callable[[], Awaitable[R]], retry: Retry) -> R:
    policy, key, attempt = retry.policy() or RetryPolicy(), _key(scope), 1
    while True:
        try:
            return await fn()
        except Exception as error:
            if not _again(retry, policy, error, attempt):
                raise
            given = error.delay.total_seconds() if isinstance(error, RetryAfter) else None
            scope.log("warning", "a block failed and is tried again", {"attempt": attempt, "error": repr(error)})
        await _pause(scope, pause_seconds(policy, key, attempt) if given is None else given)
        attempt += 1


def _again(retry: Retry, policy: RetryPolicy, error: Exception, attempt: int) -> bool:
    if isinstance(error, NonRetryable) or retry.gives_up_on(error):
        return False
    # An activity's error also goes by the name of what it raised.
    names = {type_name(type(error)), str(getattr(error, "type", ""))}
    if any(gives_up(policy.give_up_on, ErrorInfo(type=name)) for name in names):
        return False
    if retry.retry_if is not None and not retry.retry_if(error):
        return False
    return retry.max_attempts is None or attempt < retry.max_attempts


def _key(scope: Scope) -> str:
    """What makes the jitter of these pauses their own, and the same on every replay."""
    return f"{scope.identity.nonce}/{scope.journal.next_seq}"


async def _pause(scope: Scope, seconds: float) -> None:
    await scope.sleep_until(after(scope.loop.now, max(0.0, seconds)))
