"""Publishes what commits caused: in order per partition, in record batches, each batch acknowledged before the next.

A commit's messages form a *ticket*; when the last of them is acknowledged its shard may forget its outbox row. Every
partition has a queue and, while that is not empty, one task that turns all that waits into a batch, sends it and waits
for the acknowledgement; meanwhile more gathers, so batches grow with load by themselves and a lone message does not
wait. A batch that fails is not overtaken: it stays at the head of the queue and is sent again, by a fresh producer if
the old one is broken. Doubles are harmless, since every message has an identity that its receiver applies once.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any, Protocol

import structlog
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError, MessageSizeTooLargeError, RecordListTooLargeError

from everstep_schemas.names import partition_of
from everstep_schemas.wire import Outgoing

log = structlog.get_logger(__name__)

BATCH_BYTES = 1 << 20
RETRY_SECONDS = 0.2
SPREAD = 16  # commands of one commit that go to one partition before the next takes its turn


class Topics(Protocol):
    """Knows how many partitions a topic has, and creates missing ones where that is allowed."""

    async def partitions(self, topic: str) -> int: ...


class ProducerReplaced(Exception):
    """Another partition's failure has cost the producer that was to be used."""


class Ticket:
    """The messages of one commit of one shard that Kafka has not acknowledged yet."""

    __slots__ = ("commit_no", "live", "pending", "shard")

    def __init__(self, shard: int, commit_no: int, pending: int) -> None:
        self.shard = shard
        self.commit_no = commit_no
        self.pending = pending
        self.live = True  # False: the shard was lost, so nothing of it may be sent any more


_Queued = tuple[Ticket, Outgoing]
Refused = Callable[[Ticket, Outgoing, str], None]


class Publisher:
    """The one producer of an orchestrator. `partitions` are those of topics that need not be looked up."""

    def __init__(
        self,
        connection: Mapping[str, Any],
        topics: Topics,
        *,
        max_request_bytes: int,
        acked: Callable[[], None],
        refused: Refused,
        partitions: Mapping[str, int] | None = None,
    ) -> None:
        self._connection = connection
        self._topics = topics
        self._max_request_bytes = max_request_bytes
        self._acked = acked
        self._refused = refused
        self._producer: AIOKafkaProducer | None = None
        self._renewal = asyncio.Lock()
        self._queues: dict[TopicPartition, deque[_Queued]] = {}
        self._unplaced: dict[str, list[_Queued]] = {}
        self._counts: dict[str, int] = dict(partitions or {})
        self._next: dict[str, int] = {}
        self._discovering: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.unacknowledged = 0
        self.failure: BaseException | None = None  # an error of ours: whoever waits for acknowledgements must end

    async def start(self) -> None:
        self._producer = await self._new_producer()

    async def close(self) -> None:
        """Stops at once; what is not acknowledged stays in the outbox."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._producer is not None:
            producer, self._producer = self._producer, None
            with contextlib.suppress(KafkaError, asyncio.TimeoutError):
                await asyncio.wait_for(producer.stop(), timeout=2)

    def publish(self, shard: int, commit_no: int, messages: Sequence[Outgoing]) -> Ticket:
        """Queues the messages of a durable commit behind everything queued before."""
        ticket = Ticket(shard, commit_no, len(messages))
        self.unacknowledged += len(messages)
        for message in messages:
            if message.partition is None:
                self._unplaced.setdefault(message.topic, []).append((ticket, message))
            else:
                self._enqueue(TopicPartition(message.topic, message.partition), (ticket, message))
        for topic in list(self._unplaced):
            self._place(topic)
        return ticket

    def drop(self, tickets: Sequence[Ticket]) -> None:
        """Nothing of these is sent any more, except what is already on its way."""
        for ticket in tickets:
            ticket.live = False

    def cut(self) -> None:
        """Breaks the producer off in the middle of what it does; a new one takes its place for all that is queued."""
        producer, self._producer = self._producer, None
        if producer is not None:
            self._start(_break(producer))

    def _place(self, topic: str) -> None:
        """Puts messages with a key where it belongs, and spreads others over the partitions, a few in a row to each."""
        count = self._counts.get(topic)
        if not count:
            if topic not in self._discovering:
                self._discovering.add(topic)
                self._start(self._discover(topic))
            return
        anywhere: list[_Queued] = []
        for queued in self._unplaced.pop(topic):
            if (key := queued[1].key) is None:
                anywhere.append(queued)
            else:
                self._enqueue(TopicPartition(topic, partition_of(key, count)), queued)
        run = max(SPREAD, -(-len(anywhere) // count))
        for start in range(0, len(anywhere), run):
            partition = self._next[topic] = (self._next.get(topic, -1) + 1) % count
            for queued in anywhere[start : start + run]:
                self._enqueue(TopicPartition(topic, partition), queued)

    async def _discover(self, topic: str) -> None:
        while topic in self._unplaced and not self._counts.get(topic):
            try:
                self._counts[topic] = await self._topics.partitions(topic)
            except (KafkaError, OSError) as error:
                log.warning("cannot look up a topic, trying again", topic=topic, error=str(error))
            if not self._counts.get(topic):
                await asyncio.sleep(RETRY_SECONDS)
        self._discovering.discard(topic)
        if topic in self._unplaced:
            self._place(topic)

    def _enqueue(self, partition: TopicPartition, queued: _Queued) -> None:
        queue = self._queues.get(partition)
        if queue is None:
            self._queues[partition] = queue = deque()
            self._start(self._drain(partition, queue))
        queue.append(queued)

    def _start(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.failure = error
            self._acked()

    async def _drain(self, partition: TopicPartition, queue: deque[_Queued]) -> None:
        alone = 0  # so many messages are sent one by one, to find the one that Kafka refuses
        while queue:
            try:
                sent = await self._send_head(partition, queue, 1 if alone else len(queue))
                alone = max(0, alone - sent)
            except (MessageSizeTooLargeError, RecordListTooLargeError) as error:
                if alone or len(queue) == 1:
                    self._refuse(queue, error)
                alone = max(alone - 1, 0) if alone else len(queue)
                self.cut()
                await self._renew()
            except ProducerReplaced:
                await self._renew()
                await asyncio.sleep(0 if self._producer else RETRY_SECONDS)
            except (KafkaError, OSError, AssertionError) as error:
                log.warning(
                    "publishing failed, trying again",
                    topic=partition.topic,
                    partition=partition.partition,
                    error=f"{type(error).__name__}: {error}",
                )
                # A producer that gave a batch up has a gap in its sequence, which the partition would refuse for ever.
                self.cut()
                await asyncio.sleep(RETRY_SECONDS)
                await self._renew()
        del self._queues[partition]

    async def _send_head(self, partition: TopicPartition, queue: deque[_Queued], most: int) -> int:
        """Sends what fits into a batch, `most` messages at most, and returns how many are done with."""
        producer = self._producer
        if producer is None:
            raise ProducerReplaced
        batch = producer.create_batch()
        now_ms = int(time.time() * 1000)
        taken: list[_Queued] = []
        for ticket, message in islice(queue, most):
            if ticket.live and not batch.append(
                timestamp=now_ms, key=message.key, value=message.value, headers=[*message.headers]
            ):
                break
            taken.append((ticket, message))
        batch.close()
        if batch.record_count():
            await (await producer.send_batch(batch, partition.topic, partition=partition.partition))
        for _ in taken:
            queue.popleft()
        self.unacknowledged -= len(taken)
        for ticket, _ in taken:
            ticket.pending -= 1
        self._acked()
        return len(taken)

    def _refuse(self, queue: deque[_Queued], error: Exception) -> None:
        """The head can never be published. Its ticket stays open until `settle`, so that it cannot be forgotten."""
        ticket, message = queue.popleft()
        log.error("Kafka refuses a message for ever", topic=message.topic, size=len(message.value), error=str(error))
        self._refused(ticket, message, f"{type(error).__name__}: {error}")

    def settle(self, ticket: Ticket) -> None:
        """What a refused message means is written into a commit."""
        ticket.pending -= 1
        self.unacknowledged -= 1

    async def _renew(self) -> None:
        """Makes a new producer, unless another partition's task has made it already."""
        async with self._renewal:
            if self._producer is None:
                with contextlib.suppress(KafkaError, OSError):
                    self._producer = await self._new_producer()

    async def _new_producer(self) -> AIOKafkaProducer:
        producer = AIOKafkaProducer(
            **self._connection,
            acks="all",
            enable_idempotence=True,
            max_batch_size=BATCH_BYTES,
            max_request_size=self._max_request_bytes,
            linger_ms=0,
        )
        try:
            await producer.start()
        except BaseException:
            await producer.stop()
            raise
        return producer


async def _break(producer: AIOKafkaProducer) -> None:
    """Closes the connections first, so that nothing is flushed."""
    with contextlib.suppress(KafkaError, OSError, asyncio.TimeoutError):
        await producer.client.close()
        await asyncio.wait_for(producer.stop(), timeout=1)
