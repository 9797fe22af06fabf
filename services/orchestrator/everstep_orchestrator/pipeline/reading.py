"""Fetches records of the owned shards into their backlogs, from the positions that are next to apply.

A new assignment forgets what was fetched, so every backlog is emptied with it and filled again from the same positions.
A position outside the log is never reset: its partition stops until somebody decides.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import structlog
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from everstep_orchestrator.kafka.intake import Intake, OutsideLog
from everstep_orchestrator.pipeline.state import Shard
from everstep_schemas.names import Topics

log = structlog.get_logger(__name__)

RECORDS_PER_READ = 2000
BACKLOG_LIMIT = 2000
RETRY_SECONDS = 0.2


class Reading:
    """What is read for `shards`; `may_gather` says whether there is room for more."""

    def __init__(
        self,
        intake: Intake,
        topics: Topics,
        shards: Mapping[int, Shard],
        wake: asyncio.Event,
        may_gather: Callable[[], bool],
    ) -> None:
        self._intake = intake
        self._topics = topics
        self._shards = shards
        self._wake = wake
        self._may_gather = may_gather
        self._room = asyncio.Event()
        self._outside_log: dict[TopicPartition, int] = {}

    def troubles(self) -> list[str]:
        """Which partitions have stopped, and why."""
        return [
            f"shard {partition.partition} has stopped: its position {position} lies outside the log of "
            f"{partition.topic}; records were lost or the topic was made anew"
            for partition, position in self._outside_log.items()
            if partition.partition in self._shards
        ]

    def reassign(self) -> None:
        """Reads exactly what the owned shards still want, each from its next position."""
        positions: dict[TopicPartition, int] = {}
        for shard in self._shards.values():
            shard.backlog.clear()
            if not shard.draining:
                positions[TopicPartition(self._topics.submissions, shard.number)] = shard.submissions_position
                positions[TopicPartition(self._topics.inbox, shard.number)] = shard.inbox_position
        for outside in self._outside_log:
            positions.pop(outside, None)
        self._intake.assign(positions)
        self._wake.set()

    async def run(self) -> None:
        """Reads until cancelled."""
        while True:
            await self._room.wait()
            try:
                batch = await self._intake.read(RECORDS_PER_READ)
            except OutsideLog as error:
                self._stop_outside(error)
                continue
            except KafkaError as error:
                log.warning("cannot read from Kafka, trying again", error=f"{type(error).__name__}: {error}")
                await asyncio.sleep(RETRY_SECONDS)
                continue
            for partition, records in batch.items():
                shard = self._shards.get(partition.partition)
                if shard is not None and not shard.draining:
                    shard.backlog.extend(records)
            if batch:
                self.make_room()
                self._wake.set()

    def heard(self, shard: Shard) -> int:
        """The last instant known at which all of the shard's inbox was applied; 0 if there is none."""
        return self._intake.ended_at(TopicPartition(self._topics.inbox, shard.number), shard.inbox_position)

    def forget(self, shard: int) -> None:
        """Whoever opens the shard next looks at its positions afresh."""
        for partition in [partition for partition in self._outside_log if partition.partition == shard]:
            del self._outside_log[partition]

    def _stop_outside(self, error: OutsideLog) -> None:
        for partition, position in error.partitions.items():
            log.critical(
                "a shard's position lies outside the log; it stops until somebody decides",
                topic=partition.topic,
                shard=partition.partition,
                position=position,
            )
        self._outside_log.update(error.partitions)
        self.reassign()

    def make_room(self) -> None:
        """Stops fetching while too much is waiting."""
        waiting = sum(len(shard.backlog) for shard in self._shards.values())
        if waiting < BACKLOG_LIMIT and self._may_gather():
            self._room.set()
        else:
            self._room.clear()
