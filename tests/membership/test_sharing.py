"""The pure rules: whatever members see, shards end up fairly shared, and nobody is declared dead by mistake."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from everstep_orchestrator.membership.model import Member, Seen
from everstep_orchestrator.membership.sharing import Deaths, to_claim, to_hand_over

MEMBERS = [Member(id) for id in "abcde"]
OWNERS = st.lists(st.sampled_from([None, "a", "b", "c", "d", "e", "dead"]), max_size=40)


def seen(owners: list[str | None]) -> list[Seen]:
    return [Seen(shard, owner) for shard, owner in enumerate(owners)]


def counts(members: list[Member], shards: list[Seen]) -> list[int]:
    counted = Counter(shard.owner for shard in shards)
    return [counted[member.id] for member in members]


@given(OWNERS, st.integers(1, 5))
def test_every_free_shard_falls_to_exactly_one_member(owners: list[str | None], size: int) -> None:
    members, shards = MEMBERS[:size], seen(owners)
    taken = [shard.shard for member in members for shard in to_claim(member.id, members, shards)]
    living = {member.id for member in members}
    assert sorted(taken) == [shard.shard for shard in shards if shard.owner not in living]


@given(OWNERS, st.integers(1, 5))
def test_shares_become_fair_and_then_nothing_moves(owners: list[str | None], size: int) -> None:
    members, shards = MEMBERS[:size], seen(owners)
    surplus, moves = 0, 0
    for turn in range(200):
        for member in members:
            for shard in to_claim(member.id, members, shards):
                shards[shard.shard] = replace(shard, owner=member.id)
        if turn == 0:
            surplus = sum(max(0, count - len(shards) // size) for count in counts(members, shards))
        given_away = [to_hand_over(member.id, members, shards) for member in members]
        gone = [shard for shard in given_away if shard is not None]
        assert len(gone) <= 1
        if not gone:
            break
        moves += 1
        shards[gone[0]] = replace(shards[gone[0]], owner=None)
    held = counts(members, shards)
    assert sum(held) == len(shards)
    assert max(held) - min(held) <= 1
    assert moves <= surplus


def test_a_member_that_leaves_takes_nothing_and_gives_nothing() -> None:
    members = [Member("a", leaving=True), Member("b")]
    shards = seen(["a", "a", "a", "a", None])
    assert to_claim("a", members, shards) == []
    assert to_claim("b", members, shards) == [shards[4]]
    assert to_hand_over("a", members, seen(["a", "a", "a", "b"])) is None


def test_when_all_leave_nobody_takes() -> None:
    members = [Member("a", leaving=True)]
    assert to_claim("a", members, seen([None])) == []
    assert to_hand_over("a", members, seen(["a"])) is None


def test_shards_whose_runs_wait_for_code_go_to_those_who_have_it() -> None:
    old, new = Member("a", code={"w": frozenset({1})}), Member("b", code={"w": frozenset({1, 2})})
    shards = [
        Seen(0, None),
        Seen(1, None, needs=("w", 2)),
        Seen(2, None, needs=("w", 2)),
        Seen(3, None, needs=("x", 1)),
    ]
    assert [shard.shard for shard in to_claim("b", [old, new], shards)] == [1, 2]
    owned = [replace(shard, owner="a") for shard in shards]
    assert to_hand_over("a", [old, new], owned) == 2


def test_any_version_will_do_for_a_run_without_one() -> None:
    assert Member("a", code={"w": frozenset({3})}).knows(("w", 0))
    assert not Member("a", code={"w": frozenset()}).knows(("w", 0))
    assert not Member("a", code={"w": frozenset({3})}).knows(None)


def test_a_member_without_a_lease_is_dead_whatever_its_lock() -> None:
    deaths = Deaths(2.0, reconnected=False, now=0.0)
    assert deaths.is_dead("a", leased=False, lock_free=False, same_server=True, now=0.0)
    assert not deaths.is_dead("a", leased=True, lock_free=False, same_server=True, now=0.0)


def test_a_free_lock_is_a_death_at_once_if_the_server_is_the_same() -> None:
    deaths = Deaths(2.0, reconnected=False, now=0.0)
    assert deaths.is_dead("a", leased=True, lock_free=True, same_server=True, now=0.0)


def test_after_a_restart_a_member_has_a_moment_to_come_back() -> None:
    deaths = Deaths(2.0, reconnected=False, now=0.0)
    free = {"leased": True, "lock_free": True, "same_server": False}
    assert not deaths.is_dead("a", **free, now=5.0)
    assert not deaths.is_dead("a", **free, now=6.9)
    assert not deaths.is_dead("a", leased=True, lock_free=False, same_server=True, now=6.95)
    assert not deaths.is_dead("a", **free, now=7.0)
    assert deaths.is_dead("a", **free, now=9.0)


def test_who_lost_its_own_connection_is_patient_with_others_for_a_moment() -> None:
    """A backend that crashes ends all sessions without a restart of the server."""
    deaths = Deaths(2.0, reconnected=True, now=10.0)
    free = {"leased": True, "lock_free": True, "same_server": True}
    assert not deaths.is_dead("a", **free, now=10.5)
    assert not deaths.is_dead("a", **free, now=11.9)
    assert deaths.is_dead("a", **free, now=12.5)
    assert deaths.is_dead("b", **free, now=12.5)
