"""`everstep dlq`: what could not be understood, with the reason and the place where it stood."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import TypeAlias

import click
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition

from everstep.admin.topics import TopicError
from everstep.cli._failures import Finding
from everstep.cli._output import as_json, fields, json_line, table, when
from everstep.kafka import connection
from everstep.settings import Settings
from everstep_schemas.cloudevents import header
from everstep_schemas.names import Topics

Record: TypeAlias = "ConsumerRecord[bytes | None, bytes | None]"

_OWN = ("reason", "detail", "topic", "partition", "offset")


@click.group("dlq")
def dlq_command() -> None:
    """Records that could not be understood: they are kept with their bytes, their place and the reason."""


@dlq_command.command("list")
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="The most records, the last ones.")
@as_json
def list_(limit: int, as_json: bool) -> None:
    """List dead letters, oldest first. NUMBER is what `everstep dlq show` takes."""
    records = asyncio.run(_last(limit))
    if as_json:
        for record in records:
            json_line(_document(record))
    else:
        table(("NUMBER", "AT", "REASON", "FROM", "DETAIL"), map(_row, records))


@dlq_command.command("show")
@click.argument("number", type=click.IntRange(0))
@as_json
def show(number: int, as_json: bool) -> None:
    """Show the dead letter NUMBER: why it is one, and its bytes as they came."""
    record = asyncio.run(_one(number))
    if as_json:
        json_line(_document(record) | {"value": _readable(record.value or b"")})
        return
    fields([("number", str(record.offset)), ("at", when(_at(record))), *((name, _own(record, name)) for name in _OWN)])
    for name, value in record.headers:
        if not name.startswith("everstep_"):
            fields([(name, _readable(value))])
    click.echo()
    click.echo(_readable(record.value or b""))


async def _last(limit: int) -> list[Record]:
    return [record async for record in _records(-limit, limit)]


async def _one(number: int) -> Record:
    async for record in _records(number, 1):
        if record.offset == number:
            return record
    raise Finding(f"there is no dead letter {number}: `everstep dlq list` shows those there are")


async def _records(first: int, count: int) -> AsyncIterator[Record]:
    """At most `count` records from the offset `first` on, or, if that is negative, so many before the end."""
    settings = Settings.from_environment(needs=("kafka_bootstrap",))
    partition = TopicPartition(Topics(settings.topic_prefix).dlq, 0)
    consumer = AIOKafkaConsumer(**connection(settings), enable_auto_commit=False)
    try:
        await consumer.start()
        if partition.topic not in await consumer.topics():
            raise TopicError(f"the topic {partition.topic} is missing: run `everstep migrate`")
        start = (await consumer.beginning_offsets([partition]))[partition]
        end = (await consumer.end_offsets([partition]))[partition]
        offset = max(start, end + first if first < 0 else first)
        consumer.assign([partition])
        consumer.seek(partition, offset)
        while count > 0 and offset < end:
            record = await consumer.getone()
            yield record
            offset, count = record.offset + 1, count - 1
    finally:
        await consumer.stop()


def _own(record: Record, name: str) -> str:
    return header(record.headers, f"everstep_{name}") or ""


def _at(record: Record) -> datetime:
    return datetime.fromtimestamp(record.timestamp / 1000, UTC)


def _row(record: Record) -> tuple[str, ...]:
    place = f"{_own(record, 'topic')}/{_own(record, 'partition')}/{_own(record, 'offset')}"
    return str(record.offset), when(_at(record)), _own(record, "reason"), place, _own(record, "detail")


def _document(record: Record) -> dict[str, object]:
    return {"number": record.offset, "at": _at(record), **{name: _own(record, name) for name in _OWN}}


def _readable(value: bytes) -> str:
    """Bytes as text that a terminal can show: what is not printable becomes an escape."""
    text = value.decode(errors="backslashreplace")
    return "".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in text)
