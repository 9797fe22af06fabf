"""Kafka alone: starts, steers, and awaits the ends of runs that this client started.

The lifecycle of a workflow id is followed from before its start is submitted, so neither the answer to the start nor
the end of the run can be missed. Whatever needs what is stored about other runs needs an orchestrator's API.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import NoReturn

from aiokafka.errors import KafkaError, MessageSizeTooLargeError
from msgspec import Raw

from everstep._client.transport import Ended, Started, real_time, refusal
from everstep.errors import EverstepError, NotReachable, Rejected
from everstep.lifecycle import CLOSING, Fact, LifecycleTail, Watch
from everstep.reads import Filter, HistoryEvent, RunDescription, RunSummary
from everstep.settings import Settings
from everstep.submissions import SubmissionProducer
from everstep_schemas.wire import (
    AnySubmission,
    CallbackSubmission,
    Cancel,
    LifecycleType,
    Signal,
    Start,
    Terminate,
    Update,
)

_STATUS = {
    LifecycleType.COMPLETED: "completed",
    LifecycleType.FAILED: "failed",
    LifecycleType.CANCELLED: "cancelled",
    LifecycleType.TERMINATED: "terminated",
}


class KafkaTransport:
    """A client with nothing but the brokers' addresses."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._producer = SubmissionProducer(settings)

    async def open(self) -> None:
        with _kafka_errors(self._settings):
            await self._producer.start()
        self._tail = LifecycleTail(self._settings, self._producer.shards)

    async def close(self) -> None:
        await self._tail.close()
        await self._producer.stop()

    async def start(self, start: Start) -> Started:
        watch = Watch(partial(_concerns, start.submission_id))
        with _kafka_errors(self._settings):
            forget = await self._tail.listen(start.workflow_id, watch)
            try:
                await self._producer.send(start)
                answer = await watch.next(lambda fact: fact.body.submission_id == start.submission_id)
                if answer.type == LifecycleType.SUBMISSION_REJECTED:
                    raise refusal(start.workflow_id, answer.body.reason or "")
            except BaseException:
                forget()
                raise
        return Started(answer.body.run, _End(self._settings, watch, answer, forget).wait, forget)

    async def send(self, submission: Signal | Cancel | Terminate) -> None:
        await self._send(submission)

    async def _send(self, submission: AnySubmission) -> None:
        with _kafka_errors(self._settings):
            await self._producer.send(submission)

    async def ended(self, workflow_id: str, run: int | None = None) -> Ended:
        _needs_api(f"to await a run that this client did not start ({workflow_id!r})")

    async def query(self, workflow_id: str, name: str, args: bytes, run: int | None = None) -> Raw:
        _needs_api("to query a run")

    async def update(self, update: Update) -> Raw:
        _needs_api("to update a run")

    async def callback(self, submission: CallbackSubmission) -> None:
        await self._send(submission)

    def limit(self, timeout: timedelta | None) -> asyncio.Timeout:
        return real_time(timeout)

    async def describe(self, workflow_id: str, run: int | None = None) -> RunDescription:
        _needs_api("to describe a run")

    def history(self, workflow_id: str, run: int | None = None) -> AsyncIterator[HistoryEvent]:
        _needs_api("to read a history")

    def runs(self, workflow: str | None, status: Filter | None, limit: int | None) -> AsyncIterator[RunSummary]:
        _needs_api("to list runs")


class _End:
    """The end of one run, waited for by any number of callers."""

    def __init__(self, settings: Settings, watch: Watch, answer: Fact, forget: Callable[[], None]) -> None:
        self._settings = settings
        self._watch = watch
        self._answer = answer.body
        self._forget = forget
        self._one_waits = asyncio.Lock()
        self._end: Fact | None = None

    async def wait(self) -> Ended:
        if self._answer.status is not None:
            what = f"run {self._answer.run} of {self._answer.workflow_id!r} had ended before ({self._answer.status})"
            _needs_api(f"for its result: {what}")
        async with self._one_waits:
            if self._end is None:
                with _kafka_errors(self._settings):
                    self._end = await self._watch.next(self._is_end)
                self._forget()
        return _ended(self._end)

    def _is_end(self, fact: Fact) -> bool:
        return fact.type in CLOSING and fact.body.run == self._answer.run


def _concerns(submission_id: str | None, fact: Fact) -> bool:
    return fact.type in CLOSING or fact.body.submission_id == submission_id


def _ended(fact: Fact) -> Ended:
    body = fact.body
    return Ended(body.workflow_id, body.run, _STATUS[fact.type], body.result, body.error, body.reason)


def _needs_api(what: str) -> NoReturn:
    raise EverstepError(
        f"{what} the client needs an orchestrator's HTTP API: set EVERSTEP_API_URL, or Client(api_url=…)"
    )


@contextmanager
def _kafka_errors(settings: Settings) -> Iterator[None]:
    try:
        yield
    except MessageSizeTooLargeError as error:
        raise Rejected(f"the submission is too large: {error}; pass a reference to large data instead") from error
    except KafkaError as error:
        raise NotReachable(
            f"Kafka at {settings.kafka_bootstrap} does not do as asked ({error}): check EVERSTEP_KAFKA_BOOTSTRAP, the"
            " brokers, and that `everstep migrate` has created the topics"
        ) from error
