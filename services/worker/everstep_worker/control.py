"""Reads the control topic, as every worker does for itself: without a group, from its end at the start.

What was said before a worker started, or while it could not reach Kafka, is missed. That costs work, not correctness:
an answer to a command that was cancelled meets nothing any more.
"""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

import msgspec
import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition

from everstep_schemas.wire import control_decoder
from everstep_worker.clients import close_consumer, open_consumer

log = structlog.stdlib.get_logger(__name__)

RETRY_SECONDS = 1.0


class Controlled(Protocol):
    """What can be told to let go of commands."""

    def cancel(self, token: str) -> None: ...
    def drop(self, token: str) -> None: ...


class Control:
    """Passes on what the control topic says."""

    def __init__(self, connection: dict[str, Any], topic: str, target: Controlled) -> None:
        self._options = connection | {"enable_auto_commit": False, "auto_offset_reset": "latest"}
        self._partition = TopicPartition(topic, 0)
        self._target = target
        self._consumer: AIOKafkaConsumer | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Sees everything that is said from now on. Raises `KafkaError` if no broker can be reached."""
        self._consumer = await self._open()
        self._task = asyncio.create_task(self._follow())

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        await close_consumer(self._consumer)

    async def _follow(self) -> None:
        while True:
            try:
                if self._consumer is None:
                    self._consumer = await self._open()
                async for record in self._consumer:
                    self._obey(record.value)
            except Exception as error:
                log.warning("reading the control topic failed, trying again", error=repr(error))
                consumer, self._consumer = self._consumer, None
                await close_consumer(consumer)
                await asyncio.sleep(RETRY_SECONDS)

    async def _open(self) -> AIOKafkaConsumer:
        consumer = await open_consumer(self._options, self._partition.topic)
        try:
            consumer.assign([self._partition])
            await consumer.seek_to_end(self._partition)
        except BaseException:
            await close_consumer(consumer)
            raise
        return consumer

    def _obey(self, value: bytes | None) -> None:
        try:
            message = control_decoder.decode(value or b"")
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            log.warning("a record of the control topic cannot be understood, ignoring it", error=str(error))
            return
        if message.kind == "cancel":
            self._target.cancel(message.token)
        else:
            self._target.drop(message.token)
