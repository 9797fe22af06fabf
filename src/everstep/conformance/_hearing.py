"""What workers say: everything that arrives in the inbox and among the dead letters, in order per partition."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec
from aiokafka import AIOKafkaConsumer, TopicPartition

from everstep_schemas.wire import (
    ActivitiesRenewed,
    ActivityCompleted,
    ActivityFailed,
    ActivityStarted,
    InboxMessage,
    inbox_decoder,
)

T = TypeVar("T")

Answer = ActivityCompleted | ActivityFailed
_POLL_MS = 200


@dataclass(frozen=True, slots=True, eq=False)
class Heard:
    """A record of the inbox; `message` is None if an orchestrator cannot read it."""

    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes
    headers: tuple[tuple[str, bytes], ...]
    message: InboxMessage | None

    def concerns(self, token: str) -> bool:
        match self.message:
            case ActivityStarted() | ActivityCompleted() | ActivityFailed():
                return self.message.token == token
            case ActivitiesRenewed():
                return token in (*self.message.tokens, *self.message.released)
        return False


class Hearing:
    """Reads the inbox and the dead letters from their beginning."""

    def __init__(self, consumer: AIOKafkaConsumer, inbox: Sequence[TopicPartition], dlq: TopicPartition) -> None:
        self._consumer = consumer
        self._inbox = list(inbox)
        self._dlq = dlq
        self._arrived = asyncio.Condition()
        self.records: list[Heard] = []
        self.dead_letters: list[Any] = []
        consumer.assign([*inbox, dlq])
        self._task = asyncio.create_task(self._read())

    async def close(self) -> None:
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task

    async def until(self, found: Callable[[], T | None], seconds: float) -> T | None:
        """What `found` gives once it gives something; None if it does not in time."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds), self._arrived:
                while not (something := found()):
                    await self._arrived.wait()
                return something
        return None

    async def caught_up(self, seconds: float) -> bool:
        """Whether all that was said before this call has been read, in time."""
        ends = await self._consumer.end_offsets(self._inbox)
        read = dict.fromkeys(ends, 0)

        def reached() -> bool:
            for heard in self.records:
                at = TopicPartition(self._inbox[0].topic, heard.partition)
                read[at] = max(read[at], heard.offset + 1)
            return all(read[partition] >= end for partition, end in ends.items())

        return bool(await self.until(reached, seconds))

    def about(self, token: str) -> list[Heard]:
        """Everything that was said of an attempt."""
        return [heard for heard in self.records if heard.concerns(token)]

    def check_outs(self, token: str) -> list[ActivityStarted]:
        return [m for m in self._messages(token) if isinstance(m, ActivityStarted)]

    def answers(self, token: str) -> list[Answer]:
        return [m for m in self._messages(token) if isinstance(m, Answer)]

    def renewals(self, token: str) -> list[ActivitiesRenewed]:
        return [m for m in self._messages(token) if isinstance(m, ActivitiesRenewed) and token in m.tokens]

    def released(self, token: str) -> bool:
        return any(isinstance(m, ActivitiesRenewed) and token in m.released for m in self._messages(token))

    def heartbeats(self, token: str) -> list[Any]:
        """The details of those that were reported."""
        renewals = (m for m in self._messages(token) if isinstance(m, ActivitiesRenewed))
        beats = (beat for renewal in renewals for beat in renewal.heartbeats if beat.token == token)
        return [msgspec.json.decode(bytes(beat.details)) for beat in beats]

    def _messages(self, token: str) -> Iterator[InboxMessage | None]:
        return (heard.message for heard in self.about(token))

    async def _read(self) -> None:
        while True:
            for partition, records in (await self._consumer.getmany(timeout_ms=_POLL_MS)).items():
                if partition == self._dlq:
                    self.dead_letters += records
                else:
                    self.records += map(_heard, records)
            async with self._arrived:
                self._arrived.notify_all()


def _heard(record: Any) -> Heard:
    value = record.value or b""
    message: InboxMessage | None = None
    with suppress(msgspec.DecodeError, UnicodeDecodeError):
        message = inbox_decoder.decode(value)
    return Heard(record.partition, record.offset, record.timestamp, record.key, value, record.headers, message)
