"""An installation's topics, and a stand-in for its orchestrators that writes the lifecycle it is told to write."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from everstep.admin import topics
from everstep.kafka import connection
from everstep.settings import Settings
from everstep_schemas import cloudevents
from everstep_schemas.names import Token, Topics, shard_of
from everstep_schemas.wire import (
    AnySubmission,
    CallbackSubmission,
    Lifecycle,
    LifecycleType,
    Start,
    encoder,
    submission_decoder,
)

SHARDS = 3


class Script:
    """Reads every submission and writes lifecycle records, with plain aiokafka."""

    def __init__(self, settings: Settings, producer: AIOKafkaProducer, consumer: AIOKafkaConsumer) -> None:
        self.topics = Topics(settings.topic_prefix)
        self._producer = producer
        self._consumer = consumer

    async def submission(self) -> AnySubmission:
        """The next submission, in the partition of its shard."""
        record = await self._consumer.getone()
        submission: AnySubmission = submission_decoder.decode(record.value)
        if isinstance(submission, CallbackSubmission):
            token = Token.parse(submission.token)
            assert token is not None
            assert (record.partition, record.key) == (token.shard, submission.token.encode())
        else:
            assert record.partition == shard_of(submission.workflow_id, SHARDS)
            assert record.key == submission.workflow_id.encode()
        return submission

    async def start(self) -> Start:
        submission = await self.submission()
        assert isinstance(submission, Start)
        return submission

    async def say(self, type: str, workflow_id: str, run: int = 1, **fields: Any) -> None:
        """Publishes a fact about an id."""
        body = encoder.encode(Lifecycle(workflow_id=workflow_id, run=run, seq=1, at=datetime.now(UTC), **fields))
        await self.write(workflow_id, body, list(cloudevents.headers(type, "x")))

    async def write(self, workflow_id: str, body: bytes, headers: list[tuple[str, bytes]]) -> None:
        await self._producer.send_and_wait(
            self.topics.lifecycle,
            body,
            key=workflow_id.encode(),
            partition=shard_of(workflow_id, SHARDS),
            headers=headers,
        )

    async def accept(self, start: Start, run: int = 1, **fields: Any) -> None:
        await self.say(LifecycleType.STARTED, start.workflow_id, run, submission_id=start.submission_id, **fields)


@pytest.fixture
async def settings(kafka_bootstrap: str, topic_prefix: str) -> Settings:
    settings = Settings(kafka_bootstrap=kafka_bootstrap, topic_prefix=topic_prefix)
    await topics.create(settings, SHARDS)
    return settings


@asynccontextmanager
async def _running(settings: Settings) -> AsyncIterator[Script]:
    consumer = AIOKafkaConsumer(**connection(settings), auto_offset_reset="earliest")
    producer = AIOKafkaProducer(**connection(settings))
    submissions = Topics(settings.topic_prefix).submissions
    await consumer.start()
    await producer.start()
    consumer.assign([TopicPartition(submissions, shard) for shard in range(SHARDS)])
    try:
        yield Script(settings, producer, consumer)
    finally:
        await producer.stop()
        await consumer.stop()


@pytest.fixture
async def script(settings: Settings) -> AsyncIterator[Script]:
    async with _running(settings) as script:
        yield script
