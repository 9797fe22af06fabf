"""Tells the outside how far the orchestrator is, and deletes what has been consumed for long enough.

The truth stays in Postgres. Offsets are committed under the group `<prefix>.orchestrator` only so that ordinary tools
and autoscalers see the lag; nobody reads them back. Records below a stored position, or below what a queue's workers
have committed, are deleted once they are older than EVERSTEP_INPUT_RETENTION: until then a database restored from a
backup of that age finds everything that came after it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import TypeAlias

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from aiokafka.errors import KafkaError

from everstep import telemetry
from everstep.admin.topics import admin_client
from everstep.kafka import connection
from everstep.settings import Settings
from everstep_schemas.names import Topics

log = structlog.get_logger(__name__)

REPORT_SECONDS = 5.0
SWEEP_SECONDS = 300.0

Positions = Mapping[TopicPartition, int]
Consumer: TypeAlias = "AIOKafkaConsumer[bytes, bytes]"


class Reporter:
    """Reports and sweeps for the owned shards; whoever owns shard 0 does the same for every queue."""

    def __init__(self, settings: Settings, queues: Sequence[str], positions: Callable[[], Positions]) -> None:
        self._settings = settings
        self._topics = Topics(settings.topic_prefix)
        self._queues = queues
        self._positions = positions
        self._sweep_at = 0.0

    async def run(self) -> None:
        """Works until cancelled; trouble is only logged, since nothing that counts depends on this."""
        while True:
            try:
                await self._run_connected()
            except (KafkaError, OSError) as error:
                log.warning("cannot report positions to Kafka", error=f"{type(error).__name__}: {error}")
            except Exception:
                log.exception("reporting positions to Kafka failed")
            await asyncio.sleep(REPORT_SECONDS)

    async def _run_connected(self) -> None:
        group = self._topics.orchestrator_group
        consumer: Consumer = AIOKafkaConsumer(**connection(self._settings), group_id=group, enable_auto_commit=False)
        try:
            await consumer.start()
            async with admin_client(self._settings) as admin:
                while True:
                    await self.report(consumer, admin)
                    await asyncio.sleep(REPORT_SECONDS)
        finally:
            await consumer.stop()

    async def report(self, consumer: Consumer, admin: AIOKafkaAdminClient) -> None:
        """One round: commit and show positions, show backlogs, and now and then sweep."""
        positions = dict(self._positions())
        if not positions:
            return
        consumer.assign(list(positions))
        await consumer.commit(positions)
        await self._show_lag(consumer, positions)
        if any(partition.partition == 0 for partition in positions):
            for queue in self._queues:
                positions |= await self._show_backlog(consumer, admin, queue)
        if time.monotonic() >= self._sweep_at:
            self._sweep_at = time.monotonic() + SWEEP_SECONDS
            await sweep(consumer, admin, positions, self._settings.input_retention)

    async def _show_lag(self, consumer: Consumer, positions: Positions) -> None:
        ends = await consumer.end_offsets(list(positions))
        for partition, position in positions.items():
            lag = max(0, ends[partition] - position)
            telemetry.CONSUMER_LAG.labels(partition.topic, str(partition.partition)).set(lag)

    async def _show_backlog(self, consumer: Consumer, admin: AIOKafkaAdminClient, queue: str) -> Positions:
        """What the queue's workers have committed."""
        topic = self._topics.activities(queue)
        described = await admin.describe_topics([topic])
        partitions = [TopicPartition(topic, found["partition"]) for found in described[0]["partitions"]]
        if not partitions:
            return {}
        starts = await consumer.beginning_offsets(partitions)
        ends = await consumer.end_offsets(partitions)
        committed = await admin.list_consumer_group_offsets(self._topics.worker_group(queue), partitions=partitions)
        done = {p: max(starts[p], committed[p].offset if p in committed else 0) for p in partitions}
        telemetry.QUEUE_BACKLOG.labels(queue).set(sum(ends[p] - done[p] for p in partitions))
        return done


async def sweep(consumer: Consumer, admin: AIOKafkaAdminClient, consumed: Positions, retention: timedelta) -> Positions:
    """Deletes the records below `consumed` that are older than `retention`; returns up to where."""
    since = int((time.time() - retention.total_seconds()) * 1000)
    kept_from = await consumer.offsets_for_times(dict.fromkeys(consumed, since))
    starts = await consumer.beginning_offsets(list(consumed))
    below = {
        partition: position if (first := kept_from.get(partition)) is None else min(position, first.offset)
        for partition, position in consumed.items()
    }
    worth = {partition: offset for partition, offset in below.items() if offset > starts[partition]}
    if worth:
        await admin.delete_records({partition: RecordsToDelete(offset) for partition, offset in worth.items()})
    return worth
