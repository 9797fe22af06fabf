"""Reads one queue as a member of its consumer group.

Offsets follow the watermark of each partition, at most some times a second. On a rebalance the worker stops starting
commands, checks out what runs, waits a moment until Kafka has that and all answers, commits, and forgets what it had
fetched of partitions that went elsewhere. So what runs goes on and nobody repeats it, unless Kafka was too slow; then
whoever repeats the command answers with the same token, which is applied once. Of a partition that comes back in the
same rebalance, Kafka sends everything above the committed offset again; the watermark knows what of that has begun
here. Of a partition that is new here, the first commands may have begun elsewhere, unless they were written after it
was assigned. A worker that has a fixed id is a static member: when it returns within the session timeout it has its
partitions again at once, and nobody else notices.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.errors import KafkaError

from everstep_worker.clients import close_consumer, open_consumer
from everstep_worker.deliveries import Delivery, Partition, Record
from everstep_worker.dispatch import Line

log = structlog.stdlib.get_logger(__name__)

SESSION_SECONDS = 6.0
REBALANCE_SECONDS = 10.0  # more than what is done when partitions are revoked may take
HEARTBEAT_SECONDS = 1.0  # so others see a rebalance soon
COMMIT_SECONDS = 0.2
COMMIT_TIMEOUT_SECONDS = 10.0  # a commit on a consumer that was closed meanwhile never ends
LAST_COMMIT_SECONDS = POSITION_SECONDS = 3.0
POLL_SECONDS = 5.0
FIRST_RETRY_SECONDS, LAST_RETRY_SECONDS = 0.5, 10.0
LEAST_RECORDS = 100  # of one fetch, so that few slots do not make many small ones
FOREVER_MS = 2**31 - 1  # a worker whose slots are all taken does not poll, and is still there


class QueueConsumer(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka has no types
    """Fetches commands into `line` while there is room, calls `fetched`, and commits what is finished.

    `check_out` makes what runs this worker's own, whoever gets the partitions, and says whether it succeeded.
    """

    def __init__(
        self,
        connection: dict[str, Any],
        *,
        topic: str,
        group: str,
        member: str | None,
        line: Line,
        room: asyncio.Event,
        fetched: Callable[[], None],
        check_out: Callable[[Line], Awaitable[bool]],
    ) -> None:
        self._topic = topic
        self._line = line
        self._room = room
        self._fetched = fetched
        self._check_out = check_out
        self._partitions: dict[TopicPartition, Partition] = {}
        self._ends: dict[TopicPartition, int] = {}  # of partitions that are new here, when they were assigned
        self._rebalances = 0
        self._finished = asyncio.Event()
        self._consumer: AIOKafkaConsumer = None  # opened by `start`
        self._tasks: list[asyncio.Task[None]] = []
        self.joined = asyncio.Event()
        self._options = connection | {
            "group_id": group,
            "group_instance_id": member,
            "enable_auto_commit": False,
            "auto_offset_reset": "earliest",
            "session_timeout_ms": int(SESSION_SECONDS * 1000),
            "rebalance_timeout_ms": int(REBALANCE_SECONDS * 1000),
            "heartbeat_interval_ms": int(HEARTBEAT_SECONDS * 1000),
            "max_poll_interval_ms": FOREVER_MS,
            "partition_assignment_strategy": [RangePartitionAssignor],
        }

    async def start(self) -> None:
        """Begins to join the group; `joined` is set when this is a member. Raises `KafkaError` without a broker."""
        await self._open()
        self._tasks = [asyncio.create_task(self._fetch()), asyncio.create_task(self._commit_regularly())]

    async def hand_over(self) -> None:
        """Fetches nothing more, and leaves the group once what runs is checked out.

        If that cannot be done now, it stays a member, so that what runs is nobody else's until it has ended.
        """
        if self._tasks:
            await _cancelled(self._tasks[0])
        self._line.hold()
        if await self._check_out(self._line):
            await self.close()
        self._line.resume()

    async def close(self) -> None:
        """Commits what is finished and leaves the group (a static member's place is kept for the session timeout)."""
        for task in self._tasks:
            await _cancelled(task)
        await self._abandon()

    def finished(self) -> None:
        """Some commands, perhaps of this queue, need no further run."""
        self._finished.set()

    # ---- fetching

    async def _fetch(self) -> None:
        while True:
            await self._line.room.wait()
            await self._room.wait()
            try:
                await self._fetch_some()
            except Exception as error:
                log.warning(
                    "reading a queue failed, joining its group again", queue=self._line.queue, error=repr(error)
                )
                await self._rejoin()

    async def _fetch_some(self) -> None:
        """What comes of new partitions before it is known who worked on them waits for that."""
        fetched = await self._poll()
        if self._line.held:
            rebalances = self._rebalances
            await self._line.certain()
            if rebalances != self._rebalances:  # then it comes again to whoever has its partitions now
                return
        self._take(fetched)

    async def _poll(self) -> Mapping[TopicPartition, Sequence[Record]]:
        fetched: Mapping[TopicPartition, Sequence[Record]] = await self._consumer.getmany(
            timeout_ms=int(POLL_SECONDS * 1000), max_records=max(self._line.limit, LEAST_RECORDS)
        )
        return fetched

    def _take(self, fetched: Mapping[TopicPartition, Sequence[Record]]) -> None:
        for topic_partition, records in fetched.items():
            partition = self._partition(topic_partition, records[0].offset)
            begin = partition.watermark.begin
            self._line.extend([Delivery(record, partition) for record in records if begin(record.offset)])
        self._fetched()

    def _partition(self, topic_partition: TopicPartition, offset: int) -> Partition:
        partition = self._partitions.get(topic_partition)
        if partition is not None and offset < partition.committed:  # somebody made the topic anew, or rewound the group
            self._forget(topic_partition)
            partition = None
        if partition is None:
            end = self._ends.pop(topic_partition, math.inf)
            partition = Partition(offset, suspects=self._line.limit, foreign_below=end)
            self._partitions[topic_partition] = partition
        return partition

    def _forget(self, topic_partition: TopicPartition) -> None:
        self._partitions.pop(topic_partition).assigned = False

    # ---- membership

    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        self._rebalances += 1
        self._line.hold()
        await self._check_out(self._line)
        await self._commit_in_time()

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        for topic_partition in list(self._partitions):
            if topic_partition not in assigned or await self._others_worked_on(topic_partition):
                self._forget(topic_partition)
        self._ends = await self._ends_of(assigned.difference(self._partitions))
        self._line.resume()
        self.joined.set()
        self._fetched()

    async def _ends_of(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """What is written from now on nobody else has begun. An end that is not found out leaves that open."""
        ends: dict[TopicPartition, int] = {}
        if wanted := list(partitions):
            with contextlib.suppress(KafkaError, TimeoutError):
                async with asyncio.timeout(POSITION_SECONDS):
                    ends = await self._consumer.end_offsets(wanted)
        return ends

    async def _others_worked_on(self, topic_partition: TopicPartition) -> bool:
        """Whether another worker moved the offset, since this one had lost its place in the group without noticing."""
        with contextlib.suppress(KafkaError, TimeoutError):
            async with asyncio.timeout(POSITION_SECONDS):
                position: int = await self._consumer.position(topic_partition)
            return position > self._partitions[topic_partition].watermark.position
        return False

    async def _open(self) -> None:
        self._consumer = await open_consumer(self._options, self._topic)
        self._consumer.subscribe([self._topic], listener=self)

    async def _rejoin(self) -> None:
        self._line.hold()
        await self._check_out(self._line)
        await self._abandon()
        delay = FIRST_RETRY_SECONDS
        while True:
            try:
                await self._open()
                return
            except Exception as error:
                log.warning("cannot join the group of a queue, trying again", queue=self._line.queue, error=repr(error))
                await asyncio.sleep(delay)
                delay = min(2 * delay, LAST_RETRY_SECONDS)

    async def _abandon(self) -> None:
        await self._commit_in_time()
        await close_consumer(self._consumer)
        for topic_partition in list(self._partitions):
            self._forget(topic_partition)

    # ---- offsets

    async def _commit_regularly(self) -> None:
        while True:
            await self._finished.wait()
            self._finished.clear()
            try:
                async with asyncio.timeout(COMMIT_TIMEOUT_SECONDS):  # `wait_for` may swallow a cancellation on 3.11
                    await self._commit()
            except Exception as error:
                log.debug("committing offsets failed, trying again", queue=self._line.queue, error=repr(error))
                self._finished.set()
            await asyncio.sleep(COMMIT_SECONDS)

    async def _commit(self) -> None:
        positions = {t: p.watermark.position for t, p in self._partitions.items()}
        offsets = {t: position for t, position in positions.items() if position > self._partitions[t].committed}
        if not offsets:
            return
        await self._consumer.commit(offsets)
        for topic_partition, position in offsets.items():
            if partition := self._partitions.get(topic_partition):
                partition.committed = position

    async def _commit_in_time(self) -> None:
        with contextlib.suppress(KafkaError, TimeoutError):
            async with asyncio.timeout(LAST_COMMIT_SECONDS):
                await self._commit()


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
