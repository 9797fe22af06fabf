"""Creates the topics of an installation with explicit settings, and says what is wrong with those that exist."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError, TopicAlreadyExistsError, for_code

from everstep.kafka import connection, max_dead_letter_bytes, max_record_bytes
from everstep.settings import Settings
from everstep_schemas.names import Topics, why_bad_queue

FOREVER = -1
_VISIBLE_SECONDS = 30
_POLL_SECONDS = 0.05


class TopicError(Exception):
    """Topics are missing or wrong; the message names each and says what to do."""


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic as it must be; `retention` None keeps records until they are deleted as consumed.

    `fixed` topics have one partition per shard, or exactly one; a queue's may grow.
    """

    name: str
    partitions: int
    max_bytes: int
    retention: timedelta | None = None
    fixed: bool = True

    def config(self, replication: int) -> dict[str, str]:
        milliseconds = FOREVER if self.retention is None else self.retention // timedelta(milliseconds=1)
        config = {
            "cleanup.policy": "delete",
            "retention.ms": str(milliseconds),
            "retention.bytes": str(FOREVER),
            "max.message.bytes": str(self.max_bytes),
            "min.insync.replicas": str(2 if replication > 2 else 1),
            "unclean.leader.election.enable": "false",
        }
        if self.retention is not None:
            # Only closed segments expire.
            config["segment.ms"] = str(max(milliseconds // 4, 60_000))
        return config


def topics_of(settings: Settings, shards: int, queues: Iterable[str] = ()) -> list[Topic]:
    """The topics that an installation with so many shards and these queues has."""
    names, size = Topics(settings.topic_prefix), max_record_bytes(settings)
    return [
        Topic(names.submissions, shards, size),
        Topic(names.inbox, shards, size),
        Topic(names.lifecycle, shards, size, timedelta(days=7)),
        Topic(names.control, 1, size, timedelta(hours=1)),
        Topic(names.dlq, 1, max_dead_letter_bytes(settings)),
        *(queue_topic(settings, queue) for queue in queues),
    ]


def queue_topic(settings: Settings, queue: str) -> Topic:
    """The topic of a queue's commands."""
    if why := why_bad_queue(queue):
        raise TopicError(f"the queue {queue!r} cannot have a topic: its name {why}")
    name = Topics(settings.topic_prefix).activities(queue)
    return Topic(name, settings.queue_partitions, max_record_bytes(settings), fixed=False)


@asynccontextmanager
async def admin_client(settings: Settings) -> AsyncIterator[AIOKafkaAdminClient]:
    """A started admin client, closed at the end."""
    admin = AIOKafkaAdminClient(**connection(settings))
    try:
        await admin.start()
        yield admin
    finally:
        await admin.close()


async def create(settings: Settings, shards: int, queues: Iterable[str] = ()) -> list[str]:
    """Creates what is missing and returns the names of what it created; doing it again does nothing.

    Raises `TopicError` if a topic that exists has the wrong number of partitions, or one cannot be created.
    """
    async with admin_client(settings) as admin:
        return await create_topics(admin, topics_of(settings, shards, queues), settings.topic_replication)


async def ensure_queue(admin: AIOKafkaAdminClient, settings: Settings, queue: str) -> bool:
    """Makes sure that the queue has a topic, and returns whether it was created just now.

    Raises `TopicError` if it is missing and `EVERSTEP_CREATE_TOPICS` is false, or it cannot be created.
    """
    topic = queue_topic(settings, queue)
    if topic.name in await admin.list_topics():
        return False
    if not settings.create_topics:
        raise TopicError(
            f"the queue {queue!r} has no topic {topic.name}, and EVERSTEP_CREATE_TOPICS is false:"
            f" create it with `everstep migrate --queue {queue}`"
        )
    return bool(await create_topics(admin, [topic], settings.topic_replication))


async def create_topics(admin: AIOKafkaAdminClient, topics: Sequence[Topic], replication: int) -> list[str]:
    """Creates what is missing and returns its names; raises `TopicError` for all that is wrong at once."""
    new = [NewTopic(t.name, t.partitions, replication, topic_configs=t.config(replication)) for t in topics]
    response: Any = await admin.create_topics(new)
    created: list[str] = []
    existing: list[str] = []
    mistakes: list[str] = []
    for name, code, *message in response.topic_errors:
        if code == 0:
            created.append(name)
        elif for_code(code) is TopicAlreadyExistsError:
            existing.append(name)
        else:
            mistakes.append(f"the topic {name} cannot be created: {_reason(code, message)}")
    mistakes += await _mistakes(admin, [topic for topic in topics if topic.name in {*created, *existing}])
    if mistakes:
        raise TopicError("; ".join(mistakes))
    return created


async def check(admin: AIOKafkaAdminClient, topics: Sequence[Topic]) -> None:
    """Raises `TopicError` for every one of these topics, all of which exist, that is wrong."""
    if mistakes := await _mistakes(admin, topics):
        raise TopicError("; ".join(mistakes))


async def _mistakes(admin: AIOKafkaAdminClient, topics: Sequence[Topic]) -> list[str]:
    found = await _partitions(admin, [topic.name for topic in topics])
    return [_wrong(t, found[t.name]) for t in topics if t.fixed and found[t.name] != t.partitions]


async def problems(admin: AIOKafkaAdminClient, topics: Sequence[Topic]) -> list[str]:
    """What keeps an installation from working with its topics as they are, a sentence for each."""
    existing = set(await admin.list_topics())
    missing = [
        f"the topic {topic.name} is missing: run `everstep migrate`" for topic in topics if topic.name not in existing
    ]
    fixed = [topic for topic in topics if topic.fixed and topic.name in existing]
    found = await _partitions(admin, [topic.name for topic in fixed])
    return missing + [_wrong(topic, found[topic.name]) for topic in fixed if found[topic.name] != topic.partitions]


def _reason(code: int, message: list[str | None]) -> str:
    error: type[KafkaError] = for_code(code)
    return next((text for text in message if text), error.__name__)


def _wrong(topic: Topic, partitions: int) -> str:
    return (
        f"the topic {topic.name} has {partitions} partitions where {topic.partitions} are needed:"
        " delete it if it is empty and run `everstep migrate` again, or choose another EVERSTEP_TOPIC_PREFIX"
    )


async def _partitions(admin: AIOKafkaAdminClient, names: Sequence[str]) -> dict[str, int]:
    """How many partitions topics have, once the brokers know of each and all have leaders: creation does not wait."""
    for _ in range(round(_VISIBLE_SECONDS / _POLL_SECONDS)):
        found = await admin.describe_topics(list(names))
        if all(_is_ready(topic) for topic in found):
            return {topic["topic"]: len(topic["partitions"]) for topic in found}
        await asyncio.sleep(_POLL_SECONDS)
    raise TopicError(
        f"Kafka has not made {', '.join(names)} available for {_VISIBLE_SECONDS} s: look at the brokers' logs"
    )


def _is_ready(topic: dict[str, Any]) -> bool:
    leaders = [partition["leader"] for partition in topic["partitions"]]
    return topic["error_code"] == 0 and bool(leaders) and min(leaders) >= 0
