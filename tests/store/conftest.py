"""A migrated database, a store on it, and commits that say only what a test is about."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import asyncpg
import pytest

from everstep.admin import database
from everstep_orchestrator.store import RunRow, RunUpdate, ShardCommit, Store
from everstep_orchestrator.store.connections import connect
from everstep_schemas.names import run_key

SCHEMA = "ever step"  # must be quoted
SHARDS = 4
NOW = 1_780_000_000_123_456
DATA = b'[{"kind":"timer_fired","ref":1}]'

Row = tuple[Any, ...]
Query = Callable[..., Awaitable[list[Row]]]


def commit(shard: int = 0, commit_no: int = 1, epoch: int = 0, **more: Any) -> ShardCommit:
    """A commit of one shard that is the first of its epoch unless told otherwise."""
    defaults: dict[str, Any] = {
        "submissions_position": commit_no,
        "inbox_position": None,
        "last_number": 0,
        "published": 0,
    }
    return ShardCommit(shard=shard, epoch=epoch, commit_no=commit_no, **(defaults | more))


def new_run(shard: int = 0, number: int = 1, **more: Any) -> RunRow:
    """A running run whose id follows from its key."""
    key = run_key(shard, number)
    defaults: dict[str, Any] = {
        "run_key": key,
        "workflow_id": f"id-{key:x}",
        "run": 1,
        "workflow": "fulfil_order",
        "version": 1,
        "nonce": "n",
        "source": f"everstep.submissions/{shard}/{number}",
        "status": "running",
        "condition": None,
        "reason": None,
        "custom_status": None,
        "started_at": NOW + number,
        "closed_at": None,
        "next_wakeup_at": None,
    }
    return RunRow(**(defaults | more))


def happened(key: int, *seqs: int) -> list[tuple[int, int, int, bytes]]:
    """Rows of history of one run."""
    return [(key, seq, NOW + seq, DATA) for seq in seqs]


def closed(key: int) -> RunUpdate:
    return RunUpdate(key, 1, "completed", closed_at=NOW)


@pytest.fixture
async def migrated(postgres_dsn: str) -> str:
    """The DSN of a database that is migrated."""
    await database.migrate(postgres_dsn, SCHEMA, SHARDS)
    return postgres_dsn


@pytest.fixture
async def store(migrated: str) -> AsyncIterator[Store]:
    store = Store(migrated, SCHEMA)
    yield store
    await store.close()


@pytest.fixture
async def session(migrated: str) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    """A session beside the store's, with the tables of the schema on its search path."""
    connection = await connect(migrated, "test")
    await connection.execute(f'SET search_path = "{SCHEMA}"')
    yield connection
    connection.terminate()


@pytest.fixture
def rows(session: asyncpg.Connection[asyncpg.Record]) -> Query:
    """Runs a query on the session beside and answers with tuples."""

    async def query(sql: str, *arguments: Any) -> list[Row]:
        return [tuple(row) for row in await session.fetch(sql, *arguments)]

    return query
