"""A pipeline on an installation in memory: what it asks of Postgres, Kafka and membership, as the real ones answer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal, cast

import msgspec
from aiokafka import TopicPartition

from everstep import App
from everstep._core.engine import Engine, HistoryRow
from everstep._core.timers import LAST_INSTANT
from everstep_orchestrator.kafka.publisher import Publisher, Ticket
from everstep_orchestrator.membership import Claim, Membership
from everstep_orchestrator.pipeline.cache import Cache
from everstep_orchestrator.pipeline.counting import Counting
from everstep_orchestrator.pipeline.incoming import Reader
from everstep_orchestrator.pipeline.rules import Rules
from everstep_orchestrator.pipeline.runtime import Pipeline
from everstep_orchestrator.store import DataRefused, HeartbeatRow, OutboxRow, ParkedRow, RunRow, ShardCommit, Store
from everstep_schemas import wire
from everstep_schemas.events import decode_events
from everstep_schemas.names import Topics, partition_of, shard_of

TOPICS = Topics()
PATIENCE_SECONDS = 10.0


@dataclass(frozen=True)
class Record:
    topic: str
    partition: int
    offset: int
    value: bytes
    key: bytes | None = None
    headers: Sequence[tuple[str, bytes]] = ()


@dataclass
class Gate:
    """Where a call waits while it is shut."""

    open: asyncio.Event = field(default_factory=asyncio.Event)
    waiting: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.open.set()

    def shut(self) -> None:
        self.open.clear()
        self.waiting.clear()

    async def passed(self) -> None:
        if not self.open.is_set():
            self.waiting.set()
            await self.open.wait()


class Tables:
    """The store: a commit is fenced, refused or written as a whole; reads see only what is written."""

    def __init__(self, shards: int) -> None:
        self.shards = {n: Claim(n, 0, 0, None, None, 0, 0, 0, None) for n in range(shards)}
        self.runs: dict[int, RunRow] = {}
        self.rows: dict[int, list[HistoryRow]] = {}
        self.outboxes: dict[tuple[int, int], OutboxRow] = {}
        self.parked: dict[tuple[int, int], ParkedRow] = {}
        self.beats: dict[tuple[int, int], HeartbeatRow] = {}
        self.refuse: Callable[[ShardCommit], bool] = lambda commit: False
        self.around_commit: Callable[[Literal["before", "after"]], Awaitable[None]] | None = None
        self.committing = Gate()
        self.opening = Gate()
        self.timers = Gate()
        self.marked: list[int | None] = []

    async def commit(self, commits: Sequence[ShardCommit]) -> frozenset[int]:
        await self.committing.passed()
        if self.around_commit is not None:
            await self.around_commit("before")
        fenced = [commit for commit in commits if self._passes(commit)]
        for commit in fenced:
            self._check(commit)
        for commit in fenced:
            self._write(commit)
        if self.around_commit is not None:
            await self.around_commit("after")
        return frozenset(commit.shard for commit in fenced)

    def _passes(self, commit: ShardCommit) -> bool:
        shard = self.shards[commit.shard]
        return (shard.epoch, shard.commit_no + 1) == (commit.epoch, commit.commit_no)

    def _check(self, commit: ShardCommit) -> None:
        stored = {(key, row.seq) for key, rows in self.rows.items() for row in rows}
        names = {(row.workflow_id, row.run) for row in self.runs.values()}
        doubles = stored & {(key, seq) for key, seq, *_ in commit.history}
        doubles_of_runs = names & {(row.workflow_id, row.run) for row in commit.new_runs}
        if doubles or doubles_of_runs or self.refuse(commit):
            raise DataRefused("23505", f"{doubles or doubles_of_runs or 'forbidden'}")

    def _write(self, commit: ShardCommit) -> None:
        names = ("commit_no", "submissions_position", "inbox_position", "last_number", "published")
        shard = replace(self.shards[commit.shard], **{name: getattr(commit, name) for name in names})
        self.shards[commit.shard] = replace(shard, claims_without_progress=0, trying=None)
        for key, seq, at, data in commit.history:
            self.rows.setdefault(key, []).append(HistoryRow(seq, at, data))
        self.runs |= {row.run_key: row for row in commit.new_runs}
        for update in commit.updates:
            columns = msgspec.structs.asdict(update)
            self.runs[update.run_key] = msgspec.structs.replace(self.runs[update.run_key], **columns)
        if commit.refs or commit.bodies:
            self.outboxes[commit.shard, commit.commit_no] = OutboxRow(commit.commit_no, commit.refs, commit.bodies)
        done = [owed for owed in self.outboxes if owed[0] == commit.shard and owed[1] <= commit.published]
        for owed in done:
            del self.outboxes[owed]
        self.parked |= {(row.shard, row.number): row for row in commit.parked}
        for number in commit.unparked:
            self.parked.pop((commit.shard, number), None)
        for beat in commit.heartbeats:
            known = self.beats.get((beat.run_key, beat.seq))
            if known is None or known.attempt <= beat.attempt:
                self.beats[beat.run_key, beat.seq] = beat
        for said in [said for said in self.beats if said[0] in commit.silenced]:
            del self.beats[said]

    async def runs_by_key(self, keys: Sequence[int]) -> list[RunRow]:
        await asyncio.sleep(0)
        return [self.runs[key] for key in keys if key in self.runs]

    async def latest_runs(self, workflow_ids: Sequence[str]) -> list[RunRow]:
        await asyncio.sleep(0)
        found: dict[str, RunRow] = {}
        for row in sorted(self.runs.values(), key=lambda row: row.run):
            if row.workflow_id in workflow_ids:
                found[row.workflow_id] = row
        return list(found.values())

    async def run_of_source(self, workflow_id: str, source: str) -> RunRow | None:
        wanted = (workflow_id, source)
        return next((row for row in self.runs.values() if (row.workflow_id, row.source) == wanted), None)

    async def stalled(self, shard: int, condition: str = "stalled", *, above: int = 0) -> list[RunRow]:
        rows = (row for row in self.runs.values() if row.shard == shard and row.condition == condition)
        return sorted((row for row in rows if row.run_key > above), key=lambda row: row.run_key)

    async def due(self, shard: int, before: int, limit: int) -> list[tuple[int, int]]:
        await self.timers.passed()
        rows = [row for row in self.runs.values() if row.shard == shard and row.condition is None]
        due = [(row.run_key, row.next_wakeup_at) for row in rows if row.next_wakeup_at is not None]
        return sorted((entry for entry in due if entry[1] <= before), key=lambda entry: entry[1])[:limit]

    async def histories(self, keys: Sequence[int]) -> dict[int, list[HistoryRow]]:
        await asyncio.sleep(0)
        return {key: list(self.rows[key]) for key in keys if key in self.rows}

    async def history(self, key: int) -> AsyncIterator[HistoryRow]:
        for row in list(self.rows.get(key, ())):
            yield row

    async def heartbeats(self, keys: Sequence[int]) -> list[HeartbeatRow]:
        await asyncio.sleep(0)
        return [row for row in self.beats.values() if row.run_key in keys]

    async def rows_holding(self, events: Sequence[tuple[int, int]]) -> dict[tuple[int, int], HistoryRow]:
        found = {}
        for key, seq in events:
            for row in self.rows.get(key, ()):
                if row.seq <= seq:
                    found[key, seq] = row
        return found

    async def outbox(self, shard: int, above: int) -> list[OutboxRow]:
        return [row for (of, number), row in sorted(self.outboxes.items()) if of == shard and number > above]

    async def parked_of_runs(self, keys: Sequence[int]) -> list[ParkedRow]:
        await asyncio.sleep(0)
        return [row for _, row in sorted(self.parked.items()) if row.run_key in keys]

    async def parked_expired(self, shard: int, before: int, limit: int) -> list[ParkedRow]:
        return [row for row in self.parked.values() if row.shard == shard and row.expires_at is not None]

    async def census(self, shard: int) -> list[tuple[str, str | None, int]]:
        await self.opening.passed()
        return []

    async def parked_count(self, shard: int) -> int:
        return 0

    async def mark_trying(self, shard: int, epoch: int, run_key: int | None) -> bool:
        self.marked.append(run_key)
        self.shards[shard] = replace(self.shards[shard], trying=run_key)
        return True


class Logs:
    """The intake: partitions as lists, read from the positions of the assignment."""

    def __init__(self) -> None:
        self.records: dict[TopicPartition, list[Record]] = {}
        self.error: Exception | None = None
        self.silent = False  # nobody knows how far the logs go
        self._positions: dict[TopicPartition, int] = {}
        self._news = asyncio.Event()

    def write(self, topic: str, partition: int, value: bytes) -> None:
        log = self.records.setdefault(TopicPartition(topic, partition), [])
        log.append(Record(topic, partition, len(log), value))
        self._news.set()

    def ended_at(self, partition: TopicPartition, position: int) -> int:
        behind = self.silent or len(self.records.get(partition, [])) > position
        return 0 if behind else LAST_INSTANT

    def fail(self, error: Exception) -> None:
        self.error = error
        self._news.set()

    async def earliest(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        return dict.fromkeys(partitions, 0)

    def assign(self, positions: Mapping[TopicPartition, int]) -> None:
        self._positions = dict(positions)
        self._news.set()

    async def read(self, max_records: int) -> dict[TopicPartition, list[Record]]:
        while True:
            if self.error is not None:
                raise self.error
            batch = {p: self.records.get(p, [])[at:] for p, at in self._positions.items()}
            batch = {partition: records for partition, records in batch.items() if records}
            if batch:
                self._positions |= {p: records[-1].offset + 1 for p, records in batch.items()}
                return batch
            self._news.clear()
            await self._news.wait()


class Outbound:
    """The publisher: acknowledges at once, keeps what it is told to keep, refuses what it is told to refuse."""

    def __init__(self, wake: asyncio.Event, deliver: Callable[[wire.Outgoing], None]) -> None:
        self._deliver = deliver
        self.sent: list[wire.Outgoing] = []
        self.live: list[Ticket] = []
        self.refuse: Callable[[wire.Outgoing], bool] = lambda message: False
        self.refused: Callable[[Ticket, wire.Outgoing, str], None]
        self.failure: BaseException | None = None
        self.unacknowledged = 0
        self._wake = wake

    def publish(self, shard: int, commit_no: int, messages: Sequence[wire.Outgoing]) -> Ticket:
        ticket = Ticket(shard, commit_no, len(messages))
        self.live.append(ticket)
        self.unacknowledged += len(messages)
        for message in messages:
            asyncio.get_running_loop().call_soon(self._send, ticket, message)
        return ticket

    def _send(self, ticket: Ticket, message: wire.Outgoing) -> None:
        if ticket.live and self.refuse(message):
            self.refused(ticket, message, "too large")
            return
        if ticket.live:
            self.sent.append(message)
            self._deliver(message)
        self.settle(ticket)
        self._wake.set()

    def settle(self, ticket: Ticket) -> None:
        ticket.pending -= 1
        self.unacknowledged -= 1

    def drop(self, tickets: Sequence[Ticket]) -> None:
        for ticket in tickets:
            ticket.live = False

    def cut(self) -> None:
        return None


class Members:
    """Membership with nobody else; what it says is said by the test, but for claims that are asked for."""

    def __init__(self, installation: Installation) -> None:
        self._installation = installation
        self.released: list[int] = []
        self.alive = 0

    def progress(self) -> None:
        self.alive += 1

    def release(self, shard: int) -> None:
        self.released.append(shard)

    def reclaim(self, shards: Sequence[int]) -> None:
        asyncio.get_running_loop().call_soon(self._installation.claim, *shards)


class Installation:
    """One orchestrator at a time on tables and logs that outlive it."""

    def __init__(self, shards: int = 1) -> None:
        self.tables = Tables(shards)
        self.logs = Logs()
        self.now = 1_700_000_000_000_000
        self.turns = 0
        self.pipeline: Pipeline
        self.publisher: Outbound
        self.members: Members
        self._shards = shards
        self._nonce = 0

    @asynccontextmanager
    async def running(self, app: App, *, cache_runs: int = 10_000, crashed: bool = False) -> AsyncIterator[None]:
        self._wake = wake = asyncio.Event()
        self.publisher = Outbound(wake, self._deliver)
        self.pipeline = self._new_pipeline(app, wake, cache_runs)
        self.publisher.refused = self.pipeline.refused
        self.members = Members(self)
        self.pipeline.join(cast(Membership, self.members))
        self.running_task = asyncio.create_task(self.pipeline.run())
        self.claim(*range(self._shards), crashed=crashed)
        try:
            yield
        finally:
            self.running_task.cancel()
            await asyncio.gather(self.running_task, return_exceptions=True)

    def _new_pipeline(self, app: App, wake: asyncio.Event, cache_runs: int) -> Pipeline:
        rules = Rules(
            engine=Engine(app, TOPICS, max_payload_bytes=1 << 20),
            directory=self,
            topics=TOPICS,
            python="3.11",
            new_nonce=self._new_nonce,
            ignored=lambda reason: None,
            early_signal_us=60_000_000,
        )
        return Pipeline(
            store=cast(Store, self.tables),
            intake=cast(Any, self.logs),
            publisher=cast(Publisher, self.publisher),
            rules=rules,
            reader=Reader(self._shards, 1 << 20),
            topics=TOPICS,
            cache=Cache(cache_runs, 1 << 30),
            counting=Counting(app.workflows, app.activities),
            now=self._tell_time,
            wake=wake,
        )

    def _new_nonce(self) -> str:
        self._nonce += 1
        return f"{self._nonce:x}"

    def _tell_time(self) -> int:
        self.turns += 1
        return self.now

    def _deliver(self, message: wire.Outgoing) -> None:
        """What runs and orchestrators say to each other comes in again."""
        if message.topic == TOPICS.inbox:
            partition = message.partition
            if partition is None:
                partition = partition_of(message.key or b"", self._shards)
            self.logs.write(message.topic, partition, message.value)

    def others_know(self, workflow: str, version: int) -> bool:
        return False

    def claim(self, *shards: int, crashed: bool = False) -> None:
        """Raises the epochs, as a claim does, and tells the listener."""
        for number in shards:
            stored = self.tables.shards[number]
            self.tables.shards[number] = replace(
                stored,
                epoch=stored.epoch + 1,
                claims_without_progress=stored.claims_without_progress + crashed,
                trying=stored.trying if crashed else None,
            )
        self.pipeline.claimed([self.tables.shards[number] for number in shards])

    def pass_time(self, microseconds: int) -> None:
        """Moves the clock; what is due then happens at the next turn, as the alarm of a real clock sees to."""
        self.now += microseconds
        self._wake.set()

    # ---- inputs

    def submit(self, kind: str, workflow_id: str, **fields: Any) -> None:
        self.write({"kind": kind, "workflow_id": workflow_id, **fields}, shard_of(workflow_id, self._shards))

    def write(self, body: Mapping[str, Any], partition: int = 0) -> None:
        """A record of the submissions topic."""
        self.logs.write(TOPICS.submissions, partition, json.dumps(body).encode())

    def say(self, command: wire.ActivityCommand, message: wire.Inbox) -> None:
        """A record of the inbox, from a worker that was given the command."""
        self.logs.write(command.reply_to.topic, command.reply_to.partition, wire.encoder.encode(message))

    def answer(self, command: wire.ActivityCommand, value: Any = None) -> None:
        """What a worker says when it has done what it was told."""
        completed = wire.ActivityCompleted(
            workflow_id=command.workflow_id,
            run=command.run,
            seq=command.seq,
            attempt=command.attempt,
            token=command.token,
            value=msgspec.Raw(msgspec.json.encode(value)),
        )
        self.logs.write(command.reply_to.topic, command.reply_to.partition, wire.encoder.encode(completed))

    # ---- what came of them

    def runs(self, workflow_id: str) -> list[RunRow]:
        rows = (row for row in self.tables.runs.values() if row.workflow_id == workflow_id)
        return sorted(rows, key=lambda row: row.run)

    def latest(self, workflow_id: str) -> RunRow | None:
        return next(reversed(self.runs(workflow_id)), None)

    def kinds(self, run_key: int) -> list[str]:
        """The kinds of a run's events."""
        rows = self.tables.rows.get(run_key, ())
        return [type(event).__name__ for row in rows for event in decode_events(row.data)]

    def commands(self) -> list[wire.ActivityCommand]:
        topic = TOPICS.activities("default")
        return [wire.command_decoder.decode(m.value) for m in self.publisher.sent if m.topic == topic]

    def facts(self, kind: str) -> list[Any]:
        """The published lifecycle records of a kind."""
        wanted = ("ce_type", f"everstep.{kind}".encode())
        return [json.loads(m.value) for m in self.publisher.sent if wanted in m.headers]

    async def until(self, holds: Callable[[], object], *, passing_us: int = 0) -> None:
        """Waits, while time passes."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not holds():
                if passing_us:
                    self.pass_time(passing_us)
                await asyncio.sleep(0.001)

    async def settled(self) -> None:
        """Everything that was written to the logs is applied, durable and published."""
        await self.until(self.is_settled)

    def is_settled(self) -> bool:
        for partition, log in self.logs.records.items():
            shard = self.tables.shards[partition.partition]
            at = shard.inbox_position if partition.topic == TOPICS.inbox else shard.submissions_position
            if (at or 0) < len(log):
                return False
        return self.publisher.unacknowledged == 0
