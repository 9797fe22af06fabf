"""The orchestrator's ends of Kafka, on a real broker."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from everstep.stack import Stack
from everstep_orchestrator.kafka.intake import Intake, OutsideLog
from everstep_orchestrator.kafka.publisher import Publisher, Ticket
from everstep_schemas.wire import Outgoing

PARTITIONS = 3


@pytest.fixture
async def topic(kafka_bootstrap: str, topic_prefix: str) -> str:
    name = f"{topic_prefix}.numbers"
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka_bootstrap)
    await admin.start()
    await admin.create_topics([NewTopic(name, PARTITIONS, 1)])
    await admin.close()
    return name


@pytest.fixture
async def intake(kafka_bootstrap: str) -> AsyncIterator[Intake]:
    intake = Intake({"bootstrap_servers": kafka_bootstrap})
    await intake.start()
    yield intake
    await intake.stop()


async def produce(bootstrap: str, topic: str, partition: int, values: range) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap)
    await producer.start()
    for value in values:
        await producer.send(topic, str(value).encode(), partition=partition)
    await producer.stop()


async def take(intake: Intake, count: int) -> dict[int, list[int]]:
    """Reads until `count` records came, by partition."""
    found: dict[int, list[int]] = {}
    async with asyncio.timeout(20):
        while sum(map(len, found.values())) < count:
            for partition, records in (await intake.read(100)).items():
                found.setdefault(partition.partition, []).extend(int(r.value or b"") for r in records)
    return found


async def test_assigning_another_partition_skips_nothing_of_the_first(
    kafka_bootstrap: str, topic: str, intake: Intake
) -> None:
    """aiokafka, left alone, resumes partitions that stay assigned behind what it had fetched but not handed out."""
    first, second = TopicPartition(topic, 0), TopicPartition(topic, 1)
    await produce(kafka_bootstrap, topic, 0, range(200))
    await produce(kafka_bootstrap, topic, 1, range(50))
    intake.assign({first: 0})
    applied: list[int] = []
    async with asyncio.timeout(20):
        while len(applied) < 5:
            for records in (await intake.read(5)).values():
                applied += [int(r.value or b"") for r in records]
    intake.assign({first: len(applied), second: 0})
    found = await take(intake, 250 - len(applied))
    assert applied + found[0] == list(range(200))
    assert found[1] == list(range(50))


async def test_a_read_that_waits_while_the_assignment_changes_gives_the_new_one_and_loses_nothing(
    kafka_bootstrap: str, topic: str, intake: Intake
) -> None:
    partition = TopicPartition(topic, 0)
    await produce(kafka_bootstrap, topic, 0, range(10))
    intake.assign({partition: 0})
    reading = asyncio.create_task(intake.read(100))
    await asyncio.sleep(0)
    intake.assign({partition: 4})
    first = [int(r.value or b"") for r in (await reading).get(partition, ())]
    rest = await take(intake, 6 - len(first))
    assert first + rest.get(0, []) == [4, 5, 6, 7, 8, 9]


async def test_a_position_outside_the_log_is_never_reset(kafka_bootstrap: str, topic: str, intake: Intake) -> None:
    await produce(kafka_bootstrap, topic, 0, range(3))
    partition = TopicPartition(topic, 0)
    intake.assign({partition: 1000})
    with pytest.raises(OutsideLog) as caught:
        await asyncio.wait_for(read_for_ever(intake), 20)
    assert caught.value.partitions == {partition: 1000}


async def test_knows_when_it_has_read_all_there_was(kafka_bootstrap: str, topic: str, intake: Intake) -> None:
    partition = TopicPartition(topic, 0)
    assert intake.ended_at(partition, 0) == 0
    await produce(kafka_bootstrap, topic, 0, range(3))
    before = time.time_ns() // 1_000_000 * 1000
    intake.assign({partition: 0})
    await take(intake, 3)
    assert before <= intake.ended_at(partition, 3) <= time.time_ns() // 1000
    assert intake.ended_at(partition, 2) == 0
    first = intake.ended_at(partition, 3)
    async with asyncio.timeout(20):
        while intake.ended_at(partition, 3) == first:
            await intake.read(100)


def unexpected(ticket: Ticket, message: Outgoing, why: str) -> None:
    raise AssertionError(why)


async def read_for_ever(intake: Intake) -> None:
    while True:
        await intake.read(10)


class OneTopic:
    """A topic of a known size."""

    async def partitions(self, topic: str) -> int:
        return PARTITIONS


async def consume(bootstrap: str, topic: str, count: int) -> dict[int, list[int]]:
    consumer = AIOKafkaConsumer(topic, bootstrap_servers=bootstrap, auto_offset_reset="earliest")
    await consumer.start()
    found: dict[int, list[int]] = {}
    async with asyncio.timeout(30):
        while sum(len(set(values)) for values in found.values()) < count:
            for partition, records in (await consumer.getmany(timeout_ms=500)).items():
                found.setdefault(partition.partition, []).extend(int(r.value or b"") for r in records)
    await consumer.stop()
    return found


def numbers(topic: str, partition: int | None, values: range) -> list[Outgoing]:
    return [Outgoing(topic=topic, partition=partition, value=str(value).encode()) for value in values]


@pytest.fixture
async def acknowledged() -> asyncio.Event:
    return asyncio.Event()


@pytest.fixture
async def publisher(kafka_bootstrap: str, acknowledged: asyncio.Event) -> AsyncIterator[Publisher]:
    connection = {"bootstrap_servers": kafka_bootstrap}
    publisher = Publisher(connection, OneTopic(), max_request_bytes=1 << 20, acked=acknowledged.set, refused=unexpected)
    await publisher.start()
    yield publisher
    await publisher.close()


async def until(condition: asyncio.Event, publisher: Publisher) -> None:
    async with asyncio.timeout(30):
        while publisher.unacknowledged:
            condition.clear()
            await condition.wait()


async def test_messages_of_a_partition_keep_their_order_over_commits(
    kafka_bootstrap: str, topic: str, publisher: Publisher, acknowledged: asyncio.Event
) -> None:
    tickets = [
        publisher.publish(0, commit, numbers(topic, 1, range(commit * 100, commit * 100 + 100))) for commit in range(5)
    ]
    await until(acknowledged, publisher)
    assert [ticket.pending for ticket in tickets] == [0] * 5
    assert await consume(kafka_bootstrap, topic, 500) == {1: list(range(500))}


async def test_messages_for_anywhere_are_spread_over_all_partitions(
    kafka_bootstrap: str, topic: str, publisher: Publisher, acknowledged: asyncio.Event
) -> None:
    publisher.publish(0, 1, numbers(topic, None, range(300)))
    await until(acknowledged, publisher)
    found = await consume(kafka_bootstrap, topic, 300)
    assert sorted(value for values in found.values() for value in values) == list(range(300))
    assert sorted(map(len, found.values())) == [100, 100, 100]


async def test_nothing_of_a_lost_shard_is_sent_any_more(
    kafka_bootstrap: str, topic: str, publisher: Publisher, acknowledged: asyncio.Event
) -> None:
    mine = publisher.publish(0, 1, numbers(topic, 0, range(10)))
    lost = publisher.publish(1, 1, numbers(topic, 0, range(100, 110)))
    publisher.drop([lost])
    publisher.publish(0, 2, numbers(topic, 0, range(10, 20)))
    await until(acknowledged, publisher)
    assert mine.pending == 0
    assert await consume(kafka_bootstrap, topic, 20) == {0: list(range(20))}


async def test_what_is_queued_while_kafka_is_away_goes_out_when_it_is_back(private_stack: Stack) -> None:
    topic, done = "numbers", asyncio.Event()
    bootstrap = private_stack.kafka_bootstrap
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    await admin.create_topics([NewTopic(topic, PARTITIONS, 1)])
    await admin.close()
    publisher = Publisher(
        {"bootstrap_servers": bootstrap}, OneTopic(), max_request_bytes=1 << 20, acked=done.set, refused=unexpected
    )
    await publisher.start()
    publisher.publish(0, 1, numbers(topic, 0, range(10)))
    await until(done, publisher)
    await private_stack.kafka.kill()
    publisher.publish(0, 2, numbers(topic, 0, range(10, 20)))
    publisher.publish(0, 3, numbers(topic, 0, range(20, 30)))
    await private_stack.kafka.start()
    await until(done, publisher)
    found = (await consume(bootstrap, topic, 30))[0]
    await publisher.close()
    assert list(dict.fromkeys(found)) == list(range(30))


async def test_a_message_that_kafka_refuses_is_found_and_overtaken_by_nothing(
    kafka_bootstrap: str, topic_prefix: str
) -> None:
    topic, done = f"{topic_prefix}.small", asyncio.Event()
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka_bootstrap)
    await admin.start()
    await admin.create_topics([NewTopic(topic, PARTITIONS, 1, topic_configs={"max.message.bytes": "5000"})])
    await admin.close()
    refused: list[tuple[Ticket, int]] = []

    def on_refused(ticket: Ticket, message: Outgoing, why: str) -> None:
        assert "MessageSizeTooLarge" in why
        refused.append((ticket, len(message.value)))
        small.settle(ticket)
        done.set()

    connection = {"bootstrap_servers": kafka_bootstrap}
    small = Publisher(connection, OneTopic(), max_request_bytes=1 << 20, acked=done.set, refused=on_refused)
    await small.start()
    large = Outgoing(topic=topic, partition=0, value=b"1" * 6000)
    ticket = small.publish(0, 1, [*numbers(topic, 0, range(5)), large, *numbers(topic, 0, range(5, 10))])
    await until(done, small)
    await small.close()
    assert refused == [(ticket, 6000)]
    assert ticket.pending == 0
    assert await consume(kafka_bootstrap, topic, 10) == {0: list(range(10))}
