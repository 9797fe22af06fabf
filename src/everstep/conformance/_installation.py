"""Topics of their own on a real Kafka, workers as processes, and this process in the place of the orchestrators."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from everstep import kafka
from everstep.admin import topics
from everstep.conformance._commands import Commands, Sent
from everstep.conformance._hearing import Hearing
from everstep.conformance._process import WorkerProcess
from everstep.settings import Settings
from everstep_schemas import cloudevents
from everstep_schemas.names import Topics
from everstep_schemas.wire import ActivityCommand, Control, encoder

SHARDS = 4
MAX_PAYLOAD_BYTES = 64 << 10
GRACE_SECONDS = 15
WATCH_SECONDS, WATCH_PAUSE_SECONDS = 10.0, 0.2


@dataclass
class Installation:
    """One installation as its workers see it."""

    settings: Settings
    queue: str
    worker_command: Sequence[str]
    directory: Path
    producer: AIOKafkaProducer
    admin: AIOKafkaAdminClient
    hearing: Hearing
    created: list[str]  # topics
    sent: list[Sent] = field(default_factory=list)
    needless: set[str] = field(default_factory=set)  # tokens that were cancelled or dropped
    workers: list[WorkerProcess] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)  # commands that the committed offset passed too early

    def __post_init__(self) -> None:
        self.topics = Topics(self.settings.topic_prefix)
        self.commands = Commands(self.topics.inbox, SHARDS)

    async def start_worker(self, **environment: object) -> WorkerProcess:
        """Another worker; `environment` are settings by their variables."""
        inherited = {name: value for name, value in os.environ.items() if _is_inherited(name)}
        own = {
            "EVERSTEP_KAFKA_BOOTSTRAP": self.settings.kafka_bootstrap,
            "EVERSTEP_TOPIC_PREFIX": self.settings.topic_prefix,
            "EVERSTEP_QUEUE": self.queue,
            "EVERSTEP_MAX_PAYLOAD_BYTES": MAX_PAYLOAD_BYTES,
            "EVERSTEP_GRACE_SECONDS": GRACE_SECONDS,
        }
        variables = inherited | {name: str(value) for name, value in (own | environment).items()}
        log = self.directory / f"{self.settings.topic_prefix}-{len(self.workers)}.log"
        worker = await WorkerProcess.start(self.worker_command, variables, log)
        self.workers.append(worker)
        return worker

    async def send(self, command: ActivityCommand, partition: int, value: bytes | None = None) -> Sent:
        """Puts a command into the queue; `value` are its bytes if they are not what it encodes to."""
        return await self._put(command, value or encoder.encode(command), partition)

    async def send_garbage(self, value: bytes, partition: int) -> Sent:
        return await self._put(None, value, partition)

    async def _put(self, command: ActivityCommand | None, value: bytes, partition: int) -> Sent:
        token = command.token if command else str(uuid.uuid4())
        headers = list(cloudevents.headers("everstep.activity.command", token))
        topic = self.topics.activities(self.queue)
        record = await self.producer.send_and_wait(topic, value, partition=partition, headers=headers)
        sent = Sent(command, partition, record.offset)
        self.sent.append(sent)
        return sent

    async def control(self, kind: Literal["cancel", "drop"], token: str) -> None:
        self.needless.add(token)
        await self.producer.send_and_wait(
            self.topics.control, encoder.encode(Control(kind=kind, token=token)), partition=0
        )

    async def create_topic(self, name: str) -> bool:
        """Somewhere else for answers, with one partition, which are not looked at; whether it was not there before."""
        self.needless |= {one.token for one in self.sent if one.command and one.command.reply_to.topic == name}
        topic = topics.Topic(name, 1, kafka.max_record_bytes(self.settings), fixed=False)
        self.created.append(name)
        return bool(await topics.create_topics(self.admin, [topic], self.settings.topic_replication))

    async def committed(self) -> dict[int, int]:
        """The offsets of the queue's group by partition; 0 where none was committed."""
        offsets = await self.admin.list_consumer_group_offsets(self.topics.worker_group(self.queue))
        found = {partition.partition: max(0, meta.offset) for partition, meta in offsets.items()}
        return {number: found.get(number, 0) for number in range(self.settings.queue_partitions)}

    async def watch_offsets(self) -> None:
        """Notes every command that the committed offset passes though nothing settles it."""
        while True:
            with suppress(KafkaError):  # a broker that is busy is asked again
                await self._look_at_offsets()
            await asyncio.sleep(WATCH_PAUSE_SECONDS)

    async def _look_at_offsets(self) -> None:
        sent = list(self.sent)
        committed = await self.committed()
        if await self.hearing.caught_up(WATCH_SECONDS):
            passed = (one for one in sent if one.offset < committed[one.partition] and not self._is_settled(one))
            self.lost += [str(one) for one in passed]

    def _is_settled(self, sent: Sent) -> bool:
        hearing, token = self.hearing, sent.token
        return bool(not sent.command or token in self.needless or hearing.answers(token) or hearing.check_outs(token))


def _is_inherited(variable: str) -> bool:
    """How to log in to Kafka and how to log; what else is set is for another worker."""
    if variable.startswith("EVERSTEP_KAFKA_BOOTSTRAP"):
        return False
    return not variable.startswith("EVERSTEP_") or variable.startswith(("EVERSTEP_KAFKA_", "EVERSTEP_LOG_"))


@asynccontextmanager
async def installation(
    settings: Settings, queue: str, partitions: int, command: Sequence[str], directory: Path
) -> AsyncIterator[Installation]:
    """A new one under a prefix that nobody has; at the end its workers are killed and its topics deleted."""
    prefix = f"conformance-{uuid.uuid4().hex[:12]}"
    settings = replace(settings, topic_prefix=prefix, queue_partitions=partitions, max_payload_bytes=MAX_PAYLOAD_BYTES)
    async with AsyncExitStack() as exits:
        admin = await exits.enter_async_context(topics.admin_client(settings))
        names = await _create_topics(admin, settings, queue)
        exits.push_async_callback(_delete_topics, admin, names)
        producer = AIOKafkaProducer(**kafka.connection(settings), max_request_size=kafka.max_record_bytes(settings))
        await producer.start()
        exits.push_async_callback(producer.stop)
        consumer = AIOKafkaConsumer(**kafka.connection(settings), auto_offset_reset="earliest")
        await consumer.start()
        exits.push_async_callback(consumer.stop)
        inbox = [TopicPartition(Topics(prefix).inbox, shard) for shard in range(SHARDS)]
        hearing = Hearing(consumer, inbox, TopicPartition(Topics(prefix).dlq, 0))
        exits.push_async_callback(hearing.close)
        opened = Installation(settings, queue, command, directory, producer, admin, hearing, names)
        watching = asyncio.create_task(opened.watch_offsets())
        try:
            yield opened
        finally:
            watching.cancel()
            await asyncio.gather(watching, *(worker.kill() for worker in opened.workers), return_exceptions=True)


async def _create_topics(admin: AIOKafkaAdminClient, settings: Settings, queue: str) -> list[str]:
    """Those that workers use."""
    names = Topics(settings.topic_prefix)
    used = (names.inbox, names.control, names.dlq, names.activities(queue))
    wanted = [topic for topic in topics.topics_of(settings, SHARDS, [queue]) if topic.name in used]
    return await topics.create_topics(admin, wanted, settings.topic_replication)


async def _delete_topics(admin: AIOKafkaAdminClient, names: list[str]) -> None:
    with suppress(KafkaError):  # whoever cannot delete them finds them by their prefix
        await admin.delete_topics(names)
