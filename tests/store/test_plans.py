"""Every query of the hot path goes through an index, whatever the size of the tables when it was planned.

A connection keeps its plans. Those that were made while the tables were empty serve when they are large.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any, TypeAlias

import asyncpg
import pytest
from tests.store.conftest import NOW, SCHEMA, closed, commit, happened, new_run

from everstep_orchestrator.store import ParkedRow, Store
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


@pytest.fixture(params=list(SIZES))
async def planner(migrated: str, request: pytest.FixtureRequest) -> AsyncIterator[Session]:
    """A session as the store has it, on tables of some size that vacuum has seen."""
    connection = await connect(migrated, "test")
    await connection.execute(f'SET search_path = "{SCHEMA}"')
    await connection.execute("SET plan_cache_mode = auto")
    await connection.execute(FILL, SIZES[request.param])
    for statement in (FILL_HISTORY, FILL_PARKED, *(f"VACUUM ANALYZE {table}" for table in TABLES)):
        await connection.execute(statement)
    await connection.execute("SET plan_cache_mode = force_generic_plan")
    yield connection
    connection.terminate()


async def plan(connection: Session, statement: str, *arguments: Any) -> list[dict[str, Any]]:
    """All nodes of the plan that ran."""
    answer = await connection.fetchval(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}", *arguments)
    return list(_nodes(json.loads(answer)[0]["Plan"]))


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


@pytest.mark.parametrize("name", READS)
async def test_a_read_searches_an_index(planner: Session, name: str) -> None:
    nodes = await plan(planner, queries("store", SCHEMA)[name], *READS[name])
    assert not scanned(nodes)
    assert nodes[0]["Shared Hit Blocks"] + nodes[0]["Shared Read Blocks"] < 200


async def test_looking_for_held_runs_searches_an_index(planner: Session) -> None:
    assert scanned(await plan(planner, queries("membership", SCHEMA)["shards"])) <= {"shards"}


@pytest.mark.parametrize("size", [1, 200])
async def test_a_commit_searches_indexes(planner: Session, size: int) -> None:
    """With one plan for every size of batch."""
    numbers = range(1001, 1001 + size)
    batch = [
        commit(
            shard,
            history=[row for number in numbers for row in happened(run_key(shard, number), 6)],
            new_runs=[new_run(shard, number) for number in range(1, size + 1)],
            updates=[closed(run_key(shard, number)) for number in numbers],
            parked=[ParkedRow(shard, number, "x", None, None, b"") for number in range(1, size + 1)],
            unparked=list(numbers),
            refs=[(run_key(shard, number), 6) for number in numbers],
        )
        for shard in (0, 1)
    ]
    statement, arguments = Store("", SCHEMA)._statements.of(batch)
    nodes = await plan(planner, statement, *arguments)
    assert not scanned(nodes)
    changed = {node["Relation Name"] for node in nodes if node["Node Type"] == "ModifyTable"}
    assert changed == {"history", "runs", "shards", "parked", "outbox"}
