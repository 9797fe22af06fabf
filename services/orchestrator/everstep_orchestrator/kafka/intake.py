"""Reads the partitions of the owned shards, from the positions that Postgres holds.

The consumer has no group and never resets a position by itself: the offsets to apply next live in the shard's row.
aiokafka forgets what it fetched at every `assign`, and would silently skip messages of partitions that stay assigned
unless every one of them is sought again before control returns to the loop; hence the one method `assign`, without an
`await`, that takes the positions of all of them. What `read` gives belongs to the assignment of that very moment, even
if it was called under an earlier one: aiokafka drops what it had fetched before, and hands over without an `await`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import OffsetOutOfRangeError

Batch = Mapping[TopicPartition, Sequence[ConsumerRecord[bytes, bytes]]]

FETCH_BYTES = 8 << 20


@dataclass(frozen=True)
class OutsideLog(Exception):
    """Positions that the log no longer, or not yet, holds. They are never reset: somebody must decide."""

    partitions: Mapping[TopicPartition, int]


class Intake:
    """One consumer over the submissions and inbox partitions of all owned shards."""

    def __init__(self, connection: Mapping[str, Any]) -> None:
        self._consumer = AIOKafkaConsumer(
            **connection,
            auto_offset_reset="none",
            enable_auto_commit=False,
            fetch_max_bytes=FETCH_BYTES,
            max_partition_fetch_bytes=FETCH_BYTES,
            fetch_max_wait_ms=500,
        )

    async def start(self) -> None:
        await self._consumer.start()

    async def stop(self) -> None:
        await self._consumer.stop()

    async def earliest(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        """The first offset that each log still holds: where a shard that never committed starts."""
        return dict(await self._consumer.beginning_offsets(list(partitions)))

    def assign(self, positions: Mapping[TopicPartition, int]) -> None:
        """From now on read exactly these partitions, each from the given offset."""
        if not positions:
            self._consumer.unsubscribe()
            return
        self._consumer.assign(list(positions))
        for partition, offset in positions.items():
            self._consumer.seek(partition, offset)

    async def read(self, max_records: int) -> Batch:
        """The next records, empty after a second without any. Raises `OutsideLog`."""
        try:
            batch: Batch = await self._consumer.getmany(timeout_ms=1000, max_records=max_records)
        except OffsetOutOfRangeError as error:
            raise OutsideLog(dict(error.args[0])) from error
        return batch

    def ended_at(self, partition: TopicPartition, position: int) -> int:
        """When Kafka last said, in microseconds since 1970, that the log ends at this position; 0 if it did not."""
        if partition not in self._consumer.assignment():
            return 0
        end, at = self._consumer.highwater(partition), self._consumer.last_poll_timestamp(partition)
        return 0 if end is None or at is None or end > position else at * 1000
