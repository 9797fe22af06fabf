"""Every query of the hot path goes through an index, whatever the size of the tables when it was planned.

A connection keeps its plans: those that were made while the tables were empty serve when they are large.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Iterator
from typing import Any, TypeAlias

import asyncpg
import pytest
from tests.store.conftest import NOW, SCHEMA, commit, new_run

from everstep_orchestrator.store.commit import Statements
from everstep_orchestrator.store.connections import connect
from everstep_schemas.names import run_key
from everstep_schemas.sql import queries

pytestmark = pytest.mark.integration

Session: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

SIZES = {"empty": 0, "tiny": 40, "large": 20_000}
TABLES = ("runs", "history", "parked", "outbox")
FILL = """
INSERT INTO runs (run_key, shard, workflow_id, run, workflow, version, nonce, source, status, condition, started_at,
                  closed_at, next_wakeup_at)
SELECT (shard::bigint << 48) + n, shard, 'id ' || shard || '/' || n, 1, 'w', 1, 'n', 's', 'running',
       CASE WHEN n % 100 = 0 THEN 'stalled' END, now(), NULL, now() + n * interval '1 second'
FROM generate_series(0, 3) shard, generate_series(1001, 1000 + $1::int / 4) n;
"""
FILL_HISTORY = """
INSERT INTO history SELECT run_key, seq, now(), '[]' FROM runs, generate_series(1, 5) seq
"""
FILL_PARKED = """
INSERT INTO parked
SELECT shard, run_key & 1048575, workflow_id, CASE WHEN run_key % 2 = 0 THEN run_key END,
       CASE WHEN run_key % 2 = 1 THEN now() + interval '1 minute' END, '{}'
FROM runs
"""
KEYS = [run_key(shard, number) for shard in (0, 1) for number in (1500, 1600, 1700)]
READS: dict[str, tuple[Any, ...]] = {
    "runs_by_key": (KEYS,),
    "latest_runs": (["id 0/1500", "id 1/1600"],),
    "run_of_source": ("id 0/1500", "s"),
    "stalled": (0, "stalled", 0, 10),
    "due": (0, NOW * 2, 10),
    "history_page": (KEYS[0], 0, 100, 1 << 20),
    "histories": (KEYS, 100, 1 << 20),
    "rows_holding": (KEYS, [3] * len(KEYS)),
    "outbox": (0, 0),
    "parked_of_runs": (KEYS,),
    "parked_for_ids": (["id 0/1501", "id 1/1601"],),
    "parked_expired": (0, NOW * 2, 10),
}
STATEMENTS = {
    **{name: queries("store", SCHEMA)[name] for name in READS},
    "shards": queries("membership", SCHEMA)["shards"],
    "commit": Statements(queries("commit", SCHEMA)).of([])[0],
    "commit runs": Statements(queries("commit", SCHEMA)).of([commit(new_runs=[new_run()])])[0],
    "commit parked": Statements(queries("commit", SCHEMA)).of([commit(unparked=[1])])[0],
}


@pytest.fixture
async def planner(migrated: str) -> AsyncIterator[Session]:
    """A session as the store has it, with the tables of the schema on its search path."""
    connection = await connect(migrated, "test")
    await connection.execute(f'SET search_path = "{SCHEMA}"')
    yield connection
    connection.terminate()


async def fill(connection: Session, runs: int) -> None:
    """Give the tables some size, and let vacuum see it."""
    await connection.execute("SET plan_cache_mode = auto")
    await connection.execute(FILL, runs)
    for statement in (FILL_HISTORY, FILL_PARKED, *(f"VACUUM ANALYZE {table}" for table in TABLES)):
        await connection.execute(statement)
    await connection.execute("SET plan_cache_mode = force_generic_plan")


async def generic_plan(connection: Session, statement: str) -> list[dict[str, Any]]:
    """The nodes of the plan that every call of the prepared statement uses."""
    parameters = max((int(number) for number in re.findall(r"\$(\d+)", statement)), default=0)
    await connection.execute(f"PREPARE planned AS {statement}")
    values = f"({', '.join(['NULL'] * parameters)})" if parameters else ""
    answer = await connection.fetch(f"EXPLAIN (FORMAT JSON) EXECUTE planned {values}")
    await connection.execute("DEALLOCATE planned")
    return list(_nodes(json.loads(answer[0][0])[0]["Plan"]))


def _nodes(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for inner in node.get("Plans", ()):
        yield from _nodes(inner)


def scanned(nodes: list[dict[str, Any]]) -> set[str]:
    """The tables that are read by anything but a search in an index."""
    reading = [node for node in nodes if "Scan" in node["Node Type"] and node["Node Type"] != "Bitmap Heap Scan"]
    return {
        node.get("Relation Name") or node["Index Name"]
        for node in reading
        if ("Relation Name" in node or "Index Name" in node) and not node.keys() & {"Index Cond", "TID Cond"}
    }


@pytest.mark.parametrize("size", SIZES)
async def test_every_statement_searches_indexes(planner: Session, size: str) -> None:
    """Only `shards`, which never grows, may be read whole."""
    await fill(planner, SIZES[size])
    found = {name: scanned(await generic_plan(planner, statement)) for name, statement in STATEMENTS.items()}
    assert {name: tables - {"shards"} for name, tables in found.items() if tables - {"shards"}} == {}


async def test_what_a_read_touches_does_not_grow_with_the_tables(planner: Session) -> None:
    await fill(planner, SIZES["large"])
    for name, arguments in READS.items():
        answer = await planner.fetchval(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {STATEMENTS[name]}", *arguments)
        touched = json.loads(answer)[0]["Plan"]
        assert touched["Shared Hit Blocks"] + touched["Shared Read Blocks"] < 200, name
