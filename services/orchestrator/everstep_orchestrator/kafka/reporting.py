"""Tells the outside how far the orchestrator is: committed offsets for lag monitoring, and gauges of lag and backlog.

The truth stays in Postgres. Offsets are committed under the group `<prefix>.orchestrator` only so that ordinary tools
and autoscalers see the lag; nobody reads them back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from everstep import telemetry
from everstep_schemas.names import Topics

log = structlog.get_logger(__name__)

REPORT_SECONDS = 5.0

Positions = Mapping[TopicPartition, int]


class Reporter:
    """Reports the positions of owned shards; the owner of shard 0 also reports every queue's backlog."""

    def __init__(
        self,
        connection: Mapping[str, Any],
        topics: Topics,
        queues: Sequence[str],
        positions: Callable[[], Positions],
    ) -> None:
        self._connection = connection
        self._topics = topics
        self._queues = queues
        self._positions = positions

    async def run(self) -> None:
        """Reports every few seconds until cancelled; trouble with Kafka is only logged."""
        while True:
            try:
                await self._report_for_ever()
            except (KafkaError, OSError) as error:
                log.warning("cannot report positions to Kafka", error=f"{type(error).__name__}: {error}")
            await asyncio.sleep(REPORT_SECONDS)

    async def _report_for_ever(self) -> None:
        async with AIOKafkaConsumer(
            **self._connection, group_id=self._topics.orchestrator_group, enable_auto_commit=False
        ) as consumer:
            while True:
                positions = dict(self._positions())
                if positions:
                    await self._report(consumer, positions)
                    if any(partition.partition == 0 for partition in positions):
                        await self._report_backlogs(consumer)
                await asyncio.sleep(REPORT_SECONDS)

    async def _report(self, consumer: AIOKafkaConsumer, positions: Positions) -> None:
        consumer.assign(list(positions))
        await consumer.commit(dict(positions))
        ends = await consumer.end_offsets(list(positions))
        for partition, position in positions.items():
            lag = max(0, ends[partition] - position)
            telemetry.CONSUMER_LAG.labels(partition.topic, str(partition.partition)).set(lag)

    async def _report_backlogs(self, consumer: AIOKafkaConsumer) -> None:
        for queue in self._queues:
            backlog = await self._backlog(consumer, queue)
            if backlog is not None:
                telemetry.QUEUE_BACKLOG.labels(queue).set(backlog)

    async def _backlog(self, consumer: AIOKafkaConsumer, queue: str) -> int | None:
        topic = self._topics.activities(queue)
        known = await consumer._client.fetch_all_metadata()
        partitions = [TopicPartition(topic, number) for number in known.partitions_for_topic(topic) or ()]
        if not partitions:
            return None
        ends = await consumer.end_offsets(partitions)
        starts = await consumer.beginning_offsets(partitions)
        async with AIOKafkaConsumer(
            **self._connection, group_id=self._topics.worker_group(queue), enable_auto_commit=False
        ) as observer:
            observer.assign(partitions)
            done = {partition: await observer.committed(partition) for partition in partitions}
        return sum(int(ends[p]) - int(starts[p] if done[p] is None else done[p]) for p in partitions)
