"""Members on a real PostgreSQL: shares, hand-overs, leases, lost connections."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from dataclasses import replace

import asyncpg
import pytest
from tests.membership.conftest import QUICK, SCHEMA, SHARDS, Installation, Recorder, opened, soon
from tests.support import proxy

from everstep.admin import database
from everstep.stack import Stack

pytestmark = pytest.mark.integration

ALL = set(range(SHARDS))


async def test_a_lone_member_takes_every_shard_once(installation: Installation) -> None:
    alone = installation.join()
    await soon(alone.until(lambda: set(alone.held) == ALL))
    assert {claim.epoch for claim in alone.held.values()} == {1}
    assert {claim.claims_without_progress for claim in alone.held.values()} == {1}
    assert alone.member.holds_lease()


async def test_shares_become_fair_as_members_come_and_go(installation: Installation) -> None:
    first = installation.join()
    await soon(first.until(lambda: set(first.held) == ALL))
    second, third = installation.join(), installation.join()
    await soon(first.until(lambda: len(first.held) <= 3))
    await soon(second.until(lambda: len(second.held) in (2, 3)))
    await soon(third.until(lambda: len(third.held) in (2, 3)))
    await first.member.stop()
    first.held.clear()
    await soon(second.until(lambda: len(second.held) == 4))
    await soon(third.until(lambda: len(third.held) == 4))
    assert set(second.held) | set(third.held) == ALL


async def test_surplus_goes_one_by_one_and_only_when_its_owner_lets_go(installation: Installation) -> None:
    first = installation.join(obliging=False)
    await soon(first.until(lambda: set(first.held) == ALL))
    second = installation.join()
    for gone in range(1, 5):
        await soon(first.until(lambda gone=gone: len(asked(first)) == gone))  # type: ignore[misc]  # a default
        assert len(second.held) == gone - 1
        first.held.pop(asked(first)[-1])
        first.member.release(asked(first)[-1])
        await soon(second.until(lambda gone=gone: len(second.held) == gone))  # type: ignore[misc]  # a default
    assert ("lost", asked(first)) not in first.calls
    assert set(first.held) | set(second.held) == ALL


def asked(recorder: Recorder) -> list[int]:
    return [shard for what, shard in recorder.calls if what == "hand_over"]


async def test_a_graceful_release_is_no_claim_without_progress(installation: Installation) -> None:
    for _ in range(3):
        member = installation.join()
        await soon(member.until(lambda member=member: set(member.held) == ALL))  # type: ignore[misc]  # a default
        assert {claim.claims_without_progress for claim in member.held.values()} == {1}
        await member.member.stop()


async def test_who_leaves_is_forgotten(installation: Installation, session: asyncpg.Connection[asyncpg.Record]) -> None:
    member = installation.join()
    await soon(member.until(lambda: set(member.held) == ALL))
    await member.member.stop()
    assert await session.fetchval("SELECT count(*) FROM orchestrators") == 0
    assert await session.fetchval("SELECT count(*) FROM shards WHERE owner IS NOT NULL") == 0
    assert not member.member.holds_lease()


async def test_who_is_about_to_leave_takes_nothing_more(
    installation: Installation, session: asyncpg.Connection[asyncpg.Record]
) -> None:
    first = installation.join()
    await soon(first.until(lambda: set(first.held) == ALL))
    first.member.leave()
    while not await session.fetchval("SELECT bool_and(leaving) FROM orchestrators"):
        pass
    second = installation.join()
    first.member.release(first.held.popitem()[0])
    await soon(second.until(lambda: len(second.held) == 1))
    assert asked(first) == []


async def test_a_claim_anew_raises_the_epoch_and_counts_nothing(
    installation: Installation, session: asyncpg.Connection[asyncpg.Record]
) -> None:
    member = installation.join()
    await soon(member.until(lambda: set(member.held) == ALL))
    await session.execute("UPDATE shards SET trying = 7, commit_no = 5 WHERE shard = 3")
    member.member.reclaim([3])
    await soon(member.until(lambda: member.held[3].epoch == 2))
    assert member.held[3] == replace(member.held[3], commit_no=5, claims_without_progress=1, trying=None)
    assert member.held[4].epoch == 1


async def test_a_claim_anew_of_what_others_have_is_a_loss(
    installation: Installation, session: asyncpg.Connection[asyncpg.Record]
) -> None:
    first = installation.join()
    await soon(first.until(lambda: set(first.held) == ALL))
    second = installation.join()
    await soon(second.until(lambda: len(second.held) == 4))
    taken = min(second.held)
    first.member.reclaim([taken])
    await soon(first.until(lambda: ("lost", [taken]) in first.calls))
    assert second.held[taken].epoch == 2


async def test_a_shard_that_another_took_is_lost(
    installation: Installation, session: asyncpg.Connection[asyncpg.Record]
) -> None:
    """Whoever it was: the register decides. With the rival gone at once, the shard comes back under a new epoch."""
    member = installation.join()
    await soon(member.until(lambda: set(member.held) == ALL))
    await session.execute("UPDATE shards SET epoch = 7, owner = NULL WHERE shard = 2")
    await soon(member.until(lambda: 2 in member.held and member.held[2].epoch == 8))
    assert ("lost", [2]) in member.calls


async def test_a_silent_main_loop_loses_its_lease_and_others_take_over(installation: Installation) -> None:
    first = installation.join()
    await soon(first.until(lambda: set(first.held) == ALL))
    second = installation.join()
    await soon(second.until(lambda: len(second.held) == 4))
    kept = set(first.held)
    installation.silenced.add(first)
    await soon(first.until_called("lease_expired"))
    assert not first.member.holds_lease()
    await soon(second.until(lambda: set(second.held) == ALL))
    assert {second.held[shard].claims_without_progress for shard in kept} == {2}
    installation.silenced.clear()
    await soon(first.until(lambda: len(first.held) == 4))
    assert first.member.holds_lease()


async def test_a_main_loop_that_stays_silent_is_given_up(installation: Installation) -> None:
    stuck = threading.Event()
    member = installation.join(timing=replace(QUICK, stuck_seconds=0.3), on_stuck=stuck.set)
    installation.silenced.add(member)
    await soon(asyncio.to_thread(stuck.wait))  # type: ignore[arg-type]  # it answers True
    assert stuck.is_set()


async def test_a_lost_connection_moves_shards_and_they_come_back(installation: Installation) -> None:
    """The others see a free lock and take over; the member that was cut off learns it when it is back."""
    async with proxy.before(installation.dsn) as (cutter, dsn):
        first = installation.join(dsn=dsn, timing=replace(QUICK, lease_seconds=60))
        await soon(first.until(lambda: set(first.held) == ALL))
        second = installation.join()
        await soon(second.until(lambda: len(second.held) == 4))
        cutter.refusing = True
        cutter.cut()
        await soon(second.until(lambda: set(second.held) == ALL))
        cutter.refusing = False
        await soon(first.until_called("lost"))
        await soon(first.until(lambda: len(first.held) == 4))
        assert ("lease_expired", None) not in first.calls
        await first.member.stop()


async def test_postgres_away_for_longer_than_the_lease(installation: Installation) -> None:
    """The lease passes by this machine's clock alone; then everything is claimed anew, which is no crash."""
    async with proxy.before(installation.dsn) as (cutter, dsn):
        alone = installation.join(dsn=dsn)
        await soon(alone.until(lambda: set(alone.held) == ALL))
        cutter.refusing = True
        cutter.cut()
        await soon(alone.until_called("lease_expired"))
        assert alone.held == {}
        cutter.refusing = False
        await soon(alone.until(lambda: set(alone.held) == ALL))
        assert {(claim.epoch, claim.claims_without_progress) for claim in alone.held.values()} == {(2, 1)}
        await alone.member.stop()


async def test_a_server_that_answers_no_more_is_noticed(installation: Installation) -> None:
    """No connection breaks; the bytes just stop."""
    async with proxy.before(installation.dsn) as (cutter, dsn):
        alone = installation.join(dsn=dsn)
        await soon(alone.until(lambda: set(alone.held) == ALL))
        cutter.answers.clear()
        await soon(alone.until_called("lease_expired"))
        cutter.cut()
        cutter.answers.set()
        await soon(alone.until(lambda: set(alone.held) == ALL))
        await alone.member.stop()


async def test_a_claim_whose_answer_was_lost_is_made_again(
    installation: Installation, session: asyncpg.Connection[asyncpg.Record]
) -> None:
    async with proxy.before(installation.dsn) as (cutter, dsn):
        alone = installation.join(dsn=dsn, timing=replace(QUICK, lease_seconds=60))
        await soon(alone.until(lambda: set(alone.held) == ALL))
        cutter.answers.clear()
        alone.member.reclaim([5])
        while await session.fetchval("SELECT epoch FROM shards WHERE shard = 5") == 1:
            pass
        cutter.cut()
        cutter.answers.set()
        await soon(alone.until(lambda: alone.held.get(5) is not None and alone.held[5].epoch >= 3))
        stored = await session.fetchval("SELECT epoch FROM shards WHERE shard = 5")
        assert alone.held[5].epoch == stored
        await alone.member.stop()


@pytest.fixture
async def restartable(private_stack: Stack) -> AsyncIterator[Installation]:
    """On a server of the test's own, with leases that outlast its restarts."""
    await database.migrate(private_stack.postgres_dsn, SCHEMA, SHARDS)
    async with opened(private_stack.postgres_dsn) as installation:
        yield installation


async def test_a_restart_of_postgres_moves_nothing(private_stack: Stack, restartable: Installation) -> None:
    """All locks are free then; everyone gives everyone a moment to come back."""
    timing = replace(QUICK, lease_seconds=60, restart_seconds=10)
    first = restartable.join(timing=timing)
    await soon(first.until(lambda: set(first.held) == ALL))
    second = restartable.join(timing=timing)
    await soon(second.until(lambda: len(second.held) == 4))
    before = [dict(first.held), dict(second.held)]
    for ending in (private_stack.postgres.stop, private_stack.postgres.kill):
        await ending()
        await private_stack.postgres.start()
        for member in (first, second):
            await soon(came_back(private_stack.postgres_dsn, member))
        assert [first.held, second.held] == before


async def came_back(dsn: str, recorder: Recorder) -> None:
    """Registered with the server process that runs now, and its shards looked at since."""
    connection = await asyncpg.connect(dsn)
    query = f'SELECT postmaster_started = pg_postmaster_start_time() FROM "{SCHEMA}".orchestrators WHERE id = $1'  # noqa: S608
    while not await connection.fetchval(query, recorder.member.id):
        pass
    await connection.close()


async def test_members_know_each_others_code(installation: Installation) -> None:
    old = installation.join(workflows={"w": [1]})
    await soon(old.until(lambda: set(old.held) == ALL))
    new = installation.join(workflows={"w": [1, 2], "x": [1]})
    await soon(new.until(lambda: len(new.held) == 4))
    assert new.member.others_know("w", 1)
    assert not new.member.others_know("w", 2)
    assert old.member.others_know("w", 2)
    assert old.member.others_know("x", 0)
    await new.member.stop()
    await soon(old.until(lambda: set(old.held) == ALL))
    assert not old.member.others_know("w", 2)


async def test_the_dead_are_buried_when_they_own_nothing(
    installation: Installation, session: asyncpg.Connection[asyncpg.Record]
) -> None:
    await session.execute(
        "INSERT INTO orchestrators (id, lock_key, lease_until, postmaster_started, address, host, pid, version,"
        " migration, workflows) VALUES ('dead', 1, now() - interval '1 s', now(), 'x', 'x', 1, '0', 1, '{}')"
    )
    await session.execute("UPDATE shards SET owner = 'dead', epoch = 4, trying = 9, claims_without_progress = 1")
    member = installation.join()
    await soon(member.until(lambda: set(member.held) == ALL))
    assert {(claim.epoch, claim.claims_without_progress, claim.trying) for claim in member.held.values()} == {(5, 2, 9)}
    while await session.fetchval("SELECT count(*) FROM orchestrators") > 1:
        pass
