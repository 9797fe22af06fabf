"""Answers reach Kafka in order, whatever it refuses, and what depends on them is told once they are there."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from aiokafka import AIOKafkaConsumer
from tests.worker import flow
from tests.worker.kit import Orchestrator, eventually, installation, running, settings_of
from tests.worker.test_parts import FakeRecord

from everstep.kafka import connection
from everstep.stack import Stack
from everstep_schemas.wire import ActivityCompleted, Outgoing
from everstep_worker.deliveries import Delivery, Partition
from everstep_worker.results import Parcel, Results

pytestmark = pytest.mark.integration


class _Sender:
    """A `Results` on real Kafka, and the offsets of what it has told to be answered."""

    def __init__(self, orchestrator: Orchestrator) -> None:
        self._topic = orchestrator.topics.inbox
        self.partition = Partition(0)
        self.results = Results(
            connection(orchestrator.settings),
            max_batch_bytes=16_384,
            max_request_bytes=8 << 20,
            substitute=self._substitute,
            sent=lambda: None,
        )
        self._count = 0

    def send(self, size: int = 10) -> None:
        delivery = Delivery(FakeRecord(self._count), self.partition)
        self.partition.watermark.begin(self._count)
        value = str(self._count).encode().ljust(size)
        self.results.send(Parcel(Outgoing(topic=self._topic, partition=1, value=value), [delivery]))
        self._count += 1

    def _substitute(self, parcel: Parcel, error: Exception) -> Outgoing:
        return replace_value(parcel.message, parcel.message.value.split()[0] + b" refused")

    @property
    def answered(self) -> int:
        return self.partition.watermark.position


def replace_value(message: Outgoing, value: bytes) -> Outgoing:
    return Outgoing(topic=message.topic, partition=message.partition, value=value)


@asynccontextmanager
async def _sender(orchestrator: Orchestrator) -> AsyncIterator[_Sender]:
    sender = _Sender(orchestrator)
    await sender.results.start()
    try:
        yield sender
    finally:
        await sender.results.close()


async def _read(consumer: AIOKafkaConsumer, count: int) -> list[bytes]:
    return [(await consumer.getone()).value for _ in range(count)]


async def test_in_the_order_in_which_they_were_sent(orchestrator: Orchestrator) -> None:
    async with _sender(orchestrator) as sender:
        for _ in range(5_000):
            sender.send()
        await sender.results.flush(60)
        assert sender.answered == 5_000
    assert [int(value) for value in await _read(orchestrator.inbox, 5_000)] == list(range(5_000))


async def test_what_kafka_refuses_is_replaced_and_nothing_overtakes_it(orchestrator: Orchestrator) -> None:
    """The producer survives it too: aiokafka's own is unusable for the partition after a refused batch."""
    async with _sender(orchestrator) as sender:
        for size in (10, 10, 3 << 20, 10, 2 << 20, 10):
            sender.send(size)
        await sender.results.flush(60)
        sender.send()
        await sender.results.flush(60)
        assert sender.answered == 7
    values = await _read(orchestrator.inbox, 7)
    assert [int(value.split()[0]) for value in values] == list(range(7))
    assert [index for index, value in enumerate(values) if b"refused" in value] == [2, 4]


async def test_nothing_is_answered_before_kafka_has_it_and_everything_after(private_stack: Stack) -> None:
    settings = settings_of(private_stack.kafka_bootstrap, "away")
    async with installation(settings) as orchestrator, _sender(orchestrator) as sender:
        sender.send()
        await sender.results.flush(60)
        await private_stack.kafka.kill()
        for _ in range(100):
            sender.send()
        assert sender.answered == 1
        await private_stack.kafka.start()
        await eventually(lambda: sender.answered == 101)
        values = await _read(orchestrator.inbox, 101)
        assert [int(value) for value in dict.fromkeys(values)] == list(range(101))


async def test_fetching_pauses_while_too_much_waits(
    orchestrator: Orchestrator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("everstep_worker.results.MAX_PENDING_BYTES", 100)
    async with _sender(orchestrator) as sender:
        for _ in range(11):
            sender.send(10)
        assert not sender.results.room.is_set()
        await sender.results.flush(60)
        assert sender.results.room.is_set()


async def test_an_answer_that_the_topic_does_not_take_is_a_final_error(kafka_bootstrap: str, topic_prefix: str) -> None:
    """The topics were made for small payloads, and the setting was raised since."""
    made = settings_of(kafka_bootstrap, topic_prefix, max_payload_bytes=1024)
    async with (
        installation(made, "default") as orchestrator,
        running(flow.app, replace(made, max_payload_bytes=1 << 20)),
    ):
        before = orchestrator.command("greet", "Ann")
        await orchestrator.send(before)
        error = await orchestrator.failure_of("text_of", 600_000)
        assert (error.type, error.retryable) == ("PayloadTooLarge", False)
        assert "max.message.bytes" in error.message
        assert isinstance(await orchestrator.answer_to(before), ActivityCompleted)
        assert await orchestrator.value_of("greet", "Bob") == "hello Bob"
        await orchestrator.until_committed(3)
