"""Taking a shard over: reading what its last owner left, and publishing again what it may not have published.

The claim has raised the epoch already, so nothing that is read here can still change. Everything in the outbox goes out
again, in order and before anything new of the shard, as soon as the shard is owned; receivers apply each identity once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from aiokafka import TopicPartition

from everstep._core.engine import Engine, HistoryRow, Identity
from everstep._core.messages import messages_of, references
from everstep_orchestrator.kafka.intake import Intake
from everstep_orchestrator.membership import Claim
from everstep_orchestrator.pipeline.drafting import Entry
from everstep_orchestrator.pipeline.state import Shard
from everstep_orchestrator.pipeline.stepping import NOT_CHOSEN
from everstep_orchestrator.store import RunRow, Store
from everstep_schemas import events
from everstep_schemas.names import Topics

TRIED_ONE_BY_ONE = 1000
CLAIMS_BEFORE_CAUTION = 2
WAKEUP_HORIZON_US = 60_000_000
WAKEUPS_AT_ONCE = 10_000
EARLY_SIGNALS = 100_000
END_OF_TIME = 253_402_300_000_000_000  # the year 9999


@dataclass(frozen=True, slots=True)
class Opener:
    """Opens claimed shards."""

    store: Store
    intake: Intake
    engine: Engine
    topics: Topics
    now: Callable[[], int]

    async def open(self, claim: Claim) -> Shard:
        """The shard as stored, with what it owes from before; its timers of the next minute known."""
        shard = Shard(claim, *await self._positions(claim), self.now())
        if claim.claims_without_progress >= CLAIMS_BEFORE_CAUTION:
            shard.one_by_one = TRIED_ONE_BY_ONE
        await self._find_owed(shard)
        await self.refresh_wakeups(shard)
        await self._find_waiting(shard)
        await self._count(shard)
        return shard

    async def _count(self, shard: Shard) -> None:
        for workflow, condition, number in await self.store.census(shard.number):
            shard.census.open[workflow] += number
            shard.census.stalled += number if condition == "stalled" else 0
        shard.census.parked = await self.store.parked_count(shard.number)

    async def _find_waiting(self, shard: Shard) -> None:
        """Runs that could not go on are tried again with the code at hand; early signals wait for their starts."""
        for condition in ("stalled", "held"):
            above = 0
            while page := await self.store.stalled(shard.number, condition, above=above):
                above = page[-1].run_key
                shard.to_resume.extend(row.run_key for row in page if self._has_code(row))
        for row in await self.store.parked_expired(shard.number, END_OF_TIME, EARLY_SIGNALS):
            shard.keep_early(row)

    def _has_code(self, row: RunRow) -> bool:
        if row.version == NOT_CHOSEN:
            return self.engine.newest(row.workflow) is not None
        return self.engine.knows(row.workflow, row.version)

    async def _positions(self, claim: Claim) -> tuple[int, int]:
        submissions = TopicPartition(self.topics.submissions, claim.shard)
        inbox = TopicPartition(self.topics.inbox, claim.shard)
        stored = {submissions: claim.submissions_position, inbox: claim.inbox_position}
        unset = [partition for partition, position in stored.items() if position is None]
        earliest = await self.intake.earliest(unset) if unset else {}
        first, second = (earliest[p] if position is None else position for p, position in stored.items())
        return first, second

    async def refresh_wakeups(self, shard: Shard) -> None:
        """Reads which runs want to be looked at within the next minute.

        What is decided while this waits adds itself, as the minute counts as known from the start; what is decided
        but not durable yet is added here.
        """
        until, before = self.now() + WAKEUP_HORIZON_US, shard.wakeups_known_until
        shard.wakeups_known_until = until
        shard.add_unstored_wakeups()
        try:
            rows = await self.store.due(shard.number, until, WAKEUPS_AT_ONCE)
        except BaseException:
            shard.wakeups_known_until = before
            raise
        for key, at in rows:
            shard.wakeups.add(key, at)
        if len(rows) == WAKEUPS_AT_ONCE:
            shard.wakeups_known_until = rows[-1][1]

    async def _find_owed(self, shard: Shard) -> None:
        rows = await self.store.outbox(shard.number, shard.published)
        refs = [ref for row in rows for ref in row.refs]
        identities = await self._identities(refs)
        histories = await self.store.rows_holding(refs) if refs else {}
        scheduled = await self._scheduled(histories)
        for row in rows:
            messages = [
                message
                for key, seq in row.refs
                for message in messages_of(
                    identities[key], self.topics, [histories[key, seq]], partial(_found, scheduled, key)
                )
            ]
            shard.owed.append((row.commit_no, [*messages, *row.bodies]))

    async def _identities(self, refs: Sequence[tuple[int, int]]) -> Mapping[int, Identity]:
        rows = await self.store.runs_by_key(sorted({key for key, _ in refs})) if refs else []
        return {row.run_key: Entry(row).identity for row in rows}

    async def _scheduled(
        self, histories: Mapping[tuple[int, int], HistoryRow]
    ) -> Mapping[tuple[int, int], events.ActivityScheduled]:
        """The activities that the rows' events speak of, found in the rows that hold them."""
        wanted = {(key, ref) for (key, _), row in histories.items() for ref in references([row])}
        holding = await self.store.rows_holding(sorted(wanted)) if wanted else {}
        return {
            (key, ref): event
            for (key, ref), row in holding.items()
            if isinstance(event := events.decode_events(row.data)[ref - row.seq], events.ActivityScheduled)
        }


def _found(
    scheduled: Mapping[tuple[int, int], events.ActivityScheduled], key: int, ref: int
) -> events.ActivityScheduled:
    return scheduled[key, ref]
