"""The orchestrator's main loop: load, decide, commit, publish.

While a commit is under way the next one is being written; it begins when the other has ended, so batches grow with load
by themselves and nothing waits on an idle system. A shard has one commit in flight at most. What was built on a commit
that failed is dropped, for that shard only, and the shard is read again from what is stored.

Everything here runs in one task. Others (the reader, the membership thread, acknowledgements, timers) only leave a note
and set `_wake`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TypeVar

import structlog
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from everstep._core.engine import StallReason
from everstep_orchestrator.kafka.intake import Intake, OutsideLog
from everstep_orchestrator.kafka.publisher import Publisher, Ticket
from everstep_orchestrator.membership import Claim, Membership
from everstep_orchestrator.pipeline.alarm import Alarm
from everstep_orchestrator.pipeline.cache import Cache
from everstep_orchestrator.pipeline.counting import Counting
from everstep_orchestrator.pipeline.deciding import Decider, Rules
from everstep_orchestrator.pipeline.incoming import Incoming, Reader, Record, Request, Result
from everstep_orchestrator.pipeline.loading import Loader, Work
from everstep_orchestrator.pipeline.opening import Opener
from everstep_orchestrator.pipeline.outside import outside_task
from everstep_orchestrator.pipeline.state import Draft, Entry, Shard, Suspect, fair
from everstep_orchestrator.store import DataRefused, OutcomeUnknown, ShardCommit, Store, Unavailable
from everstep_schemas.names import Topics, run_key
from everstep_schemas.wire import Outgoing

log = structlog.get_logger(__name__)

RECORDS_PER_TURN = 500
WAKEUPS_PER_TURN = 500
RESUMES_PER_TURN = 50
BACKLOG_LIMIT = 2000
DRAFT_LIMIT = 4000
UNACKNOWLEDGED_LIMIT = 20_000
RETRY_SECONDS = 0.2
TICK_SECONDS = 0.5
REFRESH_AHEAD_US = 40_000_000

T = TypeVar("T")


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
        self._intake = intake
        self._publisher = publisher
        self._rules = rules
        self._reader = reader
        self._topics = topics
        self._cache = cache
        self._now = now
        self._wake = wake
        self._loader = Loader(store, rules.engine, counting)
        self._opener = Opener(store, intake, publisher, topics, now)
        self._counting = counting
        self._alarm = Alarm(now, wake)
        self._membership: Membership | None = None
        self._shards: dict[int, Shard] = {}
        self._claims: dict[int, Claim] = {}
        self._outside_log: dict[TopicPartition, int] = {}
        self._opening: dict[int, Claim] = {}
        self._surplus: set[int] = set()
        self._leaving = False
        self._committing: asyncio.Task[None] | None = None
        self._failure: BaseException | None = None
        self._closed: list[tuple[Shard, Entry]] = []
        self._check_bytes = False
        self._room = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()

    # ---- what membership tells (on the loop, from callbacks)

    def join(self, membership: Membership) -> None:
        """The membership whose listener this is."""
        self._membership = membership

    def claimed(self, claims: list[Claim]) -> None:
        self._claims.update((claim.shard, claim) for claim in claims)
        self._wake.set()

    def lost(self, shards: list[int]) -> None:
        for number in shards:
            self._claims.pop(number, None)
            self._opening.pop(number, None)
            self._drop(number)
        self._reassign()

    def hand_over(self, shard: int) -> None:
        if shard in self._shards:
            self._shards[shard].draining = True
            self._reassign()
        else:
            self._surplus.add(shard)
        self._wake.set()

    def lease_expired(self) -> None:
        self._publisher.cut()
        self.lost(list({*self._shards, *self._claims, *self._opening}))

    def _drop(self, number: int) -> None:
        shard = self._shards.pop(number, None)
        if shard is not None:
            shard.lost = True
            self._publisher.drop(list(shard.tickets))
            self._cache.drop(shard)
            self._counting.owned(len(self._shards))
        if not self._shards:
            self._empty.set()

    def refused(self, ticket: Ticket, message: Outgoing, why: str) -> None:
        """Kafka will never take this message."""
        shard = self._shards.get(ticket.shard)
        if shard is not None and ticket.live:
            shard.refused.append((ticket, message, why))
            self._wake.set()
        else:
            self._publisher.settle(ticket)

    # ---- what others ask

    def troubles(self) -> list[str]:
        """What is wrong, in words, for whoever asks whether this process is ready."""
        return [
            f"shard {partition.partition} has stopped: its position {position} lies outside the log of "
            f"{partition.topic}; records were lost or the topic was made anew"
            for partition, position in self._outside_log.items()
        ]

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

    # ---- the loop

    async def run(self) -> None:
        """Works until `drain` has emptied everything and the task is cancelled."""
        reading = asyncio.create_task(self._read())
        ticking = asyncio.create_task(self._tick())
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                await self._turn()
        finally:
            for task in (reading, ticking):
                task.cancel()
            await asyncio.gather(reading, ticking, return_exceptions=True)

    async def _turn(self) -> None:
        if (failure := self._publisher.failure or self._failure) is not None:
            raise failure
        await self._open_claimed()
        self._forget_closed()
        work = self._take_work()
        if work:
            await self._decide(work)
        self._begin_commit()
        self._release_drained()
        self._make_room()
        self._set_alarm()

    def _set_alarm(self) -> None:
        """Another turn at once if input is left, else when the next timer is due."""
        shards = [shard for shard in self._shards.values() if self._takes_input(shard)]
        if self._may_decide() and any(shard.backlog or shard.to_resume for shard in shards):
            self._wake.set()
        due = [at for shard in shards if (at := shard.wakeups.next()) is not None]
        self._alarm.set(min(due) if due else None)

    def _take_work(self) -> Work:
        work = Work()
        if not self._may_decide():
            return work
        now = self._now()
        shards = [shard for shard in self._shards.values() if self._takes_input(shard)]
        for shard, record in fair(shards, RECORDS_PER_TURN):
            work.records.append((shard, record, self._read_record(record)))
        for shard in shards:
            if not shard.one_by_one or not any(taken is shard for taken, _, _ in work.records):
                limit = 1 if shard.one_by_one else WAKEUPS_PER_TURN
                work.wakeups.extend((shard, key) for key in shard.wakeups.pop_due(now, limit))
            while shard.refused:
                work.refused.append((shard, *shard.refused.popleft()))
            while shard.to_resume and len(work.resumes) < RESUMES_PER_TURN:
                work.resumes.append((shard, shard.to_resume.popleft()))
        return work

    def _takes_input(self, shard: Shard) -> bool:
        """A shard that is tried one by one takes the next input when the last is durable."""
        if shard.draining:
            return False
        return not shard.one_by_one or (shard.draft is None and shard.in_flight is None)

    def _may_decide(self) -> bool:
        drafted = sum(len(shard.draft.history) for shard in self._shards.values() if shard.draft)
        return drafted < DRAFT_LIMIT and self._publisher.unacknowledged < UNACKNOWLEDGED_LIMIT

    def _read_record(self, record: Record) -> Incoming:
        if record.topic == self._topics.submissions:
            return self._reader.submission(record)
        return self._reader.inbox(record)

    async def _decide(self, work: Work) -> None:
        """Load what is missing, then decide everything in one go."""
        while True:
            try:
                await self._loader.rows(work)
                await self._mark_trying(work)
                await self._loader.runs(work)
                break
            except Unavailable as error:
                log.warning("cannot read from Postgres, trying again", error=str(error))
                await asyncio.sleep(RETRY_SECONDS)
        await outside_task(lambda: self._apply(work))
        for entry in work.replayed:
            if self._shards.get(entry.identity.shard) is None:
                entry.evict()

    async def _mark_trying(self, work: Work) -> None:
        """Notes which run is about to be touched, for shards whose owners keep dying."""
        for shard, _, incoming in work.records:
            if shard.one_by_one and not shard.lost:
                await self._store.mark_trying(shard.number, shard.epoch, _touched_key(shard, incoming))
        for shard, key in work.wakeups:
            if shard.one_by_one and not shard.lost:
                await self._store.mark_trying(shard.number, shard.epoch, key)

    def _apply(self, work: Work) -> None:
        now = self._now()
        deciders = {id(shard): Decider(self._rules, shard, work) for shard in self._shards.values()}
        for shard, key in work.resumes:
            if not shard.lost and key in shard.entries:
                deciders[id(shard)].resume(shard.entries[key], now)
        for shard, record, incoming in work.records:
            submissions = record.topic == self._topics.submissions
            if not shard.lost and shard.is_next(record, submissions=submissions):
                deciders[id(shard)].record(record, incoming, now)
                shard.advance(record, submissions=submissions)
                self._tried(shard)
        for shard, ticket, message, why in work.refused:
            if not shard.lost:
                deciders[id(shard)].refused(message, why, now)
            self._publisher.settle(ticket)
        for shard, key in work.wakeups:
            if not shard.lost and key in shard.entries:
                deciders[id(shard)].wake(shard.entries[key], now)
                self._tried(shard)
        for shard in self._shards.values():
            for workflow_id in [id for id, entry in shard.latest.items() if entry is None]:
                del shard.latest[workflow_id]
            shard.sources.clear()

    def _tried(self, shard: Shard) -> None:
        shard.writing().items += 1
        if shard.one_by_one:
            shard.one_by_one -= 1

    # ---- commit and publish

    def _begin_commit(self) -> None:
        if self._committing is not None:
            return
        ready = [shard for shard in self._shards.values() if shard.draft is not None and shard.in_flight is None]
        if ready:
            commits = [(shard, shard.begin_commit()) for shard in ready]
            self._committing = asyncio.create_task(self._commit(commits))
            self._committing.add_done_callback(self._committed)

    def _committed(self, task: asyncio.Task[None]) -> None:
        self._committing = None
        if not task.cancelled():
            self._failure = task.exception()
        self._wake.set()

    async def _commit(self, commits: Sequence[tuple[Shard, ShardCommit]]) -> None:
        started = self._now()
        try:
            committed = await self._store.commit([commit for _, commit in commits])
        except DataRefused as error:
            await self._refused(commits, error)
        except OutcomeUnknown as error:
            log.warning("a commit's outcome is unknown, claiming the shards anew", error=str(error))
            self._claim_anew([shard for shard, _ in commits])
        else:
            self._counting.committed(self._now() - started, sum(len(commit.history) for _, commit in commits))
            for shard, _ in commits:
                self._settle(shard, fenced=shard.number not in committed)

    def _settle(self, shard: Shard, *, fenced: bool) -> None:
        if shard.lost:
            return
        if fenced:
            log.warning("another orchestrator owns the shard now", shard=shard.number)
            self._claim_anew([shard])
            return
        draft = shard.end_commit()
        if draft is None:
            return
        self._publish(shard, draft)
        self._closed.extend((shard, entry) for entry in draft.closed)
        self._counting.settled(draft.tally)
        shard.census.add(draft.tally)

    def _forget_closed(self) -> None:
        """Drops from memory what nobody needs; only between two decisions, which rely on what was loaded for them."""
        closed, self._closed = self._closed, []
        for shard, entry in closed:
            if not shard.lost and entry.touched <= shard.commit_no:
                shard.forget(entry)
        self._cache.trim(self._shards.values())
        if self._check_bytes:
            self._check_bytes = False
            self._cache.trim_bytes(self._shards.values())

    def _publish(self, shard: Shard, draft: Draft) -> None:
        outgoing = draft.outgoing
        if outgoing:
            shard.tickets.append(self._publisher.publish(shard.number, draft.commit_no, outgoing))

    async def _refused(self, commits: Sequence[tuple[Shard, ShardCommit]], error: DataRefused) -> None:
        """Something in the batch is not to be stored: split it by shard, then find the one input that causes it."""
        if len(commits) > 1:
            for one in commits:
                if not one[0].lost:
                    await self._commit([one])
            return
        shard, _ = commits[0]
        draft = shard.in_flight
        log.error("Postgres refuses a commit's data", shard=shard.number, error=str(error))
        if draft is not None and draft.items <= 1:
            await self._set_aside(shard, draft, error)
        else:
            await self._reread(shard, one_by_one=(draft.items if draft else 0) + 1)

    async def _set_aside(self, shard: Shard, draft: Draft, error: DataRefused) -> None:
        """One input alone was refused: the run that it belongs to is stalled, with what is stored of it untouched."""
        keys = [*draft.created, *draft.changed, *(key for key, *_ in draft.history)]
        message = f"Postgres refuses what this run would store: {error}; correct the workflow or the input"
        reason = StallReason(kind="data", message=message)
        await self._reread(shard, one_by_one=2, bad_data=(keys[0], reason) if keys else None)

    async def _reread(self, shard: Shard, *, one_by_one: int, bad_data: tuple[int, StallReason] | None = None) -> None:
        """Goes back to what is stored, under the same epoch: nothing of the refused commit was applied."""
        if shard.lost:
            return
        self._drop(shard.number)
        reopened = await self._retrying(lambda: self._opener.open(shard.stored))
        reopened.one_by_one = max(one_by_one, reopened.one_by_one)
        if bad_data is not None:
            reopened.suspect = Suspect(*bad_data)
        self._own(reopened)
        self._reassign()

    def _claim_anew(self, shards: Sequence[Shard]) -> None:
        numbers = [shard.number for shard in shards if not shard.lost]
        for number in numbers:
            self._drop(number)
        self._reassign()
        if self._membership is not None and numbers:
            self._membership.reclaim(numbers)

    # ---- ownership

    async def _open_claimed(self) -> None:
        """Opens what was claimed; a claim that is lost or renewed meanwhile is not acted upon."""
        while self._claims:
            self._opening, self._claims = self._claims, {}
            since = self._now()
            for shard in await self._open(list(self._opening.values())):
                claim = self._opening.get(shard.number)
                if claim is not None and claim.epoch == shard.epoch and shard.number not in self._claims:
                    self._drop(shard.number)
                    self._own(shard)
                    self._counting.opened(self._now() - since)
            self._opening = {}
            self._reassign()

    async def _open(self, claims: Sequence[Claim]) -> list[Shard]:
        opening = (self._retrying(partial(self._opener.open, claim)) for claim in claims)
        return list(await asyncio.gather(*opening))

    def _own(self, shard: Shard) -> None:
        self._shards[shard.number] = shard
        shard.draining = self._leaving or shard.number in self._surplus
        self._surplus.discard(shard.number)
        self._empty.clear()
        self._counting.owned(len(self._shards))

    def _reassign(self) -> None:
        """Reads exactly what the owned shards still want, each from its next position."""
        positions: dict[TopicPartition, int] = {}
        for shard in self._shards.values():
            shard.backlog.clear()
            if not shard.draining:
                positions[TopicPartition(self._topics.submissions, shard.number)] = shard.submissions_position
                positions[TopicPartition(self._topics.inbox, shard.number)] = shard.inbox_position
        for outside in self._outside_log:
            positions.pop(outside, None)
        self._intake.assign(positions)
        self._wake.set()

    def _release_drained(self) -> None:
        for shard in list(self._shards.values()):
            if not shard.draining or shard.draft or shard.in_flight:
                continue
            before = shard.published
            if shard.acknowledged() != before:
                shard.writing()
            elif not shard.tickets:
                self._drop(shard.number)
                if self._membership is not None:
                    self._membership.release(shard.number)
        self._begin_commit()

    async def drain(self) -> None:
        """Stops taking input, finishes every commit and publication, and hands all shards over."""
        self._leaving = True
        for number in list(self._shards):
            self.hand_over(number)
        await self._empty.wait()

    # ---- reading, timers, housekeeping

    async def _read(self) -> None:
        while True:
            await self._room.wait()
            try:
                batch = await self._intake.read(RECORDS_PER_TURN * 4)
            except OutsideLog as error:
                self._stop_outside(error)
                continue
            except KafkaError as error:
                log.warning("cannot read from Kafka, trying again", error=f"{type(error).__name__}: {error}")
                await asyncio.sleep(RETRY_SECONDS)
                continue
            for partition, records in batch.items():
                shard = self._shards.get(partition.partition)
                if shard is not None and not shard.draining:
                    shard.backlog.extend(records)
            if batch:
                self._make_room()
                self._wake.set()

    def _stop_outside(self, error: OutsideLog) -> None:
        for partition, position in error.partitions.items():
            log.critical(
                "a shard's position lies outside the log; it stops until somebody decides",
                topic=partition.topic,
                shard=partition.partition,
                position=position,
            )
        self._outside_log.update(error.partitions)
        self._reassign()

    def _make_room(self) -> None:
        """Stops fetching while too much is waiting."""
        waiting = sum(len(shard.backlog) for shard in self._shards.values())
        if waiting < BACKLOG_LIMIT and self._publisher.unacknowledged < UNACKNOWLEDGED_LIMIT:
            self._room.set()
        else:
            self._room.clear()

    async def _tick(self) -> None:
        """Twice a second: what is due without anything having come in."""
        while True:
            await asyncio.sleep(TICK_SECONDS)
            if self._membership is not None:
                self._membership.progress()
            for shard in list(self._shards.values()):
                await self._keep_house(shard)
            self._check_bytes = True
            self._counting.state(self._shards.values(), self._now())
            self._wake.set()

    async def _keep_house(self, shard: Shard) -> None:
        if shard.draining:
            return
        if shard.wakeups_known_until < self._now() + REFRESH_AHEAD_US:
            with contextlib.suppress(Unavailable):
                await self._opener.refresh_wakeups(shard)
        if shard.early and not shard.lost:
            Decider(self._rules, shard).expire_early(self._now())
        before = shard.published
        if shard.draft is None and shard.in_flight is None and shard.acknowledged() != before:
            shard.writing()

    async def _retrying(self, read: Callable[[], Awaitable[T]]) -> T:
        """Reads from Postgres until it answers; what is decided meanwhile about ownership is looked at afterwards."""
        while True:
            try:
                return await read()
            except Unavailable as error:
                log.warning("cannot read from Postgres, trying again", error=str(error))
                await asyncio.sleep(RETRY_SECONDS)


def _touched_key(shard: Shard, incoming: Incoming) -> int | None:
    """The run that an input is about to touch: the next new one for a start."""
    if isinstance(incoming, Result):
        return incoming.token.run_key
    if isinstance(incoming, Request):
        entry = shard.latest.get(incoming.submission.workflow_id)
        return entry.row.run_key if entry is not None else run_key(shard.number, shard.last_number + 1)
    return None
