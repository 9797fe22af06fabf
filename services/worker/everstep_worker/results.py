"""Sends answers to Kafka, in order per partition, in record batches.

Every partition that has answers waiting has one task: it takes what has gathered, sends it as one batch, waits until
all replicas have it, tells each command that it is answered, and takes what has gathered meanwhile. So batches grow
with load by themselves, a lone answer does not wait, and a command's offset never passes before its answer is safe.

A producer that numbers its batches (idempotence) is unusable for a partition once a batch of it has failed for good:
aiokafka counts the failed batch, the broker does not, and refuses everything after it (measured: OutOfOrderSequence
for ever). Therefore each such failure replaces the producer. Doubles are harmless: answers carry their token.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import (
    KafkaError,
    MessageSizeTooLargeError,
    RecordListTooLargeError,
    UnknownTopicOrPartitionError,
)

from everstep_schemas.wire import ActivityCommand, Outgoing
from everstep_worker.deliveries import Delivery, Record

log = structlog.stdlib.get_logger(__name__)

MAX_PENDING_BYTES = 64 << 20  # answers that Kafka has not taken; beyond, nothing more is fetched
FIRST_RETRY_SECONDS, LAST_RETRY_SECONDS = 0.2, 5.0
UNROUTABLE_SECONDS = 30.0  # a topic may seem to be missing while brokers restart
STOP_SECONDS = 2.0

TooLarge = (MessageSizeTooLargeError, RecordListTooLargeError)
Unroutable = (UnknownTopicOrPartitionError, AssertionError)  # aiokafka asserts that it knows the partition


class Parcel:
    """A record to send and what comes of it.

    Once Kafka has it, the `deliveries` need no further run and `sent` is called. If Kafka will never take it, another
    record goes in its place, of which `refused` is told: `about` is the command that it answers, with its record, None
    if there is nothing else to say.
    """

    __slots__ = ("_watchers", "about", "deliveries", "message", "refused", "sent")

    def __init__(
        self,
        message: Outgoing,
        deliveries: Sequence[Delivery] = (),
        about: tuple[ActivityCommand, Record] | None = None,
        *,
        sent: Callable[[], None] | None = None,
        refused: Callable[[], None] | None = None,
    ) -> None:
        self.message = message
        self.deliveries = deliveries
        self.about = about
        self.sent = sent
        self.refused = refused
        self._watchers: tuple[asyncio.Future[None], ...] = ()

    def watch(self) -> asyncio.Future[None]:
        """Done when this is sent."""
        watcher: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._watchers = (*self._watchers, watcher)
        return watcher

    def close(self) -> None:
        for delivery in self.deliveries:
            delivery.finish()
        if self.sent is not None:
            self.sent()
        for watcher in self._watchers:
            if not watcher.done():
                watcher.set_result(None)


class _Lane:
    """What waits for one partition."""

    __slots__ = ("alone", "failing_since", "partition", "topic", "waiting")

    def __init__(self, topic: str, partition: int) -> None:
        self.topic = topic
        self.partition = partition
        self.waiting: deque[Parcel] = deque()
        self.alone = 0  # so many from the head on go one by one, since together they were refused
        self.failing_since: float | None = None


class Results:
    """The one producer of a worker.

    `substitute` gives the record to send in place of one that Kafka will never take, or None to give up. `sent` is
    called whenever offsets may have moved.
    """

    def __init__(
        self,
        connection: dict[str, Any],
        *,
        max_batch_bytes: int,
        max_request_bytes: int,
        substitute: Callable[[Parcel, Exception], Outgoing | None],
        sent: Callable[[], None],
    ) -> None:
        self._options = connection | {"max_batch_size": max_batch_bytes, "max_request_size": max_request_bytes}
        self._substitute = substitute
        self._sent = sent
        self._producer: AIOKafkaProducer | None = None
        self._renewal = asyncio.Lock()
        self._lanes: dict[tuple[str, int], _Lane] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._pending_bytes = 0
        self.room = asyncio.Event()
        self.room.set()

    async def start(self) -> None:
        """Raises `KafkaError` if no broker can be reached."""
        self._producer = await self._new_producer()

    def send(self, parcel: Parcel) -> None:
        """Queues the record behind all others of its partition."""
        message = parcel.message
        self._pending_bytes += len(message.value)
        if self._pending_bytes > MAX_PENDING_BYTES:
            self.room.clear()
        key = (message.topic, message.partition or 0)
        lane = self._lanes.get(key)
        if lane is None:
            self._lanes[key] = lane = _Lane(*key)
            self._start(self._drain(lane))
        lane.waiting.append(parcel)

    async def flush(self, seconds: float) -> bool:
        """Waits until Kafka has all that was sent so far, or so many seconds; whether it has."""
        watchers = [lane.waiting[-1].watch() for lane in self._lanes.values() if lane.waiting]
        if not watchers:
            return True
        _, unsent = await asyncio.wait(watchers, timeout=seconds)
        return not unsent

    async def close(self) -> None:
        """Stops at once; commands whose answers are still here come again."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._producer is not None:
            await _stop(self._producer)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _drain(self, lane: _Lane) -> None:
        delay = FIRST_RETRY_SECONDS
        while lane.waiting:
            producer = self._producer
            try:
                await self._send_head(producer, lane)
                delay = FIRST_RETRY_SECONDS
            except TooLarge as error:
                self._refused(lane, error)
                await self._renew(producer)
            except Exception as error:  # whatever it is, nothing overtakes what was not sent
                self._failed(lane, error)
                await asyncio.sleep(delay)
                delay = min(2 * delay, LAST_RETRY_SECONDS)
                await self._renew(producer)
        del self._lanes[lane.topic, lane.partition]

    async def _send_head(self, producer: AIOKafkaProducer, lane: _Lane) -> None:
        batch = producer.create_batch()
        now_ms = int(time.time() * 1000)
        count = 0
        for parcel in lane.waiting:
            message = parcel.message
            headers = list(message.headers)  # the compiled builder takes nothing else
            if not batch.append(timestamp=now_ms, key=message.key, value=message.value, headers=headers):
                break
            count += 1
            if lane.alone:
                break
        batch.close()
        acknowledged: Awaitable[object] = await producer.send_batch(batch, lane.topic, partition=lane.partition)
        await acknowledged
        self._close(lane, count)

    def _close(self, lane: _Lane, count: int) -> None:
        lane.failing_since = None
        lane.alone = max(0, lane.alone - count)
        for _ in range(count):
            parcel = lane.waiting.popleft()
            self._pending_bytes -= len(parcel.message.value)
            parcel.close()
        if self._pending_bytes <= MAX_PENDING_BYTES:
            self.room.set()
        self._sent()

    def _refused(self, lane: _Lane, error: Exception) -> None:
        """A batch was too large: first each record alone, and in place of one that is too large alone another."""
        if not lane.alone and len(lane.waiting) > 1:
            lane.alone = len(lane.waiting)
        else:
            self._replace_head(lane, error)

    def _failed(self, lane: _Lane, error: Exception) -> None:
        lane.failing_since = lane.failing_since or time.monotonic()
        seconds = time.monotonic() - lane.failing_since
        log.warning(
            "sending answers failed, trying again",
            topic=lane.topic,
            partition=lane.partition,
            waiting=len(lane.waiting),
            error=f"{type(error).__name__}: {error}",
        )
        if isinstance(error, Unroutable) and seconds >= UNROUTABLE_SECONDS:
            self._replace_head(lane, error)

    def _replace_head(self, lane: _Lane, error: Exception) -> None:
        parcel = lane.waiting.popleft()
        self._pending_bytes -= len(parcel.message.value)
        lane.alone = max(0, lane.alone - 1)
        substitute = self._substitute(parcel, error)
        if substitute is None:
            parcel.close()
            self._sent()
            return
        parcel.message = substitute
        if (substitute.topic, substitute.partition) == (lane.topic, lane.partition):
            self._pending_bytes += len(substitute.value)
            lane.waiting.appendleft(parcel)
            lane.alone += 1
        else:
            self.send(parcel)

    async def _renew(self, broken: AIOKafkaProducer) -> None:
        async with self._renewal:
            if self._producer is not broken:
                return
            with contextlib.suppress(KafkaError, OSError):
                self._producer = await self._new_producer()
                self._start(_stop(broken))

    async def _new_producer(self) -> AIOKafkaProducer:
        producer = AIOKafkaProducer(acks="all", enable_idempotence=True, linger_ms=0, **self._options)
        try:
            await producer.start()
        except BaseException:
            await _stop(producer)
            raise
        return producer


async def _stop(producer: AIOKafkaProducer) -> None:
    """Lets what is on its way arrive, for a moment."""
    with contextlib.suppress(KafkaError, OSError, TimeoutError):
        async with asyncio.timeout(STOP_SECONDS):
            await producer.stop()
