"""Everything that waits for Kafka: each wait is bounded, and those for a fact are cut short when the server stops."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from typing import TypeVar

from aiokafka.errors import KafkaError, MessageSizeTooLargeError

from everstep_orchestrator.api.dependencies import Api, Fact, Watch
from everstep_orchestrator.api.problems import INVALID, KAFKA_UNAVAILABLE, TOO_LARGE, Refused
from everstep_schemas.wire import AnySubmission

T = TypeVar("T")

MAX_WAIT_SECONDS = 60.0
KAFKA_SECONDS = 10.0
_AT_ONCE_SECONDS = 0.5
_DURATION = re.compile(r"(\d{1,6}(?:\.\d{1,6})?)(ms|s|m)?")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, None: 1.0}


def seconds_of(wait: str) -> float:
    """The seconds in a text such as `30s`, `500ms`, `1m` or `30`; a minute at most."""
    match = _DURATION.fullmatch(wait)
    if match is None:
        raise Refused(INVALID, f"wait is {wait[:100]!r}: use a number with a unit, as in 30s, 500ms or 1m")
    return min(float(match[1]) * _UNITS[match[2]], MAX_WAIT_SECONDS)


@asynccontextmanager
async def watching(api: Api, workflow_id: str) -> AsyncIterator[Watch]:
    """An open watch of the id."""
    async with AsyncExitStack() as stack:
        with _kafka_problems("ask again"):
            async with asyncio.timeout(KAFKA_SECONDS):
                watch = await stack.enter_async_context(api.lifecycle.watch(workflow_id))
        yield watch


async def next_fact(api: Api, watch: Watch, wanted: Callable[[Fact], bool], seconds: float) -> Fact | None:
    """The next fact that is wanted, or None if it does not come in time or the server stops."""
    fact = asyncio.ensure_future(watch.next(wanted, seconds))
    stop = asyncio.ensure_future(api.stopping.wait())
    try:
        await asyncio.wait((fact, stop), return_when=asyncio.FIRST_COMPLETED)
        with _kafka_problems("ask again"), suppress(TimeoutError):
            return fact.result() if fact.done() else None
        return None
    finally:
        fact.cancel()
        stop.cancel()


async def answered(
    api: Api, watch: Watch, wanted: Callable[[Fact], bool], look: Callable[[], Awaitable[T | None]], seconds: float
) -> Fact | T | None:
    """The next fact that is wanted, or what `look` finds of an answer that was given before the watch was opened.

    Looking means to search a history, so it is only done when no answer comes at once, and at the end. None: neither.
    """
    fact = await next_fact(api, watch, wanted, min(seconds, _AT_ONCE_SECONDS))
    if fact is not None:
        return fact
    if (found := await look()) is not None or seconds <= _AT_ONCE_SECONDS:
        return found
    fact = await next_fact(api, watch, wanted, seconds - _AT_ONCE_SECONDS)
    return fact if fact is not None else await look()


async def submit(api: Api, submission: AnySubmission) -> None:
    """Returns once the submission is durable in Kafka."""
    try:
        with _kafka_problems("it may have arrived: send it again with the same ids, which does nothing twice"):
            async with asyncio.timeout(KAFKA_SECONDS):
                await api.submissions.send(submission)
    except MessageSizeTooLargeError as error:
        raise Refused(TOO_LARGE, f"the submission does not fit into a Kafka record: {error}") from error


@contextmanager
def _kafka_problems(hint: str) -> Iterator[None]:
    try:
        yield
    except MessageSizeTooLargeError:
        raise
    except (KafkaError, TimeoutError, OSError) as error:
        why = str(error) or type(error).__name__
        raise Refused(KAFKA_UNAVAILABLE, f"Kafka does not answer ({why}); {hint}") from error
