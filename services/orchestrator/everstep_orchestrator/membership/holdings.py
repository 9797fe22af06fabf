"""The shards that this process believes to own, compared with what the register says."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from everstep_orchestrator.membership.model import Claim, Listener, Member, Seen
from everstep_orchestrator.membership.registry import Registry
from everstep_orchestrator.membership.sharing import to_claim, to_hand_over


class Holdings:
    """The epochs of the shards held, by shard. `tell` calls the listener where it wants to be called."""

    def __init__(self, me: Member, listener: Listener, tell: Callable[..., None]) -> None:
        self.others: Sequence[Member] = ()
        self._me = me
        self._listener = listener
        self._tell = tell
        self._epochs: dict[int, int] = {}
        self._giving: int | None = None

    def clear(self) -> None:
        """The lease has passed: nothing is held any more."""
        self._epochs.clear()

    async def share(self, registry: Registry, *, leaving: bool) -> None:
        """Look at who holds what: notice losses, take what falls to this member, start to give away a surplus."""
        self.others = await registry.others()
        shards = await registry.shards()
        self._notice_losses(shards)
        stray = [seen for seen in shards if seen.owner == self._me.id and seen.shard not in self._epochs]
        if leaving:
            await registry.release([seen.shard for seen in stray])
            return
        members = [*self.others, self._me]
        await self._claim(registry, [*stray, *to_claim(self._me.id, members, shards)])
        self._give(to_hand_over(self._me.id, members, shards))

    async def reclaim(self, registry: Registry, shards: Sequence[int]) -> None:
        """Raise the epochs of shards that are still ours; the others are lost."""
        claims = await self._claim(registry, [Seen(shard, self._me.id) for shard in shards])
        self._lose(sorted(set(shards) - {claim.shard for claim in claims}))

    async def release(self, registry: Registry, shards: Sequence[int]) -> None:
        for shard in shards:
            self._epochs.pop(shard, None)
        await registry.release(shards)

    def _notice_losses(self, shards: Sequence[Seen]) -> None:
        current = {seen.shard: seen.epoch for seen in shards if seen.owner == self._me.id}
        self._lose([shard for shard, epoch in self._epochs.items() if current.get(shard) != epoch])

    def _lose(self, shards: list[int]) -> None:
        for shard in shards:
            self._epochs.pop(shard, None)
        if shards:
            self._tell(self._listener.lost, shards)

    async def _claim(self, registry: Registry, wanted: Sequence[Seen]) -> list[Claim]:
        if not wanted:
            return []
        claims = await registry.claim([seen.shard for seen in wanted], [seen.owner for seen in wanted])
        self._epochs.update((claim.shard, claim.epoch) for claim in claims)
        if claims:
            self._tell(self._listener.claimed, claims)
        return claims

    def _give(self, shard: int | None) -> None:
        """One at a time: the next when this one is gone."""
        if self._giving not in self._epochs:
            self._giving = None
        if self._giving is None and shard in self._epochs:
            self._giving = shard
            self._tell(self._listener.hand_over, shard)
