"""Who takes and who gives: pure rules that every member applies to what it sees, so that they agree without talking.

Free shards go, in order, to whoever has the fewest. When none is free and one member has at least two more than
another, the one with the most gives one away, and again when that has arrived. So every member ends with a fair share:
the number of shards divided by that of members, rounded up or down. What members see may differ for a moment; then a
claim finds the shard taken, or a shard moves once more than needed, and nothing worse happens.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from everstep_orchestrator.membership.model import Member, Seen


def to_claim(me: str, members: Sequence[Member], shards: Sequence[Seen]) -> list[Seen]:
    """The free shards that fall to `me`. A shard with held runs goes to those who have their code, if anybody has."""
    takers = [member for member in members if not member.leaving]
    counts = _counts(takers, shards)
    mine = []
    for shard in _free(members, shards) if takers else ():
        able = [member for member in takers if member.knows(shard.needs)] or takers
        taker = min(able, key=lambda member: (counts[member.id], member.id))
        counts[taker.id] += 1
        if taker.id == me:
            mine.append(shard)
    return mine


def to_hand_over(me: str, members: Sequence[Member], shards: Sequence[Seen]) -> int | None:
    """The shard that `me` is to give away now, preferring one whose held runs its next owner can run."""
    takers = [member for member in members if not member.leaving]
    if len(takers) < 2 or _free(members, shards):
        return None
    counts = _counts(takers, shards)
    fewest = min(takers, key=lambda member: (counts[member.id], member.id))
    most = max(takers, key=lambda member: (counts[member.id], member.id))
    if most.id != me or counts[most.id] - counts[fewest.id] < 2:
        return None
    own = [shard for shard in shards if shard.owner == me]
    return max(own, key=lambda shard: (fewest.knows(shard.needs), shard.shard)).shard


def _free(members: Sequence[Member], shards: Sequence[Seen]) -> list[Seen]:
    living = {member.id for member in members}
    return [shard for shard in shards if shard.owner not in living]


def _counts(takers: Sequence[Member], shards: Sequence[Seen]) -> Counter[str | None]:
    counts = Counter(shard.owner for shard in shards)
    return Counter({member.id: counts[member.id] for member in takers})


class Deaths:
    """Judges who is dead, for one session of one observer.

    Without a lease a member is dead. A free lock shows that its connection has ended, which it does at once when a
    process is killed; but a restart of Postgres ends all connections, and then the others get a moment to come back.
    There was a restart if the member registered with another server process than the present one, or if this
    observer's own connection was lost a moment ago.
    """

    def __init__(self, restart_seconds: float, *, reconnected: bool, now: float) -> None:
        self._restart_seconds = restart_seconds
        self._patient_until = now + restart_seconds if reconnected else now
        self._free_since: dict[str, float] = {}

    def is_dead(self, id: str, *, leased: bool, lock_free: bool, same_server: bool, now: float) -> bool:
        if not lock_free:
            self._free_since.pop(id, None)
        if not leased or not lock_free:
            return not leased
        since = self._free_since.setdefault(id, now)
        if same_server and now >= self._patient_until:
            return True
        return now - since >= self._restart_seconds
