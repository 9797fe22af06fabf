"""Opening and closing consumers so that neither a missing topic nor a missing broker can hold a worker up.

aiokafka asks for metadata without a pause while a topic that it is to read does not exist (measured: 4,000 requests and
log lines a second), so the topic is looked up before it is named to the consumer.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError

STOP_SECONDS = 5.0


class TopicMissing(KafkaError):  # type: ignore[misc]  # aiokafka has no types
    """The message says which, and what to do."""


async def open_consumer(options: Mapping[str, Any], topic: str) -> AIOKafkaConsumer:
    """A started consumer that may now be told to read `topic`. Raises `KafkaError`."""
    consumer = AIOKafkaConsumer(**options)
    try:
        await consumer.start()
        if topic not in await consumer.topics():
            raise TopicMissing(f"the topic {topic} does not exist: run `everstep migrate`")
    except BaseException:
        await close_consumer(consumer)
        raise
    return consumer


async def close_consumer(consumer: AIOKafkaConsumer | None) -> None:
    if consumer is not None:
        with contextlib.suppress(KafkaError, OSError, TimeoutError):
            async with asyncio.timeout(STOP_SECONDS):
                await consumer.stop()
