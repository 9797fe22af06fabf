"""The orchestrator's Postgres: one statement that commits a batch, and the queries that load what it needs.

Who may write is decided in the commit alone, by its fence: the epoch, which every claim raises, and the number of the
commit. So a statement that was sent twice, or that waited somewhere while the shard moved on, writes nothing.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

import asyncpg

from everstep_orchestrator.store.commit import Statements, outbox_row
from everstep_orchestrator.store.connections import FAILURES, Connections
from everstep_orchestrator.store.errors import DataRefused, OutcomeUnknown, Unavailable
from everstep_orchestrator.store.rows import HeartbeatRow, HistoryRow, OutboxRow, ParkedRow, Ref, RunRow, ShardCommit
from everstep_schemas.sql import queries

PAGE_ROWS = 1000
PAGE_BYTES = 4 << 20
WHOLE_HISTORY_ROWS = 500
WHOLE_HISTORY_BYTES = 1 << 20

_REFUSED = ("22", "23", "54")


class Store:
    """Used from one event loop. It connects when first asked and replaces connections that were lost.

    `committers` commits and `readers` reading calls run at the same time; further ones wait.
    """

    def __init__(self, dsn: str, schema: str, *, committers: int = 1, readers: int = 4) -> None:
        self._statements = Statements(queries("commit", schema))
        self._sql = queries("store", schema)
        self._committers = Connections(dsn, "everstep commit", committers)
        self._readers = Connections(dsn, "everstep store", readers)

    async def close(self) -> None:
        """Close the connections; nothing may be under way."""
        await self._committers.close()
        await self._readers.close()

    async def commit(self, commits: Sequence[ShardCommit]) -> frozenset[int]:
        """Write a batch in one transaction; answers with the shards that were still ours.

        Each shard stands in the batch once. A shard that is missing from the answer was claimed by another owner, or
        its commit number is not the next: nothing of it was written, while the others are durable. Raises
        `DataRefused` (nothing was written: split the batch) and `OutcomeUnknown` (claim the shards anew before
        anything else). Cancelling the call leaves the outcome as unknown as `OutcomeUnknown` does.
        """
        statement, arguments = self._statements.of(commits)
        try:
            async with self._committers.use() as connection:
                rows = await connection.fetch(statement, *arguments)
        except FAILURES as error:
            _raise_if_refused(error)
            raise OutcomeUnknown(f"the outcome of a commit is unknown: {_described(error)}") from error
        return frozenset(row[0] for row in rows)

    async def runs_by_key(self, keys: Sequence[int]) -> list[RunRow]:
        """The runs with these keys, in no order."""
        return [RunRow(*row) for row in await self._read("runs_by_key", keys)]

    async def latest_runs(self, workflow_ids: Sequence[str]) -> list[RunRow]:
        """The newest run of each id that has one, in no order."""
        return [RunRow(*row) for row in await self._read("latest_runs", workflow_ids)]

    async def run_of_source(self, workflow_id: str, source: str) -> RunRow | None:
        """The run of this id that the submission with this identity created. Costs as much as the id has runs."""
        rows = await self._read("run_of_source", workflow_id, source)
        return RunRow(*rows[0]) if rows else None

    async def stalled(
        self, shard: int, condition: str = "stalled", *, above: int = 0, limit: int = PAGE_ROWS
    ) -> list[RunRow]:
        """A page of the shard's runs in this condition, in order of their keys, which are above `above`."""
        return [RunRow(*row) for row in await self._read("stalled", shard, condition, above, limit)]

    async def due(self, shard: int, before: int, limit: int) -> list[tuple[int, int]]:
        """(run_key, next_wakeup_at) of runs to be woken up to the instant `before`, the earliest first."""
        return [(row[0], row[1]) for row in await self._read("due", shard, before, limit)]

    async def history(self, run_key: int, after_seq: int = 0) -> AsyncIterator[HistoryRow]:
        """The rows that begin above `after_seq`, in order, read in pages of some megabytes."""
        while True:
            page = await self._read("history_page", run_key, after_seq, PAGE_ROWS, PAGE_BYTES)
            if not page:
                return
            for row in page:
                yield HistoryRow(*row)
            after_seq = page[-1][0]

    async def histories(self, keys: Sequence[int]) -> dict[int, list[HistoryRow]]:
        """The whole histories of these runs; those longer than 500 rows or 1 MiB are missing: read `history`."""
        found: dict[int, list[HistoryRow]] = {}
        for key, *row in await self._read("histories", keys, WHOLE_HISTORY_ROWS, WHOLE_HISTORY_BYTES):
            found.setdefault(key, []).append(HistoryRow(*row))
        return found

    async def rows_holding(self, events: Sequence[Ref]) -> dict[Ref, HistoryRow]:
        """For each event `(run_key, seq)` the row of history that holds it: a ref's own row, or a command's."""
        rows = await self._read("rows_holding", *([e[i] for e in events] for i in (0, 1)))
        return {(key, event): HistoryRow(*row) for key, event, *row in rows}

    async def heartbeats(self, keys: Sequence[int]) -> list[HeartbeatRow]:
        """What the activities and callbacks of these runs said last."""
        return [HeartbeatRow(*row) for row in await self._read("heartbeats", keys)]

    async def outbox(self, shard: int, above: int) -> list[OutboxRow]:
        """What commits above this number owe to Kafka, in order."""
        return [outbox_row(*row) for row in await self._read("outbox", shard, above)]

    async def parked_of_runs(self, keys: Sequence[int]) -> list[ParkedRow]:
        """The inputs that wait for these runs, each run's in order of arrival."""
        return [ParkedRow(*row) for row in await self._read("parked_of_runs", keys)]

    async def parked_for_ids(self, workflow_ids: Sequence[str]) -> list[ParkedRow]:
        """The signals that wait for a run of these ids to start, each id's in order of arrival."""
        return [ParkedRow(*row) for row in await self._read("parked_for_ids", workflow_ids)]

    async def parked_expired(self, shard: int, before: int, limit: int) -> list[ParkedRow]:
        """What has waited up to the instant `before` and is to be rejected, the earliest first."""
        return [ParkedRow(*row) for row in await self._read("parked_expired", shard, before, limit)]

    async def census(self, shard: int) -> list[tuple[str, str | None, int]]:
        """How many open runs the shard has: (workflow, condition, number)."""
        return [(row[0], row[1], row[2]) for row in await self._read("census", shard)]

    async def parked_count(self, shard: int) -> int:
        """How many inputs wait in the shard."""
        return int((await self._read("parked_count", shard))[0][0])

    async def mark_trying(self, shard: int, epoch: int, run_key: int | None) -> bool:
        """Note durably whose input is about to be applied; False if the shard is no longer ours."""
        return bool(await self._read("mark_trying", shard, epoch, run_key))

    async def remember(self, name: str, value: str) -> str:
        """Store a fact about the installation unless it is known; returns what is stored."""
        return str((await self._read("remember", name, value))[0][0])

    async def _read(self, name: str, *values: Any) -> list[asyncpg.Record]:
        try:
            async with self._readers.use() as connection:
                return await connection.fetch(self._sql[name], *values)
        except FAILURES as error:
            _raise_if_refused(error)
            raise Unavailable(f"Postgres could not answer {name!r}: {_described(error)}") from error


def _raise_if_refused(error: Exception) -> None:
    if isinstance(error, asyncpg.PostgresError) and (error.sqlstate or "")[:2] in _REFUSED:
        raise DataRefused(error.sqlstate, str(error)) from error


def _described(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
