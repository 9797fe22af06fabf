"""The shards of this orchestrator, from claim to release.

A claim is *to be opened*, then *opening* while what is stored is read, then the shard is *owned*. At every `await`
membership may say that the shard is lost or claimed anew; both forget it wherever it stands, and what was being read
under an older claim is thrown away. Nothing of a shard is published before it is owned.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TypeVar

import structlog
from aiokafka.errors import KafkaError

from everstep_orchestrator.kafka.publisher import Publisher, Ticket
from everstep_orchestrator.membership import Claim, Membership
from everstep_orchestrator.pipeline.counting import Counting
from everstep_orchestrator.pipeline.opening import Opener
from everstep_orchestrator.pipeline.reading import Reading
from everstep_orchestrator.pipeline.state import Shard, Suspect
from everstep_orchestrator.store import Unavailable
from everstep_schemas.wire import Outgoing

log = structlog.get_logger(__name__)

RETRY_SECONDS = 0.2
T = TypeVar("T")


class Ownership:
    """Keeps `shards`, the owned ones by number."""

    def __init__(
        self,
        shards: dict[int, Shard],
        *,
        opener: Opener,
        reading: Reading,
        publisher: Publisher,
        counting: Counting,
        now: Callable[[], int],
        wake: asyncio.Event,
    ) -> None:
        self.shards = shards
        self.empty = asyncio.Event()
        self.empty.set()
        self.membership: Membership | None = None
        self._opener = opener
        self._reading = reading
        self._publisher = publisher
        self._counting = counting
        self._now = now
        self._wake = wake
        self._claims: dict[int, Claim] = {}
        self._opening: dict[int, Claim] = {}
        self._surplus: set[int] = set()  # to be handed over as soon as they are owned
        self._leaving = False

    # ---- what membership tells

    def claimed(self, claims: Iterable[Claim]) -> None:
        for claim in claims:
            self._forget(claim.shard)
            self._claims[claim.shard] = claim
        self._wake.set()

    def lost(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            self._forget(number)
            self._surplus.discard(number)
        self._reading.reassign()

    def lose_all(self) -> None:
        self.lost({*self.shards, *self._claims, *self._opening})

    def hand_over(self, number: int) -> None:
        if number in self.shards:
            self.shards[number].draining = True
            self._reading.reassign()
        else:
            self._surplus.add(number)
        self._wake.set()

    def hand_over_all(self) -> None:
        """This process ends: also what it gets from now on is handed over."""
        self._leaving = True
        for number in list(self.shards):
            self.hand_over(number)

    def _forget(self, number: int) -> None:
        self._claims.pop(number, None)
        self._opening.pop(number, None)
        self.drop(number)

    # ---- opening

    async def open_claimed(self) -> None:
        """Opens what was claimed."""
        while self._claims:
            claims, self._claims = list(self._claims.values()), {}
            await asyncio.gather(*(self._take_over(claim) for claim in claims))
            self._reading.reassign()

    async def _take_over(self, claim: Claim) -> None:
        since = self._now()
        if await self._open(claim) is not None:
            self._counting.opened(self._now() - since)

    async def reread(self, shard: Shard, *, one_by_one: int, suspect: Suspect | None = None) -> None:
        """Goes back to what is stored, under the same epoch: nothing of the refused commit was applied."""
        if shard.lost:
            return
        self.drop(shard.number)
        reopened = await self._open(shard.stored)
        if reopened is not None:
            reopened.one_by_one = max(one_by_one, reopened.one_by_one)
            reopened.suspect = suspect or reopened.suspect
            self._reading.reassign()

    async def _open(self, claim: Claim) -> Shard | None:
        """Reads what is stored and owns the shard, unless it was lost or claimed anew meanwhile."""
        self._opening[claim.shard] = claim
        shard = await _retrying(lambda: self._opener.open(claim))
        if self._opening.get(claim.shard) is not claim:
            return None
        del self._opening[claim.shard]
        self._own(shard)
        return shard

    def _own(self, shard: Shard) -> None:
        self.shards[shard.number] = shard
        shard.draining = self._leaving or shard.number in self._surplus
        self._surplus.discard(shard.number)
        self.empty.clear()
        self._counting.owned(len(self.shards))
        for commit_no, messages in shard.owed:
            shard.tickets.append(self._publisher.publish(shard.number, commit_no, messages))
        shard.owed.clear()

    # ---- losing and giving

    def claim_anew(self, shards: Sequence[Shard]) -> None:
        """It is not known what is stored: only a new epoch makes it certain."""
        numbers = [shard.number for shard in shards if not shard.lost]
        for number in numbers:
            self.drop(number)
        self._reading.reassign()
        if self.membership is not None and numbers:
            self.membership.reclaim(numbers)

    def release(self, shard: Shard) -> None:
        """The shard is drained: others may have it."""
        self.drop(shard.number)
        self._surplus.discard(shard.number)
        if self.membership is not None:
            self.membership.release(shard.number)

    def drop(self, number: int) -> None:
        """Nothing of the shard stays; if it comes back, it is still to be handed over if it was."""
        shard = self.shards.pop(number, None)
        if shard is not None:
            shard.lost = True
            if shard.draining:
                self._surplus.add(number)
            self._publisher.drop(list(shard.tickets))
            for ticket, _, _ in shard.refused:
                self._publisher.settle(ticket)
            shard.evict_all()
            self._reading.forget(number)
            self._counting.owned(len(self.shards))
        if not self.shards:
            self.empty.set()

    def refused(self, ticket: Ticket, message: Outgoing, why: str) -> None:
        """Kafka will never take this message."""
        shard = self.shards.get(ticket.shard)
        if shard is not None and ticket.live:
            shard.refused.append((ticket, message, why))
            self._wake.set()
        else:
            self._publisher.settle(ticket)


async def _retrying(read: Callable[[], Awaitable[T]]) -> T:
    """Reads until Postgres and Kafka answer; what is decided meanwhile about ownership is looked at afterwards."""
    while True:
        try:
            return await read()
        except (Unavailable, KafkaError) as error:
            log.warning(
                "cannot read what a shard's owner needs, trying again", error=f"{type(error).__name__}: {error}"
            )
            await asyncio.sleep(RETRY_SECONDS)
