"""The orchestrator's main loop: load, decide, commit, publish.

While a commit is under way the next one is being written; it begins when the other has ended, so batches grow with load
by themselves and nothing waits on an idle system. A shard has one commit in flight at most.

All decisions are made in one task. Others (the reader, the membership thread, acknowledgements, timers) only leave a
note and set `_wake`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

import structlog
from aiokafka import TopicPartition

from everstep_orchestrator.kafka.intake import Intake
from everstep_orchestrator.kafka.publisher import Publisher, Ticket
from everstep_orchestrator.membership import Claim, Membership
from everstep_orchestrator.pipeline.alarm import Alarm
from everstep_orchestrator.pipeline.cache import Cache
from everstep_orchestrator.pipeline.committing import Committing
from everstep_orchestrator.pipeline.counting import Counting
from everstep_orchestrator.pipeline.deciding import Decider
from everstep_orchestrator.pipeline.incoming import Incoming, Reader, Record
from everstep_orchestrator.pipeline.loading import Loader, Work
from everstep_orchestrator.pipeline.opening import Opener
from everstep_orchestrator.pipeline.outside import outside_task
from everstep_orchestrator.pipeline.ownership import Ownership
from everstep_orchestrator.pipeline.reading import Reading
from everstep_orchestrator.pipeline.rules import Rules
from everstep_orchestrator.pipeline.state import Shard
from everstep_orchestrator.pipeline.taking import take_inputs, take_refused, touched
from everstep_orchestrator.store import Store, Unavailable
from everstep_schemas.names import Topics
from everstep_schemas.wire import Outgoing

log = structlog.get_logger(__name__)

DRAFT_LIMIT = 4000
UNACKNOWLEDGED_LIMIT = 20_000
RETRY_SECONDS = 0.2
TICK_SECONDS = 0.5
REFRESH_AHEAD_US = 40_000_000


class Pipeline:
    """Runs the shards that this orchestrator owns; the listener of its membership."""

    def __init__(
        self,
        *,
        store: Store,
        intake: Intake,
        publisher: Publisher,
        rules: Rules,
        reader: Reader,
        topics: Topics,
        cache: Cache,
        counting: Counting,
        now: Callable[[], int],
        wake: asyncio.Event,
    ) -> None:
        self._store = store
        self._publisher = publisher
        self._rules = rules
        self._reader = reader
        self._topics = topics
        self._cache = cache
        self._counting = counting
        self._now = now
        self._wake = wake
        self._shards: dict[int, Shard] = {}
        self._loader = Loader(store, rules.engine, counting)
        self._opener = Opener(store, intake, rules.engine, topics, now)
        self._reading = Reading(intake, topics, self._shards, wake, self._may_publish)
        self._ownership = Ownership(
            self._shards,
            opener=self._opener,
            reading=self._reading,
            publisher=publisher,
            counting=counting,
            now=now,
            wake=wake,
        )
        self._committing = Committing(store, self._ownership, publisher, counting, now, self._ended)
        self._alarm = Alarm(now, wake)
        self._failure: BaseException | None = None
        self._check_bytes = False

    # ---- what membership and the publisher tell (on the loop, from callbacks)

    def join(self, membership: Membership) -> None:
        """The membership whose listener this is."""
        self._ownership.membership = membership

    def claimed(self, claims: list[Claim]) -> None:
        self._ownership.claimed(claims)

    def lost(self, shards: list[int]) -> None:
        self._ownership.lost(shards)

    def hand_over(self, shard: int) -> None:
        self._ownership.hand_over(shard)

    def lease_expired(self) -> None:
        self._publisher.cut()
        self._ownership.lose_all()

    def refused(self, ticket: Ticket, message: Outgoing, why: str) -> None:
        """Kafka will never take this message."""
        self._ownership.refused(ticket, message, why)

    # ---- what others ask

    def troubles(self) -> list[str]:
        """What is wrong, in words, for whoever asks whether this process is ready."""
        return self._reading.troubles()

    def positions(self) -> dict[TopicPartition, int]:
        """The next offsets to apply, as stored."""
        return {
            TopicPartition(topic, shard.number): position
            for shard in self._shards.values()
            for topic, position in (
                (self._topics.submissions, shard.stored.submissions_position),
                (self._topics.inbox, shard.stored.inbox_position),
            )
            if position is not None
        }

    async def drain(self) -> None:
        """Stops taking input, finishes every commit and publication, and hands all shards over."""
        self._ownership.hand_over_all()
        await self._ownership.empty.wait()

    # ---- the loop

    async def run(self) -> None:
        """Works until it is cancelled or something fails that never should; leaves no run in memory."""
        helpers = [
            asyncio.create_task(work) for work in (self._reading.run(), self._keep_house(), self._report_alive())
        ]
        for helper in helpers:
            helper.add_done_callback(self._ended)
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                await self._turn()
        finally:
            for helper in helpers:
                helper.cancel()
            await asyncio.gather(*helpers, return_exceptions=True)
            await self._committing.stop()
            for number in list(self._shards):
                self._ownership.drop(number)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """A commit, or by its failure another task, has ended: the next turn looks at it."""
        if not task.cancelled():
            self._failure = self._failure or task.exception()
        self._wake.set()

    async def _turn(self) -> None:
        if (failure := self._publisher.failure or self._failure) is not None:
            raise failure
        await self._ownership.open_claimed()
        self._forget_idle()
        work = take_refused(list(self._shards.values()))
        if self._may_decide():
            take_inputs(work, list(self._shards.values()), self._read_record, self._now())
        if work:
            await self._decide(work)
        self._committing.begin()
        self._release_drained()
        self._reading.make_room()
        self._set_alarm()

    def _set_alarm(self) -> None:
        """Another turn at once if input is left, else when the next timer is due; none while nothing may be taken."""
        shards = [shard for shard in self._shards.values() if shard.takes_input] if self._may_decide() else []
        if any(shard.backlog or shard.to_resume for shard in shards):
            self._wake.set()
        due = [at for shard in shards if (at := shard.wakeups.next()) is not None]
        self._alarm.set(min(due) if due else None)

    def _may_publish(self) -> bool:
        return self._publisher.unacknowledged < UNACKNOWLEDGED_LIMIT

    def _may_decide(self) -> bool:
        drafted = sum(shard.draft.size for shard in self._shards.values() if shard.draft)
        return drafted < DRAFT_LIMIT and self._may_publish()

    def _read_record(self, record: Record) -> Incoming:
        if record.topic == self._topics.submissions:
            return self._reader.submission(record)
        return self._reader.inbox(record)

    def _forget_idle(self) -> None:
        """Drops from memory what nobody needs; only between two decisions, which rely on what was loaded for them."""
        for shard, entry in self._committing.take_closed():
            if not shard.lost and entry.touched <= shard.commit_no:
                shard.forget(entry)
        self._cache.trim(self._shards.values())
        if self._check_bytes:
            self._check_bytes = False
            self._cache.trim_bytes(self._shards.values())

    def _release_drained(self) -> None:
        for shard in [shard for shard in self._shards.values() if shard.draining and shard.idle]:
            before = shard.published
            if shard.acknowledged() != before:
                shard.writing()
            elif not shard.tickets:
                self._ownership.release(shard)
        self._committing.begin()

    # ---- load and decide

    async def _decide(self, work: Work) -> None:
        """Load what is missing, then decide everything in one go."""
        try:
            await self._load(work)
            await outside_task(lambda: self._apply(work))
        finally:
            for shard, entry in work.replayed:
                if shard.lost:
                    entry.evict()

    async def _load(self, work: Work) -> None:
        while True:
            try:
                await self._loader.rows(work)
                await self._committing.until_durable(self._loader.read_whole(work))
                for shard, key in touched(work):
                    await self._store.mark_trying(shard.number, shard.epoch, key)
                await self._loader.runs(work)
                return
            except Unavailable as error:
                log.warning("cannot read from Postgres, trying again", error=str(error))
                await asyncio.sleep(RETRY_SECONDS)

    def _apply(self, work: Work) -> None:
        now = self._now()
        deciders: dict[int, Decider] = {}

        def deciding(shard: Shard) -> Decider:
            if (decider := deciders.get(shard.number)) is None:
                decider = deciders[shard.number] = Decider(self._rules, shard, work)
            return decider

        for shard, key in work.resumes:
            if not shard.lost and key in shard.entries:
                deciding(shard).resume(shard.entries[key], now)
                shard.writing().items += 1
        for shard, record, incoming in work.records:
            submissions = record.topic == self._topics.submissions
            if not shard.lost and shard.is_next(record, submissions=submissions):
                deciding(shard).record(record, incoming, now)
                shard.advance(record, submissions=submissions)
                shard.tried()
        for shard, ticket, message, why in work.refused:
            if not shard.lost:
                deciding(shard).refused(message, why, now)
                shard.writing().items += 1
            self._publisher.settle(ticket)
        for shard in {shard for shard, _ in work.wakeups}:
            shard.heard = max(shard.heard, self._reading.heard(shard))
        for shard, key in work.wakeups:
            if not shard.lost and key in shard.entries:
                deciding(shard).wake(shard.entries[key], now)
                shard.tried()

    # ---- twice a second

    async def _report_alive(self) -> None:
        """Tells the membership thread that this loop works; waits for nothing else, so that Postgres may hang."""
        while True:
            if self._ownership.membership is not None:
                self._ownership.membership.progress()
            await asyncio.sleep(TICK_SECONDS)

    async def _keep_house(self) -> None:
        """What is due without anything having come in."""
        while True:
            await asyncio.sleep(TICK_SECONDS)
            for shard in list(self._shards.values()):
                await self._keep_shard(shard)
            self._check_bytes = True
            self._counting.state(self._shards.values(), self._now())
            self._wake.set()

    async def _keep_shard(self, shard: Shard) -> None:
        if shard.draining:
            return
        if shard.wakeups_known_until < self._now() + REFRESH_AHEAD_US:
            with contextlib.suppress(Unavailable):
                await self._opener.refresh_wakeups(shard)
        if shard.lost or shard.draining:
            return
        shard.leases.forget_old(self._now())
        if shard.early:
            Decider(self._rules, shard).expire_early(self._now())
        before = shard.published
        if shard.idle and shard.acknowledged() != before:
            shard.writing()
