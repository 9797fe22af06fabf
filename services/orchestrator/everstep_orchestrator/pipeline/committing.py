"""Commits drafts, one batch at a time, and publishes what they caused once they are durable.

What was built on a commit that failed is dropped, for that shard only. A refused commit is split by shard, then its
inputs are tried one by one; the run of the one that is refused alone is stalled.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import structlog

from everstep._core.engine import StallReason
from everstep_orchestrator.kafka.publisher import Publisher
from everstep_orchestrator.pipeline.counting import Counting
from everstep_orchestrator.pipeline.drafting import Draft, Entry
from everstep_orchestrator.pipeline.ownership import Ownership
from everstep_orchestrator.pipeline.state import Shard, Suspect
from everstep_orchestrator.store import DataRefused, OutcomeUnknown, ShardCommit, Store

log = structlog.get_logger(__name__)

Commits = Sequence[tuple[Shard, ShardCommit]]


class Committing:
    """The one commit under way."""

    def __init__(
        self,
        store: Store,
        ownership: Ownership,
        publisher: Publisher,
        counting: Counting,
        now: Callable[[], int],
        ended: Callable[[asyncio.Task[None]], None],
    ) -> None:
        self._store = store
        self._ownership = ownership
        self._publisher = publisher
        self._counting = counting
        self._now = now
        self._ended = ended
        self._task: asyncio.Task[None] | None = None
        self._closed: list[tuple[Shard, Entry]] = []

    def begin(self) -> None:
        """Commits everything that is written, unless a commit is under way: its end begins the next."""
        if self._task is not None:
            return
        shards = self._ownership.shards.values()
        ready = [shard for shard in shards if shard.draft is not None and shard.in_flight is None]
        if ready:
            self._task = asyncio.create_task(self._commit([(shard, shard.begin_commit()) for shard in ready]))
            self._task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._task = None
        self._ended(task)

    async def until_durable(self, runs: Sequence[tuple[Shard, Entry]]) -> None:
        """Waits until everything that was decided for these runs is stored, or their shards are lost."""
        while any(not shard.lost and entry.touched > shard.commit_no for shard, entry in runs):
            self.begin()
            if self._task is None:
                return
            await asyncio.wait({self._task})

    async def stop(self) -> None:
        """Breaks off; the outcome is unknown, and nobody here acts upon it any more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    def take_closed(self) -> list[tuple[Shard, Entry]]:
        """The runs whose last activation has become durable."""
        closed, self._closed = self._closed, []
        return closed

    async def _commit(self, commits: Commits) -> None:
        started = self._now()
        try:
            committed = await self._store.commit([commit for _, commit in commits])
        except DataRefused as error:
            await self._refused(commits, error)
        except OutcomeUnknown as error:
            log.warning("a commit's outcome is unknown, claiming the shards anew", error=str(error))
            self._ownership.claim_anew([shard for shard, _ in commits])
        else:
            self._counting.committed(self._now() - started, sum(len(commit.history) for _, commit in commits))
            for shard, _ in commits:
                self._settle(shard, fenced=shard.number not in committed)

    def _settle(self, shard: Shard, *, fenced: bool) -> None:
        if shard.lost:
            return
        if fenced:
            log.warning("another orchestrator owns the shard now", shard=shard.number)
            self._ownership.claim_anew([shard])
            return
        draft = shard.end_commit()
        if draft is None:
            return
        if outgoing := draft.outgoing:
            shard.tickets.append(self._publisher.publish(shard.number, draft.commit_no, outgoing))
        self._closed.extend((shard, entry) for entry in draft.closed)
        self._counting.settled(draft.tally)
        for event, fields in draft.tally.warnings:
            log.warning(event, **fields)
        shard.census.add(draft.tally)

    async def _refused(self, commits: Commits, error: DataRefused) -> None:
        """Something in the batch is not to be stored: split it by shard, then find the one input that causes it."""
        if len(commits) > 1:
            for one in commits:
                if not one[0].lost:
                    await self._commit([one])
            return
        shard, _ = commits[0]
        draft = shard.in_flight
        if shard.lost or draft is None:
            return
        log.error("Postgres refuses a commit's data", shard=shard.number, error=str(error))
        if draft.items <= 1:
            await self._set_aside(shard, draft, error)
        else:
            await self._ownership.reread(shard, one_by_one=draft.items + 1)

    async def _set_aside(self, shard: Shard, draft: Draft, error: DataRefused) -> None:
        """One input alone was refused: the run that it belongs to is stalled, with what is stored of it untouched."""
        keys = [*draft.created, *draft.changed, *(key for key, *_ in draft.history)]
        message = f"Postgres refuses what this run would store: {error}; correct the workflow or the input"
        reason = StallReason(kind="data", message=message)
        suspect = Suspect(keys[0], reason) if keys else None
        await self._ownership.reread(shard, one_by_one=2, suspect=suspect)
