"""The one statement that writes: what it writes, and all that must keep it from writing."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest
from tests.store.conftest import DATA, NOW, SCHEMA, Query, closed, commit, happened, new_run
from tests.support import proxy

from everstep_orchestrator.store import DataRefused, OutboxRow, OutcomeUnknown, ParkedRow, RunUpdate, Store
from everstep_schemas.names import run_key
from everstep_schemas.wire import Outgoing

FIRST = run_key(0, 1)

pytestmark = pytest.mark.integration


async def until_blocked(session: asyncpg.Connection[asyncpg.Record], sessions: int = 1) -> None:
    """Until so many sessions of this database wait for a lock."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    while await session.fetchval(query) < sessions:
        await session.execute("SELECT pg_stat_clear_snapshot()")  # else a transaction sees the same activity for ever


async def test_everything_of_a_commit_is_written_at_once(store: Store, rows: Query) -> None:
    body = Outgoing("everstep.inbox", b"\x00\xff", partition=3, key=b"k", headers=(("a", b"b"),))
    early = ParkedRow(0, 2, "later", None, NOW + 60, b"{}")
    started = new_run(custom_status="packing", next_wakeup_at=NOW + 5)
    first = commit(
        inbox_position=9,
        last_number=2,
        history=happened(FIRST, 1, 3),
        new_runs=[started],
        refs=[(FIRST, 1), (FIRST, 3)],
        bodies=[body],
        parked=[early],
    )
    assert await store.commit([first]) == {0}
    assert await store.runs_by_key([FIRST]) == [started]
    assert [row.seq async for row in store.history(FIRST)] == [1, 3]
    assert await store.outbox(0, 0) == [OutboxRow(1, [(FIRST, 1), (FIRST, 3)], [body])]
    assert await store.parked_for_ids(["later"]) == [early]
    query = "SELECT commit_no, submissions_position, inbox_position, last_number, published FROM shards WHERE shard = 0"
    assert await rows(query) == [(1, 1, 9, 2, 0)]


async def test_a_later_commit_changes_settles_and_acknowledges(store: Store) -> None:
    early = ParkedRow(0, 2, "later", None, NOW + 60, b"{}")
    await store.commit([commit(new_runs=[new_run()], refs=[(FIRST, 1)], parked=[early])])
    await store.commit([commit(commit_no=2, refs=[(FIRST, 3)])])
    await store.commit([commit(commit_no=3, published=1, updates=[closed(FIRST)], unparked=[2])])
    assert [(row.status, row.closed_at) for row in await store.runs_by_key([FIRST])] == [("completed", NOW)]
    assert [row.commit_no for row in await store.outbox(0, 0)] == [2]
    assert await store.parked_for_ids(["later"]) == []


async def test_a_commit_that_owes_nothing_leaves_no_outbox_row(store: Store) -> None:
    await store.commit([commit(history=happened(FIRST, 1))])
    assert await store.outbox(0, 0) == []


async def test_a_commit_is_progress(store: Store, session: asyncpg.Connection[asyncpg.Record], rows: Query) -> None:
    await session.execute("UPDATE shards SET claims_without_progress = 3, trying = 7")
    await store.commit([commit()])
    query = "SELECT shard, claims_without_progress, trying FROM shards WHERE shard < 2 ORDER BY shard"
    assert await rows(query) == [(0, 0, None), (1, 3, 7)]


@pytest.mark.parametrize(("epoch", "commit_no"), [(1, 1), (0, 0), (0, 2), (-1, 1)])
async def test_a_shard_whose_fence_fails_drops_out_alone(store: Store, rows: Query, epoch: int, commit_no: int) -> None:
    """Of a fenced-off shard not one part is written; its neighbour in the batch is."""
    batch = [
        commit(
            shard,
            *((commit_no, epoch) if shard == 0 else (1, 0)),
            bodies=[Outgoing("t", b"x")],
            history=happened(run_key(shard, 1), 1),
            new_runs=[new_run(shard)],
            parked=[ParkedRow(shard, 5, "x", None, None, b"{}")],
        )
        for shard in (0, 1)
    ]
    assert await store.commit(batch) == {1}
    for table, shard in (("history", "run_key >> 48"), ("runs", "shard"), ("outbox", "shard"), ("parked", "shard")):
        assert await rows(f"SELECT {shard} FROM {table}") == [(1,)], table  # noqa: S608  # names of this test
    assert await rows("SELECT shard FROM shards WHERE commit_no > 0") == [(1,)]


async def test_of_a_fenced_shard_nothing_is_changed_or_deleted(
    store: Store, session: asyncpg.Connection[asyncpg.Record]
) -> None:
    early = ParkedRow(0, 2, "later", None, NOW + 60, b"{}")
    await store.commit([commit(new_runs=[new_run()], refs=[(FIRST, 1)], parked=[early])])
    await session.execute("UPDATE shards SET epoch = 5")
    late = commit(commit_no=2, published=1, updates=[closed(FIRST)], unparked=[2])
    assert await store.commit([late]) == frozenset()
    assert [row.status for row in await store.runs_by_key([FIRST])] == ["running"]
    assert len(await store.outbox(0, 0)) == len(await store.parked_for_ids(["later"])) == 1


async def test_two_owners_who_both_believe(migrated: str, session: asyncpg.Connection[asyncpg.Record]) -> None:
    """The old owner's commit waits behind the claim of the new one, and judges the row as the claim left it."""
    old, new = Store(migrated, SCHEMA), Store(migrated, SCHEMA)
    async with session.transaction():
        await session.execute("UPDATE shards SET epoch = 1 WHERE shard = 0")
        late = asyncio.create_task(old.commit([commit(0, history=happened(FIRST, 1)), commit(1)]))
        await until_blocked(session)
    assert await late == {1}
    assert await new.commit([commit(0, epoch=1, history=happened(FIRST, 1))]) == {0}
    assert await old.commit([commit(0, 2, history=happened(FIRST, 2))]) == frozenset()
    assert [row.seq async for row in new.history(FIRST)] == [1]
    await old.close()
    await new.close()


async def test_a_commit_whose_connection_broke_while_it_waited_is_applied_once(
    migrated: str, store: Store, session: asyncpg.Connection[asyncpg.Record]
) -> None:
    """The server does not know that its client is gone, and writes when the lock is free; the repetition must not."""
    async with proxy.before(migrated) as (cutter, dsn):
        cut_off = Store(dsn, SCHEMA)
        the_commit = commit(history=happened(FIRST, 1), bodies=[Outgoing("t", b"x")])
        async with session.transaction():
            await session.execute("SELECT FROM shards WHERE shard = 0 FOR UPDATE")
            waiting = asyncio.create_task(cut_off.commit([the_commit]))
            await until_blocked(session)
            cutter.abandon()
            with pytest.raises(OutcomeUnknown):
                await waiting
            repeated = asyncio.create_task(store.commit([the_commit]))
            await until_blocked(session, 2)
        assert await repeated == frozenset()
        assert [row.seq async for row in store.history(FIRST)] == [1]
        assert len(await store.outbox(0, 0)) == 1
        await cut_off.close()


async def test_after_a_new_claim_nothing_of_a_cut_off_commit_can_arrive(
    migrated: str, store: Store, session: asyncpg.Connection[asyncpg.Record], rows: Query
) -> None:
    async with proxy.before(migrated) as (cutter, dsn):
        cut_off = Store(dsn, SCHEMA)
        await cut_off.commit([commit()])
        cutter.requests.clear()
        waiting = asyncio.create_task(cut_off.commit([commit(commit_no=2, history=happened(FIRST, 1))]))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await session.execute("UPDATE shards SET epoch = epoch + 1 WHERE shard = 0")
        cutter.requests.set()
        assert await store.commit([commit(commit_no=2, epoch=1)]) == {0}
        await cut_off.close()
    assert await rows("SELECT * FROM history") == []


async def test_an_answer_that_is_lost_leaves_the_outcome_unknown(migrated: str, store: Store, rows: Query) -> None:
    async with proxy.before(migrated) as (cutter, dsn):
        cut_off = Store(dsn, SCHEMA)
        await cut_off.commit([commit()])
        cutter.answers.clear()
        waiting = asyncio.create_task(cut_off.commit([commit(commit_no=2)]))
        while await rows("SELECT commit_no FROM shards WHERE shard = 0") != [(2,)]:
            pass
        cutter.cut()
        with pytest.raises(OutcomeUnknown):
            await waiting
        cutter.answers.set()
        assert await cut_off.commit([commit(commit_no=2)]) == frozenset()
        assert await cut_off.commit([commit(commit_no=3)]) == {0}
        await cut_off.close()


async def test_shards_are_locked_in_one_order_by_everyone(
    store: Store, session: asyncpg.Connection[asyncpg.Record], migrated: str
) -> None:
    """A batch that waits for shard 0 must not hold shard 1, or two batches could wait for each other for ever."""
    other = Store(migrated, SCHEMA)
    async with session.transaction():
        await session.execute("SELECT FROM shards WHERE shard = 0 FOR UPDATE")
        waiting = asyncio.create_task(store.commit([commit(1), commit(0)]))
        await until_blocked(session)
        assert await asyncio.wait_for(other.commit([commit(1)]), 5) == {1}
    assert await waiting == {0}
    await other.close()


async def test_batches_that_share_shards_never_deadlock(migrated: str) -> None:
    """Whatever order they name them in; a deadlock would come as `OutcomeUnknown`."""
    stores = [Store(migrated, SCHEMA) for _ in range(4)]

    async def work(store: Store, shards: list[int]) -> None:
        for _ in range(50):
            await store.commit([commit(shard, 99) for shard in shards])
            await store.commit([commit(shard, 1) for shard in shards])

    orders = ([0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1], [1, 3, 0, 2])
    await asyncio.gather(*(work(store, order) for store, order in zip(stores, orders, strict=True)))
    for store in stores:
        await store.close()


REFUSED = {
    "NUL in text": new_run(custom_status="a\0b"),
    "half of a surrogate pair": new_run(custom_status="\ud800"),
    "an id that fits no index": new_run(workflow_id="".join(chr(0x4E00 + i * 7919 % 20000) for i in range(10_000))),
    "a number out of range": new_run(run=1 << 40),
    "an unknown status": new_run(status="confused"),
    "a closed run with a wake-up": new_run(status="failed", closed_at=NOW, next_wakeup_at=NOW),
    "the key of another run": new_run(number=7),
    "the number of another run": new_run(workflow_id="taken"),
}


@pytest.mark.parametrize("bad", REFUSED.values(), ids=REFUSED.keys())
async def test_a_row_that_postgres_refuses_takes_its_batch_with_it(store: Store, rows: Query, bad: object) -> None:
    """Nothing is written, the error says so, and the rest goes through alone."""
    await store.commit([commit(last_number=7, new_runs=[new_run(number=7, workflow_id="taken")])])
    good, refused = commit(1, new_runs=[new_run(1)]), commit(0, 2, history=happened(FIRST, 1), new_runs=[bad])
    with pytest.raises(DataRefused) as caught:
        await store.commit([good, refused])
    assert caught.value.sqlstate[:2] in ("22", "23", "54")
    assert await rows("SELECT shard FROM shards WHERE commit_no = 1") == [(0,)]
    assert await store.commit([good]) == {1}
    assert await store.commit([commit(0, 2)]) == {0}


async def test_a_seq_is_never_written_twice(store: Store) -> None:
    await store.commit([commit(history=happened(FIRST, 1))])
    with pytest.raises(DataRefused):
        await store.commit([commit(commit_no=2, history=happened(FIRST, 1))])


async def test_the_hot_path_rewrites_the_shard_in_place(
    store: Store, session: asyncpg.Connection[asyncpg.Record]
) -> None:
    """No index is touched by a commit's update of its shard, nor by an update of a run that changes no wake-up."""
    await store.commit([commit(new_runs=[new_run(next_wakeup_at=NOW)])])
    update = RunUpdate(FIRST, 1, "running", custom_status="packing", next_wakeup_at=NOW)
    statement, arguments = store._statements.of([commit(commit_no=2, updates=[update])])
    async with session.transaction():
        await session.fetch(statement, *arguments)
        for table in ("shards", "runs"):
            count = "SELECT pg_stat_get_xact_tuples_hot_updated($1::text::regclass)"
            assert await session.fetchval(count, table) == 1, table


async def test_a_store_goes_on_after_postgres_was_away(migrated: str) -> None:
    async with proxy.before(migrated) as (cutter, dsn):
        store = Store(dsn, SCHEMA)
        await store.commit([commit()])
        cutter.refusing = True
        cutter.cut()
        for _ in range(3):
            with pytest.raises(OutcomeUnknown):
                await store.commit([commit(commit_no=2)])
        cutter.refusing = False
        assert await store.commit([commit(commit_no=2, history=[(FIRST, 1, NOW, DATA)])]) == {0}
        await store.close()


async def test_sessions_that_the_server_ends_fail_as_outcomes_unknown(
    store: Store, session: asyncpg.Connection[asyncpg.Record]
) -> None:
    """Whenever the news arrives: before the call, at its start, or while it waits."""
    for _ in range(30):
        await session.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = 'everstep commit' AND datname = current_database()"
        )
        stored = await session.fetchval("SELECT commit_no FROM shards WHERE shard = 0")
        try:
            assert await store.commit([commit(commit_no=stored + 1)]) == {0}
        except OutcomeUnknown:
            continue
