"""Follows the lifecycle topic for those who wait for something to happen to a workflow id.

One consumer without a group serves any number of watches. Each partition is in one of two states: *read*, because
somebody watches an id of its shard or did so a moment ago, or *paused*. A partition that begins to be read starts at
its end, and a watch is open only once that end is known: so a watch misses nothing that is published after it was
opened, and reads next to nothing that came before. Records of ids that nobody watches cost one look at their key.

All partitions are assigned once, and each is sought explicitly in the same step: aiokafka forgets positions at an
assignment, and records with them.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

import msgspec
import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError

from everstep.kafka import connection
from everstep.settings import Settings
from everstep_schemas import cloudevents
from everstep_schemas.names import Topics, shard_of
from everstep_schemas.wire import Lifecycle, LifecycleType, lifecycle_decoder

logger = structlog.stdlib.get_logger(__name__)

# The end of a run. One that is continued goes on as the next run of its id.
CLOSING = frozenset(
    (
        LifecycleType.COMPLETED,
        LifecycleType.FAILED,
        LifecycleType.CANCELLED,
        LifecycleType.TERMINATED,
        LifecycleType.TIMED_OUT,
        LifecycleType.CONTINUED,
    )
)

# How long a partition is still read after its last watch: the next one then starts at once instead of after the
# fetch that is under way, which the broker holds back for up to `_FETCH_WAIT_MS` while there is nothing new.
_LINGER_SECONDS = 10.0
_FETCH_WAIT_MS = 100
_TICK_MS = 1000


@dataclass(frozen=True, slots=True)
class Fact:
    """A record of the lifecycle topic: its `ce_type` and its body."""

    type: str
    body: Lifecycle


class Listener(Protocol):
    """Told on the event loop what happens to an id; must return at once."""

    def heard(self, fact: Fact) -> None: ...
    def lost(self, error: Exception) -> None:
        """Nothing more will be heard."""
        ...


def fact_of(record: ConsumerRecord[bytes | None, bytes | None]) -> Fact | None:
    """The fact in a record, or None if it holds none that is known here."""
    type = cloudevents.header(record.headers, "ce_type")
    try:
        return None if type is None else Fact(type, lifecycle_decoder.decode(record.value or b""))
    except (msgspec.DecodeError, RecursionError) as error:
        logger.warning(
            "unreadable lifecycle record", partition=record.partition, offset=record.offset, error=str(error)
        )
        return None


def _everything(fact: Fact) -> bool:
    return True


class Watch:
    """What happened to a workflow id since the watch was opened and has not been asked for yet.

    `keep` passes over what nobody will ask for, so that a watch that is open for long stays small.
    """

    def __init__(self, keep: Callable[[Fact], bool] = _everything) -> None:
        self._keep = keep
        self._facts: deque[Fact] = deque()
        self._error: Exception | None = None
        self._news = asyncio.Event()

    def heard(self, fact: Fact) -> None:
        if self._keep(fact):
            self._facts.append(fact)
            self._news.set()

    def lost(self, error: Exception) -> None:
        self._error = error
        self._news.set()

    async def next(self, wanted: Callable[[Fact], bool], timeout_seconds: float | None = None) -> Fact:
        """The next fact that is wanted; those before it are passed over for good.

        Raises `TimeoutError` when it does not come in time, `KafkaError` when the topic cannot be read.
        """
        async with asyncio.timeout(timeout_seconds):
            while True:
                while self._facts:
                    if wanted(fact := self._facts.popleft()):
                        return fact
                if self._error is not None:
                    raise self._error
                self._news.clear()
                await self._news.wait()


class LifecycleTail:
    """The lifecycle topic of an installation with `shards` shards. Connects when the first watch is opened."""

    def __init__(self, settings: Settings, shards: int) -> None:
        self._settings = settings
        topic = Topics(settings.topic_prefix).lifecycle
        self._partitions = [TopicPartition(topic, shard) for shard in range(shards)]
        self._listeners: dict[bytes, list[Listener]] = {}
        self._interest: defaultdict[TopicPartition, int] = defaultdict(int)
        self._idle_since: dict[TopicPartition, float] = {}
        self._reading: set[TopicPartition] = set()
        self._some_reading = asyncio.Event()
        self._changing = asyncio.Lock()
        self._consumer: AIOKafkaConsumer | None = None
        self._reader: asyncio.Task[None] | None = None

    @contextlib.asynccontextmanager
    async def watch(self, workflow_id: str) -> AsyncIterator[Watch]:
        """What happens to an id from now on."""
        watch = Watch()
        stop = await self.listen(workflow_id, watch)
        try:
            yield watch
        finally:
            stop()

    async def listen(self, workflow_id: str, listener: Listener) -> Callable[[], None]:
        """Tells `listener` what happens to an id from now on, until the returned function is called.

        Raises `KafkaError` if the topic cannot be read.
        """
        partition = self._partitions[shard_of(workflow_id, len(self._partitions))]
        self._interest[partition] += 1
        self._idle_since.pop(partition, None)
        try:
            if partition not in self._reading:
                await self._read(partition)
        except BaseException:
            self._disregard(partition)
            raise
        key = workflow_id.encode()
        self._listeners.setdefault(key, []).append(listener)
        return lambda: self._forget(key, listener, partition)

    async def close(self) -> None:
        """Stops reading; who still listens hears nothing more."""
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.wait((self._reader,))
        if self._consumer is not None:
            await self._consumer.stop()

    def _forget(self, key: bytes, listener: Listener, partition: TopicPartition) -> None:
        listeners = self._listeners.get(key, [])
        if listener not in listeners:
            return
        listeners.remove(listener)
        if not listeners:
            del self._listeners[key]
        self._disregard(partition)

    def _disregard(self, partition: TopicPartition) -> None:
        self._interest[partition] -= 1
        if not self._interest[partition]:
            self._idle_since[partition] = time.monotonic()

    async def _read(self, partition: TopicPartition) -> None:
        async with self._changing:
            if partition in self._reading:
                return
            consumer = self._consumer = self._consumer or await self._started()
            ends = await consumer.end_offsets([partition])
            consumer.seek(partition, ends[partition])
            consumer.resume(partition)
            self._reading.add(partition)
            self._some_reading.set()
            if self._reader is None or self._reader.done():
                self._reader = asyncio.create_task(self._run(consumer), name="lifecycle tail")

    async def _started(self) -> AIOKafkaConsumer:
        consumer = AIOKafkaConsumer(
            **connection(self._settings),
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            fetch_max_wait_ms=_FETCH_WAIT_MS,
        )
        try:
            await consumer.start()
        except BaseException:
            await consumer.stop()
            raise
        consumer.assign(self._partitions)
        for partition in self._partitions:
            consumer.seek(partition, 0)
        consumer.pause(*self._partitions)
        return consumer

    async def _run(self, consumer: AIOKafkaConsumer) -> None:
        try:
            while True:
                await self._some_reading.wait()
                for records in (await consumer.getmany(timeout_ms=_TICK_MS)).values():
                    self._deliver(records)
                self._pause_idle(consumer)
        except KafkaError as error:
            self._lose(error)

    def _deliver(self, records: Iterable[ConsumerRecord[bytes | None, bytes | None]]) -> None:
        for record in records:
            listeners = self._listeners.get(record.key) if record.key is not None else None
            if listeners and (fact := fact_of(record)) is not None:
                for listener in tuple(listeners):
                    listener.heard(fact)

    def _pause_idle(self, consumer: AIOKafkaConsumer) -> None:
        if not self._idle_since:
            return
        before = time.monotonic() - _LINGER_SECONDS
        for partition in [p for p, since in self._idle_since.items() if since < before]:
            del self._idle_since[partition]
            self._reading.discard(partition)
            consumer.pause(partition)
        if not self._reading:
            self._some_reading.clear()

    def _lose(self, error: KafkaError) -> None:
        """Kafka refuses the topic for good: what only takes time, aiokafka sits out by itself."""
        logger.error("the lifecycle topic cannot be read", error=str(error))
        self._reading.clear()
        for listener in [listener for listeners in self._listeners.values() for listener in listeners]:
            listener.lost(error)
