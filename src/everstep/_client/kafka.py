"""Kafka alone: starts, steers and updates, and awaits the ends of runs that this client started.

The lifecycle of a workflow id is followed from before its start is submitted, so neither the answer to the start nor
the end of the run can be missed, nor that of a run that goes on with its work. An update's answer is awaited in the
same way, whoever started the run. A callback's token does not tell the id whose lifecycle would answer: what is said to
it is durable, and no more is known. Whatever needs what is stored about runs needs an orchestrator's API.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import NoReturn

from aiokafka.errors import KafkaError, MessageSizeTooLargeError
from msgspec import UNSET, Raw

from everstep._client.transport import NO_ATTRIBUTES, Ended, Started, real_time, refusal, update_failure, update_refusal
from everstep.errors import EverstepError, NotReachable, Rejected
from everstep.lifecycle import CLOSING, Fact, LifecycleTail, Watch
from everstep.reads import Filter, HistoryEvent, RunDescription, RunSummary
from everstep.settings import Settings
from everstep.submissions import SubmissionProducer
from everstep_schemas.errors import ErrorInfo
from everstep_schemas.events import AttributeValue
from everstep_schemas.wire import (
    NULL,
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
    LifecycleType.TIMED_OUT: "timed_out",
}
_ANSWERS = (LifecycleType.UPDATE_COMPLETED, LifecycleType.UPDATE_FAILED, LifecycleType.SUBMISSION_REJECTED)


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
        _needs_api(f"to query a run ({workflow_id!r})")

    async def update(self, update: Update) -> Raw:
        with _kafka_errors(self._settings):
            async with self._tail.watch(update.workflow_id) as watch:
                await self._producer.send(update)
                answer = await watch.next(partial(_answers, update.update_id))
        return _answer(update, answer)

    async def callback(self, submission: CallbackSubmission) -> None:
        await self._send(submission)

    def limit(self, timeout: timedelta | None) -> asyncio.Timeout:
        return real_time(timeout)

    async def describe(self, workflow_id: str, run: int | None = None) -> RunDescription:
        _needs_api("to describe a run")

    def history(self, workflow_id: str, run: int | None = None) -> AsyncIterator[HistoryEvent]:
        _needs_api("to read a history")

    def runs(
        self,
        workflow: str | None,
        status: Filter | None,
        limit: int | None,
        attributes: Mapping[str, AttributeValue] = NO_ATTRIBUTES,
    ) -> AsyncIterator[RunSummary]:
        _needs_api("to list runs")


class _End:
    """The end of one run, or of the last that goes on with its work, waited for by any number of callers."""

    def __init__(self, settings: Settings, watch: Watch, answer: Fact, forget: Callable[[], None]) -> None:
        self._settings = settings
        self._watch = watch
        self._answer = answer.body
        self._run = answer.body.run
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
                    self._end = await self._last()
                self._forget()
        return _ended(self._end)

    async def _last(self) -> Fact:
        """Each run's end is heard before that of the next, since all of an id lie in one partition."""
        while True:
            end = await self._watch.next(self._is_end)
            if end.type != LifecycleType.CONTINUED:
                return end
            self._run += 1

    def _is_end(self, fact: Fact) -> bool:
        return fact.type in CLOSING and fact.body.run == self._run


def _concerns(submission_id: str | None, fact: Fact) -> bool:
    return fact.type in CLOSING or fact.body.submission_id == submission_id


def _ended(fact: Fact) -> Ended:
    body = fact.body
    return Ended(body.workflow_id, body.run, _STATUS[fact.type], body.result, body.error, body.reason)


def _answers(update_id: str | None, fact: Fact) -> bool:
    return fact.type in _ANSWERS and fact.body.submission_id == update_id


def _answer(update: Update, fact: Fact) -> Raw:
    """What the run answers to an update; an answer that an earlier run gave stands in that one's history alone."""
    body = fact.body
    if fact.type == LifecycleType.UPDATE_COMPLETED:
        return NULL if body.result is UNSET else body.result
    if fact.type == LifecycleType.UPDATE_FAILED:
        raise update_failure(update, body.error or ErrorInfo(type="Unknown"))
    reason = body.reason or ""
    if reason == f"duplicate: update {update.update_id!r} was carried out by an earlier run of this id":
        _needs_api(f"for its answer: {reason.removeprefix('duplicate: ')}, and")
    raise update_refusal(update, reason)


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
