"""Plays the orchestrator towards a worker with plain aiokafka: sends commands, reads answers and dead letters."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from msgspec import Raw

from everstep import App
from everstep.admin import topics
from everstep.settings import Settings
from everstep_schemas import cloudevents
from everstep_schemas.names import Topics, idempotency_key
from everstep_schemas.wire import (
    ActivitiesRenewed,
    ActivityCommand,
    ActivityCompleted,
    ActivityFailed,
    ActivityStarted,
    Control,
    ReplyTo,
    encoder,
    inbox_decoder,
)
from everstep_worker.times import Times
from everstep_worker.worker import Worker

Answer = ActivityCompleted | ActivityFailed

SHARDS = 2
PARTITIONS = 2
PATIENCE_SECONDS = 60.0


async def eventually(condition: Callable[[], bool]) -> None:
    """Returns once the condition holds; a test's own timeout ends a wait in vain."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not condition():  # noqa: ASYNC110 - what is asked may change in a thread
            await asyncio.sleep(0.01)


async def eventually_async(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not await condition():  # noqa: ASYNC110 - what is asked lives in Kafka or another process
            await asyncio.sleep(0.05)


@dataclass
class Orchestrator:
    """One installation as its workers see it."""

    settings: Settings
    producer: AIOKafkaProducer
    inbox: AIOKafkaConsumer
    dlq: AIOKafkaConsumer
    admin: AIOKafkaAdminClient
    answers: list[Any] = field(default_factory=list)  # records, in the order in which they were read
    _numbers: Any = field(default_factory=lambda: itertools.count(1))

    @property
    def topics(self) -> Topics:
        return Topics(self.settings.topic_prefix)

    def command(self, activity: str, *args: object, **changes: Any) -> ActivityCommand:
        """A command of its own run."""
        number = next(self._numbers)
        workflow_id = changes.pop("workflow_id", f"order-{number}")
        values: dict[str, Any] = {
            "workflow_id": workflow_id,
            "run": 1,
            "seq": 2,
            "attempt": 1,
            "token": f"{number % SHARDS:x}.{number:x}.2.1.nonce",
            "activity": activity,
            "workflow": "fulfil_order",
            "idempotency_key": idempotency_key(workflow_id, 1, 2),
            "reply_to": ReplyTo(self.topics.inbox, number % SHARDS),
            "args": Raw(json.dumps(args).encode()),
            "timeout_seconds": 30.0,
        }
        return ActivityCommand(**(values | changes))

    async def send(self, *commands: ActivityCommand, queue: str = "default", partition: int = 0) -> None:
        for command in commands:
            headers = cloudevents.headers("everstep.activity.command", command.token)
            await self.send_bytes(encoder.encode(command), list(headers), queue=queue, partition=partition)

    async def send_bytes(
        self, value: bytes, headers: list[tuple[str, bytes]], *, queue: str = "default", partition: int = 0
    ) -> int:
        """Returns the offset."""
        record = await self.producer.send_and_wait(
            self.topics.activities(queue), value, partition=partition, headers=headers
        )
        return int(record.offset)

    async def control(self, kind: Any, token: str) -> None:
        value = encoder.encode(Control(kind=kind, token=token))
        await self.producer.send_and_wait(self.topics.control, value, partition=0)

    async def call(self, activity: str, *args: object, **changes: Any) -> Answer:
        """Sends a command and returns its answer."""
        command = self.command(activity, *args, **changes)
        await self.send(command)
        return await self.answer_to(command)

    async def settle(self) -> None:
        """Returns when the partitions have been shared out, so that whoever has one knows what is new in it."""
        commands = [self.command("greet", str(partition)) for partition in range(PARTITIONS)]
        for partition, command in enumerate(commands):
            await self.send(command, partition=partition)
            await self.answer_to(command)

    async def value_of(self, activity: str, *args: object, **changes: Any) -> Any:
        answer = await self.call(activity, *args, **changes)
        assert isinstance(answer, ActivityCompleted), answer
        return json.loads(bytes(answer.value))

    async def failure_of(self, activity: str, *args: object, **changes: Any) -> Any:
        answer = await self.call(activity, *args, **changes)
        assert isinstance(answer, ActivityFailed), answer
        return answer.error

    async def answer_to(self, command: ActivityCommand) -> Answer:
        """The first answer to the command."""
        return (await self.answers_to(command, 1))[0]

    async def answers_to(self, command: ActivityCommand, count: int) -> list[Answer]:
        await self.hear(lambda: len(self.read_so_far(command)) >= count)
        found = self.read_so_far(command)
        for answer in found:
            assert (answer.workflow_id, answer.run, answer.seq, answer.attempt) == (
                command.workflow_id,
                command.run,
                command.seq,
                command.attempt,
            )
        return found

    async def until_answered(self, commands: Iterable[ActivityCommand]) -> None:
        """Returns when every one of many commands has an answer."""
        open_tokens = {command.token for command in commands}
        read = 0
        async with asyncio.timeout(PATIENCE_SECONDS):
            while open_tokens:
                decoded = [inbox_decoder.decode(record.value) for record in self.answers[read:]]
                open_tokens -= {one.token for one in decoded if isinstance(one, Answer)}
                read = len(self.answers)
                await self._read()

    def read_so_far(self, command: ActivityCommand) -> list[Answer]:
        return [one for one in self.said() if isinstance(one, Answer) and one.token == command.token]

    def said(self) -> list[Any]:
        """What workers have said so far: of one partition in order."""
        return [inbox_decoder.decode(record.value) for record in self.answers]

    def check_outs(self, command: ActivityCommand) -> list[ActivityStarted]:
        return [one for one in self.said() if isinstance(one, ActivityStarted) and one.token == command.token]

    def renewals(self, command: ActivityCommand) -> list[ActivitiesRenewed]:
        return [one for one in self.said() if isinstance(one, ActivitiesRenewed) and command.token in one.tokens]

    def heartbeats(self, command: ActivityCommand) -> list[Any]:
        """The details of those that were reported."""
        renewals = [one for one in self.said() if isinstance(one, ActivitiesRenewed)]
        beats = [beat for one in renewals for beat in one.heartbeats if beat.token == command.token]
        return [json.loads(bytes(beat.details)) for beat in beats]

    def given_back(self, command: ActivityCommand) -> bool:
        return any(isinstance(one, ActivitiesRenewed) and command.token in one.released for one in self.said())

    async def hear(self, condition: Callable[[], object]) -> None:
        """Reads what workers say until the condition holds."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not condition():
                await self._read()

    async def checked_out(self, command: ActivityCommand, times: int = 1) -> list[ActivityStarted]:
        await self.hear(lambda: len(self.check_outs(command)) >= times)
        return self.check_outs(command)

    async def _read(self) -> None:
        for records in (await self.inbox.getmany(timeout_ms=100)).values():
            self.answers += records

    async def dead_letter(self) -> Any:
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await self.dlq.getone()

    async def committed(self, queue: str = "default") -> dict[int, int]:
        """The offsets of the queue's group by partition, those that were never committed left out."""
        offsets = await self.admin.list_consumer_group_offsets(self.topics.worker_group(queue))
        return {tp.partition: meta.offset for tp, meta in offsets.items() if meta.offset >= 0}

    async def until_committed(self, offset: int, queue: str = "default", partition: int = 0) -> None:
        async def reached() -> bool:
            return (await self.committed(queue)).get(partition, 0) >= offset

        await eventually_async(reached)


def settings_of(kafka_bootstrap: str, topic_prefix: str, **changes: Any) -> Settings:
    return replace(
        Settings(
            kafka_bootstrap=kafka_bootstrap,
            topic_prefix=topic_prefix,
            shards=SHARDS,
            queue_partitions=PARTITIONS,
            grace_seconds=5.0,
        ),
        **changes,
    )


@asynccontextmanager
async def installation(settings: Settings, *queues: str) -> AsyncIterator[Orchestrator]:
    """Topics, and somebody who speaks to workers through them."""
    await topics.create(settings, SHARDS, queues or ["default"])
    names = Topics(settings.topic_prefix)
    server = {"bootstrap_servers": settings.kafka_bootstrap}
    producer = AIOKafkaProducer(**server, max_request_size=8 << 20)
    inbox = AIOKafkaConsumer(**server, auto_offset_reset="earliest")
    dlq = AIOKafkaConsumer(**server, auto_offset_reset="earliest")
    admin = AIOKafkaAdminClient(**server)
    for client in (producer, inbox, dlq, admin):
        await client.start()
    inbox.assign([TopicPartition(names.inbox, shard) for shard in range(SHARDS)])
    dlq.assign([TopicPartition(names.dlq, 0)])
    try:
        yield Orchestrator(settings, producer, inbox, dlq, admin)
    finally:
        await producer.stop()
        await inbox.stop()
        await dlq.stop()
        await admin.close()


@asynccontextmanager
async def running(
    app: App, settings: Settings, queues: Mapping[str, int] | None = None, *, times: Times | None = None
) -> AsyncIterator[Worker]:
    """A worker in this process, stopped in the end."""
    worker = Worker(app, queues or {"default": settings.concurrency}, settings, times=times)
    try:
        await worker.start()
        yield worker
    finally:
        await worker.stop()
