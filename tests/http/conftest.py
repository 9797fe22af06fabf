# ruff: noqa: S608  # only the names of tables and columns are put into SQL
"""A real API server on a real database and real topics; what an orchestrator would write, the tests write by hand."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import httpx
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from tests.http import asked

from everstep import App, reads
from everstep._core.engine import Engine
from everstep.admin import database, topics
from everstep.lifecycle import LifecycleTail
from everstep.settings import Settings
from everstep.submissions import SubmissionProducer
from everstep_orchestrator.api import ApiDependencies, HttpServer
from everstep_orchestrator.pipeline.asking import Asker
from everstep_schemas import cloudevents, events, wire
from everstep_schemas.names import Token, Topics, run_key, shard_of
from everstep_schemas.sql import quoted

SHARDS = 2
MAX_PAYLOAD_BYTES = 4096
START = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
async def db_settings(postgres_dsn: str, topic_prefix: str) -> Settings:
    """Settings of an installation whose database is migrated; its schema's name must be quoted."""
    settings = Settings(
        kafka_bootstrap="127.0.0.1:1",
        postgres_dsn=postgres_dsn,
        postgres_schema="user",
        topic_prefix=topic_prefix,
        http_port=0,
        max_payload_bytes=MAX_PAYLOAD_BYTES,
        shards=SHARDS,
    )
    await database.migrate(settings.postgres_dsn, settings.postgres_schema, SHARDS)
    return settings


@dataclass
class Rows:
    """Writes runs and histories as commits of an orchestrator would."""

    connection: asyncpg.Connection[asyncpg.Record]
    schema: str
    number: int = 0
    keys: dict[tuple[str, int], int] = field(default_factory=dict)

    async def run(self, workflow_id: str, run: int = 1, **columns: Any) -> int:
        """One row of `runs`, each started a second after the one before."""
        self.number += 1
        shard = shard_of(workflow_id, SHARDS)
        key = run_key(shard, self.number)
        values = {
            "run_key": key,
            "shard": shard,
            "workflow_id": workflow_id,
            "run": run,
            "workflow": "fulfil_order",
            "version": 1,
            "nonce": "n",
            "source": f"source-{self.number}",
            "status": "running",
            "started_at": START + timedelta(seconds=self.number),
            **columns,
        }
        names = ", ".join(values)
        places = ", ".join(f"${position + 1}" for position in range(len(values)))
        await self.connection.execute(
            f"INSERT INTO {quoted(self.schema)}.runs ({names}) VALUES ({places})", *values.values()
        )
        self.keys[workflow_id, run] = key
        return key

    async def history(self, key: int, seq: int, *happened: events.AnyEvent) -> None:
        """One row of `history`, at as many seconds past the start as its number."""
        await self.connection.execute(
            f"INSERT INTO {quoted(self.schema)}.history (run_key, seq, at, data) VALUES ($1, $2, $3, $4)",
            key,
            seq,
            START + timedelta(seconds=seq),
            events.encode_events(list(happened)),
        )

    async def close(self, workflow_id: str, status: str, run: int = 1) -> None:
        await self.connection.execute(
            f"UPDATE {quoted(self.schema)}.runs SET status = $3, closed_at = $4 WHERE workflow_id = $1 AND run = $2",
            workflow_id,
            run,
            status,
            START + timedelta(hours=1),
        )


@pytest.fixture
async def rows(db_settings: Settings) -> AsyncIterator[Rows]:
    connection = await asyncpg.connect(db_settings.postgres_dsn)
    try:
        yield Rows(connection, db_settings.postgres_schema)
    finally:
        await connection.close()


@pytest.fixture
async def reader(db_settings: Settings) -> AsyncIterator[reads.Reader]:
    async with reads.connect(db_settings) as reader:
        yield reader


@dataclass
class Unready:
    """What the process is not ready for, as the test says."""

    reasons: list[str] = field(default_factory=list)

    def __call__(self) -> list[str]:
        return self.reasons


@pytest.fixture
def unready() -> Unready:
    return Unready()


def asker(app: App = asked.app) -> Asker:
    """Asks runs of the workflows in `asked.py`."""
    return Asker(Engine(app, Topics(), max_payload_bytes=MAX_PAYLOAD_BYTES))


@asynccontextmanager
async def serving(settings: Settings, unready: Unready) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a server whose Kafka is away."""
    deps = ApiDependencies(unready, SubmissionProducer(settings), LifecycleTail(settings, SHARDS), asker())
    server = HttpServer(settings, deps)
    address = await server.start()
    try:
        async with httpx.AsyncClient(base_url=f"http://{address}") as client:
            yield client
    finally:
        await server.stop()


@pytest.fixture
async def reading_api(db_settings: Settings, unready: Unready) -> AsyncIterator[httpx.AsyncClient]:
    """Only Kafka is away."""
    async with serving(db_settings, unready) as client:
        yield client


@pytest.fixture
async def lone_api(unready: Unready) -> AsyncIterator[httpx.AsyncClient]:
    """Postgres and Kafka are away: whatever it answers, it found out by itself."""
    settings = Settings(
        kafka_bootstrap="127.0.0.1:1",
        postgres_dsn="postgresql://u@127.0.0.1:1/x",
        http_port=0,
        max_payload_bytes=MAX_PAYLOAD_BYTES,
    )
    async with serving(settings, unready) as client:
        yield client


@pytest.fixture
async def settings(db_settings: Settings, kafka_bootstrap: str) -> Settings:
    """Settings of a whole installation: migrated database, topics."""
    whole = replace(db_settings, kafka_bootstrap=kafka_bootstrap)
    await topics.create(whole, SHARDS)
    return whole


@dataclass
class Kafka:
    """The orchestrator's side of the topics."""

    settings: Settings
    producer: AIOKafkaProducer
    submissions: AIOKafkaConsumer[bytes | None, bytes | None]

    async def submitted(self) -> wire.AnySubmission:
        """The next submission."""
        record = await self.submissions.getone()
        assert record.value is not None
        submission: wire.AnySubmission = wire.submission_decoder.decode(record.value)
        if isinstance(submission, wire.CallbackSubmission):
            token = Token.parse(submission.token)
            assert token is not None
            assert record.partition == token.shard
        else:
            assert record.partition == shard_of(submission.workflow_id, SHARDS)
        return submission

    async def request(self) -> wire.RunSubmission:
        """The next submission, which names its run by id."""
        submission = await self.submitted()
        assert not isinstance(submission, wire.CallbackSubmission)
        return submission

    async def publish(self, type: str, fact: wire.Lifecycle) -> None:
        """A record of the lifecycle topic."""
        await self.producer.send_and_wait(
            Topics(self.settings.topic_prefix).lifecycle,
            wire.encoder.encode(fact),
            key=fact.workflow_id.encode(),
            partition=shard_of(fact.workflow_id, SHARDS),
            headers=list(cloudevents.headers(type, "id")),
        )


@pytest.fixture
async def kafka(settings: Settings) -> AsyncIterator[Kafka]:
    producer = AIOKafkaProducer(bootstrap_servers=settings.kafka_bootstrap)
    consumer: AIOKafkaConsumer[bytes | None, bytes | None] = AIOKafkaConsumer(
        Topics(settings.topic_prefix).submissions,
        bootstrap_servers=settings.kafka_bootstrap,
        auto_offset_reset="earliest",
    )
    await producer.start()
    await consumer.start()
    try:
        yield Kafka(settings, producer, consumer)
    finally:
        await consumer.stop()
        await producer.stop()


@dataclass
class Served:
    """A running server and a client of it."""

    server: HttpServer
    client: httpx.AsyncClient


@pytest.fixture
async def served(settings: Settings, kafka: Kafka, unready: Unready) -> AsyncIterator[Served]:
    tail = LifecycleTail(settings, SHARDS)
    producer = SubmissionProducer(settings)
    await producer.start()
    server = HttpServer(settings, ApiDependencies(unready, producer, tail, asker()))
    address = await server.start()
    try:
        async with httpx.AsyncClient(base_url=f"http://{address}", timeout=60) as client:
            yield Served(server, client)
    finally:
        await server.stop()
        await tail.close()
        await producer.stop()


@pytest.fixture
def api(served: Served) -> httpx.AsyncClient:
    return served.client
