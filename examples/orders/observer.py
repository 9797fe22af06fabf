"""Watches two public topics: what was asked of the shop, and what became of it."""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec
from aiokafka import AIOKafkaConsumer
from aiokafka.structs import ConsumerRecord

from everstep_schemas.names import Topics
from everstep_schemas.wire import Lifecycle, LifecycleType

CLOSING = {
    LifecycleType.COMPLETED,
    LifecycleType.FAILED,
    LifecycleType.CANCELLED,
    LifecycleType.TERMINATED,
    LifecycleType.SUBMISSION_REJECTED,
}


class Asked(msgspec.Struct):
    kind: str
    workflow_id: str


@dataclass
class Seen:
    """One order, seen from outside; instants are those of the Kafka records, in seconds."""

    submitted_at: float | None = None
    started: bool = False
    status: str = "submitted"
    closed_at: float | None = None
    outcome: str | None = None

    @property
    def seconds(self) -> float:
        """From the submission to the news of the end."""
        assert self.submitted_at is not None
        assert self.closed_at is not None
        return self.closed_at - self.submitted_at


class Observer:
    """What happened so far to the orders with these ids."""

    def __init__(self, order_ids: Sequence[str], topics: Topics) -> None:
        self.orders = {order_id: Seen() for order_id in order_ids}
        self._topics = topics
        self._news = asyncio.Condition()

    @property
    def started(self) -> int:
        return sum(seen.started for seen in self.orders.values())

    @property
    def closed(self) -> int:
        return sum(seen.outcome is not None for seen in self.orders.values())

    @property
    def outcomes(self) -> dict[str, str]:
        return {order_id: seen.outcome for order_id, seen in self.orders.items() if seen.outcome is not None}

    def counts(self) -> Counter[str]:
        return Counter(seen.outcome or seen.status for seen in self.orders.values())

    async def until(self, condition: Callable[[], bool]) -> None:
        """Returns once `condition`, which is asked whenever something was seen, holds."""
        async with self._news:
            await self._news.wait_for(condition)

    async def watch(self, bootstrap: str) -> None:
        """Follows both topics from their beginning until cancelled."""
        consumer = AIOKafkaConsumer(
            self._topics.submissions,
            self._topics.lifecycle,
            bootstrap_servers=bootstrap,
            auto_offset_reset="earliest",
        )
        async with consumer:
            async for record in consumer:
                self._see(record)
                async with self._news:
                    self._news.notify_all()

    def _see(self, record: ConsumerRecord) -> None:
        if record.topic == self._topics.submissions:
            self._see_submission(record)
        else:
            self._see_fact(dict(record.headers)["ce_type"].decode(), record)

    def _see_submission(self, record: ConsumerRecord) -> None:
        asked = msgspec.json.decode(record.value or b"", type=Asked)
        if asked.kind == "start" and (seen := self.orders.get(asked.workflow_id)):
            seen.submitted_at = record.timestamp / 1000

    def _see_fact(self, fact: str, record: ConsumerRecord) -> None:
        body = msgspec.json.decode(record.value or b"", type=Lifecycle)
        seen = self.orders.get(body.workflow_id)
        if seen is None or seen.outcome is not None:
            return
        if fact == LifecycleType.STARTED:
            seen.started, seen.status = True, "in progress"
        elif fact == LifecycleType.STATUS_CHANGED and body.status:
            seen.status = body.status
        elif fact in CLOSING:
            seen.outcome, seen.closed_at = outcome_of(fact, body), record.timestamp / 1000


def outcome_of(fact: str, body: Lifecycle) -> str:
    if body.result is not msgspec.UNSET:
        return msgspec.json.decode(body.result, type=str)
    ending = fact.rpartition(".")[2]
    why = body.error.message if body.error else body.reason
    return f"{ending}: {why}" if why and fact != LifecycleType.CANCELLED else ending
