"""Brings into memory what the coming decisions need: rows of runs, and live runs replayed from their histories.

What is in memory is never asked for again; and since a run and its id stay in memory until the commit of their last
activation is acknowledged, Postgres is only ever asked about runs that it knows completely. A long replay gives the
loop back every 50 ms.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import msgspec
import structlog

from everstep._core.engine import CannotRun, Engine, HistoryRow, LiveRun
from everstep_orchestrator.kafka.publisher import Ticket
from everstep_orchestrator.pipeline.counting import Counting
from everstep_orchestrator.pipeline.incoming import Incoming, Record, Request, Result
from everstep_orchestrator.pipeline.outside import outside_task
from everstep_orchestrator.pipeline.state import Entry, Shard
from everstep_orchestrator.store import ParkedRow, Store
from everstep_schemas import events, wire
from everstep_schemas.names import Token
from everstep_schemas.wire import Outgoing

log = structlog.get_logger(__name__)

SLICE_SECONDS = 0.05
LAST_EVENT = 2**62  # above every number that an event can have


@dataclass(slots=True)
class Work:
    """One turn's inputs, all shards together."""

    records: list[tuple[Shard, Record, Incoming]] = field(default_factory=list)
    wakeups: list[tuple[Shard, int]] = field(default_factory=list)
    resumes: list[tuple[Shard, int]] = field(default_factory=list)
    refused: list[tuple[Shard, Ticket, Outgoing, str]] = field(default_factory=list)
    parked: dict[int, list[ParkedRow]] = field(default_factory=dict)
    last_rows: dict[int, HistoryRow] = field(default_factory=dict)
    replayed: list[Entry] = field(default_factory=list)

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
            if isinstance(incoming, Request) and incoming.submission.workflow_id not in shard.latest:
                missing[incoming.submission.workflow_id] = shard
        if not missing:
            return
        for row in await self._store.latest_runs(list(missing)):
            missing.pop(row.workflow_id).know(Entry(row))
        for workflow_id, shard in missing.items():
            shard.latest.setdefault(workflow_id, None)

    async def _rows_by_key(self, work: Work) -> None:
        missing: dict[int, Shard] = {
            incoming.token.run_key: shard
            for shard, _, incoming in work.records
            if isinstance(incoming, Result) and incoming.token.run_key not in shard.entries
        }
        named = (*work.wakeups, *work.resumes, *_commanded(work))
        missing.update((key, shard) for shard, key in named if key not in shard.entries)
        if not missing:
            return
        for row in await self._store.runs_by_key(list(missing)):
            missing[row.run_key].know(Entry(row))

    async def _rows_by_source(self, work: Work) -> None:
        """Older runs of an id may have been created by the very submission that comes again."""
        for shard, _, incoming in work.records:
            if isinstance(incoming, Request) and isinstance(incoming.submission, wire.Start):
                latest = shard.latest.get(incoming.submission.workflow_id)
                if latest is not None and latest.row.run > 1 and latest.row.source != incoming.source:
                    key = (latest.row.workflow_id, incoming.source)
                    shard.sources[key] = await self._store.run_of_source(*key)

    async def runs(self, work: Work) -> None:
        """Replays every run that the work will step and that is not in memory; reads what waiting runs are owed."""
        await self._parked(work)
        entries = {entry.row.run_key: entry for entry in self._to_replay(work)}
        if not entries:
            return
        histories = await self._store.histories(list(entries))
        for key, entry in entries.items():
            rows = histories.get(key)
            await self._replay(entry, rows if rows is not None else [row async for row in self._store.history(key)])
            work.replayed.append(entry)

    async def _parked(self, work: Work) -> None:
        ending = [entry.row.run_key for entry in self._to_terminate(work)]
        keys = [*ending, *(key for _, key in work.resumes)]
        for row in await self._store.parked_of_runs(keys) if keys else ():
            work.parked.setdefault(row.run_key or 0, []).append(row)
        if ending:
            found = await self._store.rows_holding([(key, LAST_EVENT) for key in ending])
            work.last_rows = {key: row for (key, _), row in found.items()}

    def _to_terminate(self, work: Work) -> Iterable[Entry]:
        """Runs that cannot run can still be ended."""
        for shard, _, incoming in work.records:
            if isinstance(incoming, Request) and isinstance(incoming.submission, wire.Terminate):
                entry = shard.latest.get(incoming.submission.workflow_id)
                if entry is not None and entry.row.condition is not None:
                    yield entry

    def _to_replay(self, work: Work) -> Iterable[Entry]:
        for entry in self._named(work):
            if entry.runnable and entry.live is None and self._engine.knows(entry.row.workflow, entry.row.version):
                yield entry
        for shard, key in work.resumes:
            resumed = shard.entries.get(key)
            if resumed is None or resumed.live is not None or _waits_for_start(work.parked.get(key, [])):
                continue
            if self._engine.knows(resumed.row.workflow, resumed.row.version):
                yield resumed

    def _named(self, work: Work) -> Iterable[Entry]:
        for shard, _, incoming in work.records:
            if isinstance(incoming, Result):
                entry = shard.entries.get(incoming.token.run_key)
            elif isinstance(incoming, Request):
                entry = shard.latest.get(incoming.submission.workflow_id)
            else:
                entry = None
            if entry is not None:
                yield entry
        for shard, key in (*work.wakeups, *_commanded(work)):
            if key in shard.entries:
                yield shard.entries[key]

    async def _replay(self, entry: Entry, rows: Sequence[HistoryRow]) -> None:
        started = time.monotonic()
        try:
            entry.live = await self._replayed(entry, rows)
        except CannotRun as error:
            entry.cannot_run = error
        else:
            entry.cannot_run = None
            self._report(entry.live, time.monotonic() - started)

    async def _replayed(self, entry: Entry, rows: Sequence[HistoryRow]) -> LiveRun:
        replay = self._engine.replay(entry.identity)
        waiting = iter(rows)

        def feed() -> bool:
            """Feeds rows for as long as the loop can be kept waiting; whether some are left."""
            end = time.monotonic() + SLICE_SECONDS
            for row in waiting:
                replay.feed(row)
                if time.monotonic() > end:
                    return True
            return False

        while await outside_task(feed):
            pass
        return await outside_task(replay.finish)

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


def _commanded(work: Work) -> Iterable[tuple[Shard, int]]:
    """The runs whose commands Kafka refuses."""
    for shard, _, message, _ in work.refused:
        with contextlib.suppress(msgspec.DecodeError):
            token = Token.parse(wire.command_decoder.decode(message.value).token)
            if token is not None:
                yield shard, token.run_key


def _waits_for_start(parked: Sequence[ParkedRow]) -> bool:
    return bool(parked) and isinstance(wire.parked_decoder.decode(parked[0].data), events.Started)
