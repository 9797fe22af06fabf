"""Brings into memory what the coming decisions need: rows of runs, and live runs replayed from their histories.

What is in memory is never asked for again; and since a run and its id stay in memory until the commit of their last
activation is acknowledged, Postgres is only ever asked about runs that it knows completely. A long replay gives the
loop back in between.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice

import msgspec
import structlog
from msgspec import Raw

from everstep._core.ending import OpenEnds
from everstep._core.engine import CannotRun, Engine, HistoryRow, LiveRun
from everstep._core.reception import Request
from everstep_orchestrator.kafka.publisher import Ticket
from everstep_orchestrator.pipeline.counting import Counting
from everstep_orchestrator.pipeline.drafting import Entry
from everstep_orchestrator.pipeline.incoming import Callback, Child, Incoming, Record, Renewal, Result
from everstep_orchestrator.pipeline.replaying import replayed
from everstep_orchestrator.pipeline.state import Shard
from everstep_orchestrator.store import ParkedRow, RunRow, Store
from everstep_schemas import events, wire
from everstep_schemas.names import Token, shard_of_key
from everstep_schemas.wire import Outgoing

log = structlog.get_logger(__name__)

HISTORIES_AT_ONCE = 100  # of a megabyte each at most


@dataclass(slots=True)
class Work:
    """One turn's inputs, all shards together."""

    records: list[tuple[Shard, Record, Incoming]] = field(default_factory=list)
    wakeups: list[tuple[Shard, int]] = field(default_factory=list)
    resumes: list[tuple[Shard, int]] = field(default_factory=list)
    refused: list[tuple[Shard, Ticket, Outgoing, str]] = field(default_factory=list)
    parked: dict[int, list[ParkedRow]] = field(default_factory=dict)
    ends: dict[int, OpenEnds] = field(default_factory=dict)
    sources: dict[tuple[str, str], RunRow] = field(default_factory=dict)
    replayed: list[tuple[Shard, Entry]] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.records or self.wakeups or self.resumes or self.refused)


class Loader:
    """Loads for the decisions of one orchestrator."""

    def __init__(self, store: Store, engine: Engine, counting: Counting) -> None:
        self._store = store
        self._engine = engine
        self._counting = counting

    async def rows(self, work: Work) -> None:
        """Loads the rows of all runs that the work names, by id or by key."""
        await self._rows_by_id(work)
        await self._rows_by_key(work)
        await self._rows_by_source(work)

    async def _rows_by_id(self, work: Work) -> None:
        missing: dict[str, Shard] = {}
        for shard, _, incoming in work.records:
            id = _workflow_id(incoming)
            if id is not None and id not in shard.latest:
                missing[id] = shard
        if not missing:
            return
        for row in await self._store.latest_runs(list(missing)):
            missing[row.workflow_id].know_latest(row)

    async def _rows_by_key(self, work: Work) -> None:
        missing: dict[int, Shard] = {
            incoming.token.run_key: shard
            for shard, _, incoming in work.records
            if isinstance(incoming, Result | Callback) and incoming.token.run_key not in shard.entries
        }
        named = (*work.wakeups, *work.resumes, *_commanded(work), *_beating(work))
        missing.update((key, shard) for shard, key in named if key not in shard.entries)
        if not missing:
            return
        for row in await self._store.runs_by_key(list(missing)):
            missing[row.run_key].know(row)

    async def _rows_by_source(self, work: Work) -> None:
        """Older runs of an id may have been created by the very submission that comes again."""
        asked = set()
        for shard, _, incoming in work.records:
            if (key := _start_of(incoming)) is not None:
                latest = shard.latest.get(key[0])
                if latest is not None and latest.row.run > 1 and shard.created_by(*key) is None:
                    asked.add(key)
        for row in await asyncio.gather(*(self._store.run_of_source(*key) for key in sorted(asked))):
            if row is not None:
                work.sources[row.workflow_id, row.source] = row

    def read_whole(self, work: Work) -> list[tuple[Shard, Entry]]:
        """The runs of which `runs` reads more than what replay needs: all that concerns them must be durable before."""
        resumed = [(shard, shard.entries[key]) for shard, key in work.resumes if key in shard.entries]
        return [*resumed, *self._to_terminate(work)]

    async def runs(self, work: Work) -> None:
        """Replays every run that the work will step and that is not in memory; reads what waiting runs are owed."""
        resumed = [key for _, key in work.resumes]
        await self._parked(work, resumed)
        await self._replay_all(work)
        ending = [entry.row.run_key for _, entry in self._to_terminate(work)]
        await self._parked(work, [key for key in ending if key not in work.parked])
        for key in sorted({*ending, *resumed}):
            work.ends[key] = await self._open_ends(key)

    async def _open_ends(self, key: int) -> OpenEnds:
        """What is left open by a run that may have to be ended without its code."""
        ends = OpenEnds()
        async for row in self._store.history(key):
            ends.feed(row)
        return ends

    async def _replay_all(self, work: Work) -> None:
        waiting = iter({entry.row.run_key: (shard, entry) for shard, entry in self._to_replay(work)}.items())
        while some := dict(islice(waiting, HISTORIES_AT_ONCE)):
            histories = await self._store.histories(list(some))
            for key, (shard, entry) in some.items():
                rows = histories.get(key)
                rows = [row async for row in self._store.history(key)] if rows is None else rows
                work.replayed.append((shard, entry))
                await self._replay(entry, rows)
            await self._restore(some.values())

    async def _restore(self, replayed: Iterable[tuple[Shard, Entry]]) -> None:
        """What was renewed last, and when, is no part of history: it comes from memory and from what is kept."""
        leases = [
            (shard, entry, lease)
            for shard, entry in replayed
            if entry.live is not None
            for lease in entry.live.leases()
        ]
        keys = sorted({entry.row.run_key for _, entry, _ in leases})
        kept = {(row.run_key, row.seq): row for row in await self._store.heartbeats(keys)} if keys else {}
        for shard, entry, lease in leases:
            row = kept.get((entry.row.run_key, lease.seq))
            said = row is not None and row.attempt == lease.attempt
            entry.said = entry.said or row is not None
            if entry.live is None:
                continue
            if lease.attempt:
                entry.live.restore(lease.seq, shard.leases.renewed_at(lease.token), None)
            if row is not None and said:
                at = max(row.at, shard.leases.renewed_at(lease.token)) if lease.attempt else row.at
                entry.live.restore(lease.seq, at, Raw(row.details))

    async def _parked(self, work: Work, keys: Sequence[int]) -> None:
        found: dict[int, list[ParkedRow]] = {key: [] for key in keys}
        for row in await self._store.parked_of_runs(keys) if keys else ():
            found[row.run_key or 0].append(row)
        work.parked.update(found)

    def _to_terminate(self, work: Work) -> Iterable[tuple[Shard, Entry]]:
        """Runs that cannot run can still be ended."""
        for shard, _, incoming in work.records:
            if (id := _to_be_terminated(incoming)) is not None:
                entry = shard.latest.get(id)
                if entry is not None and entry.open and entry.live is None:
                    yield shard, entry

    def _to_replay(self, work: Work) -> Iterable[tuple[Shard, Entry]]:
        for shard, entry in self._named(work):
            if entry.runnable and self._is_missing(shard, entry):
                yield shard, entry
        for shard, key in work.resumes:
            resumed = shard.entries.get(key)
            if resumed is not None and not _waits_for_start(work.parked[key]) and self._is_missing(shard, resumed):
                yield shard, resumed

    def _is_missing(self, shard: Shard, entry: Entry) -> bool:
        """The run that broke the last owner may do so again while it is replayed: it is not tried at all."""
        suspect = shard.suspect is not None and shard.suspect.run_key == entry.row.run_key
        return entry.live is None and not suspect and self._engine.knows(entry.row.workflow, entry.row.version)

    def _named(self, work: Work) -> Iterable[tuple[Shard, Entry]]:
        for shard, _, incoming in work.records:
            id = _workflow_id(incoming)
            if isinstance(incoming, Result | Callback):
                entry = shard.entries.get(incoming.token.run_key)
            elif isinstance(incoming, Renewal):
                yield from _known(shard, incoming.message.released)
                continue
            else:
                entry = None if id is None else shard.latest.get(id)
            if entry is not None:
                yield shard, entry
        for shard, key in (*work.wakeups, *_commanded(work)):
            if key in shard.entries:
                yield shard, shard.entries[key]

    async def _replay(self, entry: Entry, rows: Sequence[HistoryRow]) -> None:
        started = time.monotonic()
        try:
            entry.live = await replayed(self._engine.replay(entry.identity), _one_page(rows), lambda run: run)
        except CannotRun as error:
            entry.cannot_run = error
        else:
            entry.cannot_run = None
            self._report(entry.live, time.monotonic() - started)

    def _report(self, run: LiveRun, seconds: float) -> None:
        differs = run.argument_differences > 0
        self._counting.replayed(run.identity.workflow, run.events, seconds, differs=differs)
        if differs:
            log.warning(
                "replay gave other arguments than history holds; the recorded ones count",
                workflow=run.identity.workflow,
                workflow_id=run.identity.workflow_id,
                run=run.identity.run,
                commands=run.argument_differences,
            )


async def _one_page(rows: Sequence[HistoryRow]) -> AsyncIterator[Sequence[HistoryRow]]:
    yield rows


def _workflow_id(incoming: Incoming) -> str | None:
    """The id that something is about, if it names a run by that."""
    if isinstance(incoming, Request):
        return incoming.submission.workflow_id
    return incoming.message.workflow_id if isinstance(incoming, Child) else None


def _start_of(incoming: Incoming) -> tuple[str, str] | None:
    """The id and the identity of a start."""
    if isinstance(incoming, Request) and isinstance(incoming.submission, wire.Start):
        return incoming.submission.workflow_id, incoming.source
    if isinstance(incoming, Child) and isinstance(incoming.message, wire.ChildStart):
        return incoming.message.workflow_id, incoming.message.parent.token
    return None


def _to_be_terminated(incoming: Incoming) -> str | None:
    """The id of a run that may have to be ended."""
    match incoming:
        case Request(submission=wire.Start(on_duplicate="terminate_existing") | wire.Terminate() as submission):
            return submission.workflow_id
        case Child(message=wire.ChildEnd(how="terminate") as message):
            return message.workflow_id
        case _:
            return None


def _commanded(work: Work) -> Iterable[tuple[Shard, int]]:
    """The runs whose commands Kafka refuses."""
    for shard, _, message, _ in work.refused:
        with contextlib.suppress(msgspec.DecodeError):
            token = Token.parse(wire.command_decoder.decode(message.value).token)
            if token is not None:
                yield shard, token.run_key


def _beating(work: Work) -> Iterable[tuple[Shard, int]]:
    """The runs whose attempts have said something, or are given back: that counts only for those that are open."""
    for shard, _, incoming in work.records:
        if isinstance(incoming, Renewal):
            beating = (heartbeat.token for heartbeat in incoming.message.heartbeats)
            for key in _keys(shard, (*beating, *incoming.message.released)):
                yield shard, key


def _known(shard: Shard, tokens: Iterable[str]) -> Iterable[tuple[Shard, Entry]]:
    for key in _keys(shard, tokens):
        if key in shard.entries:
            yield shard, shard.entries[key]


def _keys(shard: Shard, tokens: Iterable[str]) -> Iterable[int]:
    """The runs of the shard that are named by tokens."""
    for text in tokens:
        token = Token.parse(text)
        if token is not None and shard_of_key(token.run_key) == shard.number:
            yield token.run_key


def _waits_for_start(parked: Sequence[ParkedRow]) -> bool:
    return bool(parked) and isinstance(wire.parked_decoder.decode(parked[0].data), events.Started)
