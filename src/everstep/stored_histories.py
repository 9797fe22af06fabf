"""Histories as they are stored, for those who replay them or look an answer up. Reads only, needs no owner.

What was committed stays as it is, so a history that is read page by page is one that the run really had. Questions
about single events (has this update been answered, has this submission completed that callback) are put to Postgres as
a search for the bytes that such an event must hold, and what it finds is decoded and judged here.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import asyncpg
import msgspec

from everstep._core.model import HistoryRow, Identity, StallReason
from everstep._database import Database
from everstep_schemas import events

_PAGE_ROWS = 1000
_PAGE_BYTES = 4 << 20
_PAGE_RUNS = 200
_MOST_ROWS_FOUND = 200
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

_parent = msgspec.json.Decoder(events.Parent)
_reason = msgspec.json.Decoder(StallReason)
_workflows = msgspec.json.Decoder(dict[str, list[int]])


class StoredRun(NamedTuple):
    """A run, and what keeps it from running."""

    identity: Identity
    status: str
    condition: str | None = None
    reason: StallReason | None = None


class Answer(NamedTuple):
    """What the run of this number answered to an update; None: it still works on it."""

    run: int
    event: events.UpdateCompleted | events.UpdateFailed | None


class Histories:
    """The stored histories of an installation. Every method raises `DatabaseUnavailable` when Postgres is away."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def run(self, workflow_id: str, run: int | None = None) -> StoredRun | None:
        """A run of the id, the newest unless a number is given."""
        row = await self._database.first("stored_run", workflow_id, run)
        return None if row is None else _stored(row)

    async def run_by_key(self, run_key: int) -> StoredRun | None:
        """The run with this key."""
        row = await self._database.first("stored_run_by_key", run_key)
        return None if row is None else _stored(row)

    async def open_runs(self, workflow: str | None = None) -> AsyncIterator[StoredRun]:
        """All open runs, of one workflow or of all."""
        place: tuple[str | None, datetime | None, int | None] = (None, None, None)
        while page := await self._database.fetch("open_runs", workflow, *place, _PAGE_RUNS):
            for row in page:
                yield _stored(row)
            place = (page[-1]["workflow"], page[-1]["started_at"], page[-1]["run_key"])

    async def pages(self, run_key: int) -> AsyncIterator[list[HistoryRow]]:
        """All rows of a history in order, some megabytes at a time."""
        after = 0
        while page := await self._database.fetch("history_rows", run_key, after, _PAGE_ROWS, _PAGE_BYTES):
            yield [_history_row(row) for row in page]
            after = page[-1]["seq"]

    async def answer(self, workflow_id: str, update_id: str, run: int | None = None) -> Answer | None:
        """What a run of the id, the newest that knows this update, answered to it. None if none of them does.

        With a number, only that run is looked at.
        """
        text = _naming("update_id", update_id)
        rows = await self._database.fetch("rows_of_id_with", workflow_id, text, run, _MOST_ROWS_FOUND)
        known: Answer | None = None
        for row in rows:
            if known is not None and row["run"] != known.run:
                break
            for event in events.decode_events(row["data"]):
                if isinstance(event, events.UpdateRequested) and event.update_id == update_id:
                    known = known or Answer(row["run"], None)
                elif isinstance(event, _ANSWERS) and event.update_id == update_id:
                    return Answer(row["run"], event)
        return known

    async def closed_by(self, run_key: int, seq: int, submission_id: str) -> bool:
        """Whether this submission completed, or failed, the callback that event `seq` of the run created."""
        text = _naming("source", submission_id)
        for row in await self._database.fetch("rows_with", run_key, seq, text, _MOST_ROWS_FOUND):
            first = events.decode_events(row["data"])[0]
            if isinstance(first, _COMPLETIONS) and first.ref == seq and first.source == submission_id:
                return True
        return False

    async def addresses(self, workflow: str, version: int) -> list[str]:
        """`host:port` of living orchestrators that have this code."""
        rows = await self._database.fetch("orchestrators")
        return [row["address"] for row in rows if version in _workflows.decode(row["workflows"]).get(workflow, ())]


_ANSWERS = (events.UpdateCompleted, events.UpdateFailed)
_COMPLETIONS = (events.CallbackCompleted, events.CallbackFailed)


def _naming(field: str, value: str) -> bytes:
    """How an event whose `field` is this value is written."""
    return f'"{field}":'.encode() + msgspec.json.encode(value)


def _stored(row: asyncpg.Record) -> StoredRun:
    parent, reason = row["parent"], row["reason"]
    identity = Identity(
        run_key=row["run_key"],
        workflow_id=row["workflow_id"],
        run=row["run"],
        workflow=row["workflow"],
        version=row["version"],
        nonce=row["nonce"],
        parent=None if parent is None else _parent.decode(parent),
    )
    return StoredRun(identity, row["status"], row["condition"], None if reason is None else _reason.decode(reason))


def _history_row(row: asyncpg.Record) -> HistoryRow:
    return HistoryRow(row["seq"], (row["at"] - _EPOCH) // _MICROSECOND, row["data"])
