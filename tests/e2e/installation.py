"""An installation as its users see it: they write to Kafka, read the lifecycle and the tables, and kill processes."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import asyncpg
import httpx
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from tests.support.processes import Service, Services

from everstep import Client
from everstep._core.engine import Engine, HistoryRow, Identity
from everstep.admin import database, topics
from everstep.app import App
from everstep.settings import Settings
from everstep_orchestrator.pipeline.outside import outside_task
from everstep_schemas import wire
from everstep_schemas.events import decode_events
from everstep_schemas.names import Topics

SHARDS = 4
SHOP = "tests.e2e.shop:app"
PATIENCE_SECONDS = 90.0
T = TypeVar("T")

_HISTORY = "SELECT seq, (extract(epoch FROM at) * 1000000)::bigint, data FROM history WHERE run_key = $1 ORDER BY seq"


class Installation:
    """Topics, tables, a plain producer, and the services that a test starts."""

    def __init__(self, settings: Settings, directory: Path, **more: object) -> None:
        self.settings = settings
        self._more = {f"EVERSTEP_{name.upper()}": str(value) for name, value in more.items()}
        self.orchestrators: list[Service] = []
        self.workers: list[Service] = []
        self.topics = Topics(settings.topic_prefix)
        self._directory = directory
        self._exits = AsyncExitStack()
        self.services: Services
        self.client: Client
        self.sql: asyncpg.Pool[asyncpg.Record]
        self._producer: AIOKafkaProducer

    async def __aenter__(self) -> Self:
        settings = self.settings
        await database.migrate(settings.postgres_dsn, settings.postgres_schema, SHARDS)
        await topics.create(settings, SHARDS, ["default"])
        enter = self._exits.enter_async_context
        schema = {"search_path": settings.postgres_schema}
        self.sql = await enter(asyncpg.create_pool(settings.postgres_dsn, min_size=0, server_settings=schema))
        await self.sql.execute("CREATE TABLE public.ledger (key text PRIMARY KEY, what text NOT NULL)")
        await self.sql.execute("CREATE TABLE public.attempts (key text NOT NULL)")
        self._producer = AIOKafkaProducer(bootstrap_servers=settings.kafka_bootstrap, max_request_size=4 << 20)
        await self._producer.start()
        self._exits.push_async_callback(self._producer.stop)
        self.services = await enter(Services(self._directory, self._environment()))
        self.client = await enter(Client(settings=settings))
        return self

    async def __aexit__(
        self, type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        await self._exits.aclose()

    def _environment(self) -> Mapping[str, str]:
        return {
            "EVERSTEP_KAFKA_BOOTSTRAP": self.settings.kafka_bootstrap,
            "EVERSTEP_POSTGRES_DSN": self.settings.postgres_dsn,
            "EVERSTEP_TOPIC_PREFIX": self.settings.topic_prefix,
            "E2E_LEDGER": self.settings.postgres_dsn,
            **self._more,
        }

    async def start(self, orchestrators: int = 1, workers: int = 1, app: str = SHOP) -> None:
        """Services of the shop, ready."""
        self.orchestrators = [await self.services.orchestrator(app) for _ in range(orchestrators)]
        self.workers = [await self.services.worker(app) for _ in range(workers)]
        await asyncio.gather(*(service.ready() for service in (*self.orchestrators, *self.workers)))

    async def submit(self, body: Any, *, partition: int | None = None) -> tuple[int, int]:
        """Writes to the submissions topic as a stranger would; returns partition and offset."""
        value = body if isinstance(body, bytes) else json.dumps(body).encode()
        written = await self._producer.send_and_wait(self.topics.submissions, value, partition=partition)
        return written.partition, written.offset

    async def answer(self, message: Any, shard: int) -> None:
        """Writes to the inbox as a worker would."""
        value = wire.encoder.encode(message)
        await self._producer.send_and_wait(self.topics.inbox, value, partition=shard)

    async def forbid_status(self, text: str) -> None:
        """From now on Postgres refuses rows with this custom status: a stand-in for data that it cannot store."""
        await self.sql.execute(f"ALTER TABLE runs ADD CONSTRAINT forbidden CHECK (custom_status <> '{text}')")

    async def first_token(self, workflow_id: str) -> str:
        """The token of the first command that was ever sent for a run."""

        def find(records: list[Any]) -> str | None:
            commands = [json.loads(record.value) for record in records]
            return next((str(c["token"]) for c in commands if c["workflow_id"] == workflow_id), None)

        return await self.records(self.topics.activities("default"), find)

    async def events(self, workflow_id: str) -> list[dict[str, Any]]:
        """The history of an id's runs, through the view that people use."""
        rows = await self.sql.fetch("SELECT event FROM events WHERE workflow_id = $1 ORDER BY run, seq", workflow_id)
        return [json.loads(row[0]) for row in rows]

    async def metrics(self) -> str:
        """What Prometheus would see of the first orchestrator."""
        async with httpx.AsyncClient(base_url=self.orchestrators[0].url) as http:
            return (await http.get("/metrics")).text

    async def counter(self, name: str) -> float:
        """A counter of the first orchestrator, over all its labels."""
        lines = (line for line in (await self.metrics()).splitlines() if line.startswith(name))
        return sum(float(line.rpartition(" ")[2]) for line in lines)

    async def records(self, topic: str, wanted: Callable[[list[Any]], T | None]) -> T:
        """Reads a topic from its beginning until `wanted` finds what it looks for among the records."""
        consumer: AIOKafkaConsumer[bytes, bytes] = AIOKafkaConsumer(
            topic, bootstrap_servers=self.settings.kafka_bootstrap, auto_offset_reset="earliest"
        )
        await consumer.start()
        found: list[Any] = []
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                while (result := wanted(found)) is None:
                    for records in (await consumer.getmany(timeout_ms=500)).values():
                        found.extend(records)
                return result
        finally:
            await consumer.stop()

    async def dead_letter(self, value: bytes) -> dict[str, str]:
        """The headers of the dead letter with these bytes."""

        def find(records: list[Any]) -> dict[str, str] | None:
            return next(({k: v.decode() for k, v in r.headers} for r in records if r.value == value), None)

        return await self.records(self.topics.dlq, find)

    async def rejection(self, workflow_id: str) -> str:
        """The reason given for rejecting a submission for this id."""

        def find(records: list[Any]) -> str | None:
            for record in records:
                if dict(record.headers)["ce_type"] == b"everstep.submission.rejected":
                    body = json.loads(record.value)
                    if body["workflow_id"] == workflow_id:
                        return str(body["reason"])
            return None

        return await self.records(self.topics.lifecycle, find)

    async def until(self, ask: Callable[[], Awaitable[T]], what: str, seconds: float = PATIENCE_SECONDS) -> T:
        """Asks until the answer is true."""
        try:
            async with asyncio.timeout(seconds):
                while not (answer := await ask()):  # noqa: ASYNC110  # what is asked for happens in other processes
                    await asyncio.sleep(0.05)
                return answer
        except TimeoutError:
            raise AssertionError(f"gave up waiting for {what}") from None

    async def row(self, workflow_id: str) -> asyncpg.Record | None:
        """The newest run of an id, as stored."""
        return await self.sql.fetchrow(
            "SELECT * FROM runs WHERE workflow_id = $1 ORDER BY run DESC LIMIT 1", workflow_id
        )

    async def condition(self, workflow_id: str, condition: str | None) -> asyncpg.Record:
        """The run's row once it exists and has this condition."""

        async def ask() -> asyncpg.Record | None:
            row = await self.row(workflow_id)
            return row if row is not None and row["condition"] == condition else None

        row = await self.until(ask, f"{workflow_id!r} to be {condition}")
        assert row is not None
        return row

    async def count(self, status: str) -> int:
        return int(await self.sql.fetchval("SELECT count(*) FROM runs WHERE status = $1", status))

    async def settled(self) -> None:
        """Everything is published and acknowledged."""

        async def ask() -> bool:
            return not await self.sql.fetchval("SELECT count(*) FROM outbox")

        await self.until(ask, "the outbox to empty")

    async def check(self, app: App) -> None:
        """What must hold of every run after whatever happened: no gap, no event twice, replay equals, ledger exact."""
        engine = Engine(app, self.topics, max_payload_bytes=self.settings.max_payload_bytes)
        for row in await self.sql.fetch("SELECT * FROM runs"):
            identity = Identity(*(row[name] for name in Identity.__struct_fields__))
            rows = await self.sql.fetch(_HISTORY, identity.run_key)
            history = [HistoryRow(*stored) for stored in rows]
            if not engine.knows(identity.workflow, identity.version):
                assert len(history) <= 1, f"{identity.workflow_id} ran, though nobody has its code"
                continue
            await outside_task(partial(_check_run, engine, identity, row["status"], history))
        await self._check_ledger()

    async def _check_ledger(self) -> None:
        """Every activity that completed booked once; one that was attempted again did so under the same key."""
        booked = [row[0] for row in await self.sql.fetch("SELECT what FROM public.ledger")]
        doubles = {what: count for what, count in Counter(booked).items() if count > 1}
        assert not doubles, f"booked more than once: {doubles}"

    async def partition_ends(self, topic: str, partitions: int) -> int:
        """How many records a topic ever got."""
        consumer: AIOKafkaConsumer[bytes, bytes] = AIOKafkaConsumer(bootstrap_servers=self.settings.kafka_bootstrap)
        await consumer.start()
        ends = await consumer.end_offsets([TopicPartition(topic, n) for n in range(partitions)])
        await consumer.stop()
        return sum(ends.values())


def _check_run(engine: Engine, identity: Identity, status: str, rows: list[HistoryRow]) -> None:
    expected = 1
    for row in rows:
        assert row.seq == expected, f"{identity.workflow_id}: event {expected} is missing or stands twice"
        expected += len(decode_events(row.data))
    replay = engine.replay(identity)
    for row in rows:
        replay.feed(row)
    run = replay.finish()
    assert (run.closed or "running") == status, f"{identity.workflow_id}: replay ends {run.closed}, stored is {status}"
    run.evict()
