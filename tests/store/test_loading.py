"""What an owner reads: runs, histories in pages, the outbox, wake-ups, parked inputs."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest
from tests.store.conftest import DATA, NOW, SCHEMA, commit, happened, new_run
from tests.support import proxy

from everstep_orchestrator.store import HistoryRow, OutboxRow, ParkedRow, RunUpdate, Store, Unavailable
from everstep_orchestrator.store import store as module
from everstep_schemas.names import run_key
from everstep_schemas.wire import Outgoing

FIRST, SECOND, THIRD = (run_key(0, number) for number in (1, 2, 3))

pytestmark = pytest.mark.integration


async def test_the_newest_run_of_each_id(store: Store) -> None:
    runs = [
        new_run(number=1, workflow_id="a", status="completed", closed_at=NOW),
        new_run(number=2, workflow_id="a", run=2),
        new_run(number=3, workflow_id="b"),
    ]
    await store.commit([commit(last_number=3, new_runs=runs)])
    found = await store.latest_runs(["a", "b", "nobody"])
    assert {row.workflow_id: row for row in found} == {"a": runs[1], "b": runs[2]}
    assert await store.run_of_source("a", runs[0].source) == runs[0]
    assert await store.run_of_source("b", runs[0].source) is None
    assert sorted(row.run_key for row in await store.runs_by_key([THIRD, FIRST, run_key(3, 9)])) == [FIRST, THIRD]


async def test_a_long_history_comes_in_pages(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAGE_ROWS", 7)
    await store.commit([commit(history=happened(FIRST, *range(1, 41, 2)))])
    expected = [HistoryRow(seq, NOW + seq, DATA) for seq in range(1, 41, 2)]
    assert [row async for row in store.history(FIRST)] == expected
    assert [row async for row in store.history(FIRST, after_seq=21)] == expected[11:]


async def test_a_page_holds_one_row_however_large(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAGE_BYTES", 10)
    large = [(FIRST, seq, NOW, b"x" * 100_000) for seq in (1, 2, 3)]
    await store.commit([commit(history=large)])
    assert [len(row.data) async for row in store.history(FIRST)] == [100_000] * 3


async def test_histories_are_whole_or_missing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WHOLE_HISTORY_ROWS", 3)
    monkeypatch.setattr(module, "WHOLE_HISTORY_BYTES", 1000)
    large = [(THIRD, 1, NOW, b"x" * 1001)]
    history = [*happened(FIRST, 1, 2, 3), *happened(SECOND, 1, 2, 3, 4), *large]
    await store.commit([commit(history=history)])
    found = await store.histories([THIRD, SECOND, FIRST, run_key(0, 9)])
    assert found == {FIRST: [HistoryRow(seq, NOW + seq, DATA) for seq in (1, 2, 3)]}


async def test_rows_are_found_by_any_of_their_events(store: Store) -> None:
    await store.commit([commit(history=happened(FIRST, 1, 4))])
    found = await store.rows_holding([(FIRST, 1), (FIRST, 3), (FIRST, 4), (FIRST, 9), (SECOND, 1)])
    assert {event: row.seq for (_, event), row in found.items()} == {1: 1, 3: 1, 4: 4, 9: 4}


async def test_the_outbox_comes_in_order_of_commits(store: Store) -> None:
    for number in (1, 2, 3):
        await store.commit([commit(commit_no=number, refs=[(FIRST, number)], bodies=[Outgoing("t", b"%d" % number)])])
    expected = [OutboxRow(number, [(FIRST, number)], [Outgoing("t", b"%d" % number)]) for number in (2, 3)]
    assert await store.outbox(0, 1) == expected
    assert await store.outbox(1, 0) == []


async def test_due_runs_come_earliest_first_and_only_those_that_can_run(store: Store) -> None:
    runs = [
        new_run(number=1, next_wakeup_at=NOW + 30),
        new_run(number=2, next_wakeup_at=NOW + 10),
        new_run(number=3, next_wakeup_at=NOW + 5, condition="stalled"),
        new_run(number=4, next_wakeup_at=NOW + 60),
        new_run(number=5),
    ]
    await store.commit([commit(last_number=5, new_runs=runs)])
    assert await store.due(0, NOW + 30, 10) == [(SECOND, NOW + 10), (FIRST, NOW + 30)]
    assert await store.due(0, NOW + 30, 1) == [(SECOND, NOW + 10)]
    await store.commit([commit(commit_no=2, updates=[RunUpdate(THIRD, 1, "running", next_wakeup_at=NOW + 5)])])
    assert (await store.due(0, NOW + 30, 1)) == [(THIRD, NOW + 5)]


async def test_runs_that_do_not_run_are_found_by_condition_in_pages(store: Store) -> None:
    held = new_run(number=9, condition="held")
    stalled = [new_run(number=number, condition="stalled", reason=b"{}") for number in (1, 2, 3)]
    await store.commit([commit(last_number=9, new_runs=[*stalled, held])])
    assert await store.stalled(0, limit=2) == stalled[:2]
    assert await store.stalled(0, above=SECOND) == stalled[2:]
    assert await store.stalled(0, "held") == [held]
    assert await store.stalled(1) == []


async def test_parked_inputs_by_run_by_id_and_by_expiry(store: Store) -> None:
    parked = [
        ParkedRow(0, 4, "a", FIRST, None, b"second"),
        ParkedRow(0, 2, "a", FIRST, None, b"first"),
        ParkedRow(0, 3, "b", None, NOW + 9, b"late"),
        ParkedRow(0, 5, "c", None, NOW + 2, b"soon"),
    ]
    await store.commit([commit(last_number=5, parked=parked)])
    assert await store.parked_of_runs([FIRST, SECOND]) == [parked[1], parked[0]]
    assert await store.parked_for_ids(["a", "b"]) == [parked[2]]
    assert await store.parked_expired(0, NOW + 9, 10) == [parked[3], parked[2]]
    assert await store.parked_expired(0, NOW + 8, 10) == [parked[3]]


async def test_only_the_owner_notes_what_it_tries(store: Store, session: asyncpg.Connection[asyncpg.Record]) -> None:
    assert await store.mark_trying(0, 0, FIRST)
    assert not await store.mark_trying(0, 1, SECOND)
    assert await session.fetchval("SELECT trying FROM shards WHERE shard = 0") == FIRST
    assert await store.mark_trying(0, 0, None)
    assert await session.fetchval("SELECT trying FROM shards WHERE shard = 0") is None


async def test_a_fact_is_stored_once(store: Store) -> None:
    assert await store.remember("kafka cluster", "one") == "one"
    assert await store.remember("kafka cluster", "two") == "one"


async def test_of_two_who_remember_at_once_both_learn_what_is_stored(store: Store) -> None:
    said = await asyncio.gather(*(store.remember("cluster", str(number)) for number in range(8)))
    assert len(set(said)) == 1


async def test_reading_says_when_postgres_is_away(migrated: str) -> None:
    async with proxy.before(migrated) as (cutter, dsn):
        store = Store(dsn, SCHEMA)
        assert await store.runs_by_key([FIRST]) == []
        cutter.refusing = True
        cutter.cut()
        with pytest.raises(Unavailable):
            await store.runs_by_key([FIRST])
        cutter.refusing = False
        assert await store.runs_by_key([FIRST]) == []
        await store.close()
