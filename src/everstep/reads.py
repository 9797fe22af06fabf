"""What is stored about runs, read straight from Postgres: by the HTTP API and by the command line alike.

Reading needs no owner and no fence: a run and its history are written in one transaction, so whoever has seen a run
closed finds its closing event. Nothing here writes or locks. Pages of runs go on below a pair of columns that never
change, pages of a history above an event's number, so both stay right while runs go on.
"""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, get_args

import asyncpg
import msgspec
from msgspec import UNSET, Raw, UnsetType

from everstep import _database
from everstep._database import Database
from everstep._database import DatabaseUnavailable as DatabaseUnavailable
from everstep._database import NotMigrated as NotMigrated
from everstep.histories import HistoryEvent as HistoryEvent
from everstep.settings import Settings
from everstep.stored_histories import Histories
from everstep_schemas import events, wire
from everstep_schemas.errors import ErrorInfo
from everstep_schemas.events import AttributeValue

Status = Literal["running", "completed", "failed", "cancelled", "terminated", "timed_out", "continued"]
Condition = Literal["stalled", "held", "suspended"]
Filter = Status | Condition

MAX_RUNS = 1000
MAX_EVENTS = 1000
_HISTORY_BYTES = 4 << 20
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class InvalidCursor(Exception):
    """The text is not a cursor that a list of runs gave out."""


class RunRef(msgspec.Struct, frozen=True, kw_only=True):
    """A run by its id and number."""

    workflow_id: str
    run: int


class RunSummary(msgspec.Struct, frozen=True, kw_only=True):
    """A run as a list shows it. `condition` says why a running run does not run now.

    `parent` is the run that started it and waits for its end. `attributes` are what runs can be searched by.
    """

    workflow_id: str
    run: int
    workflow: str
    version: int
    status: Status
    condition: Condition | None = None
    custom_status: str | None = None
    started_at: datetime
    closed_at: datetime | None = None
    parent: RunRef | None = None
    attributes: dict[str, AttributeValue] = {}


class Stall(msgspec.Struct, frozen=True, kw_only=True):
    """Why a run is stalled: what its history expected and what came instead, at the event `seq`."""

    kind: str
    message: str = ""
    expected: str | None = None
    got: str | None = None
    seq: int | None = None


class RunDescription(RunSummary, frozen=True, kw_only=True):
    """All that is stored about a run beside its history.

    Its code begins at `begins_at`, if the start was delayed, and may run until `expires_at`, if it has a timeout. A run
    that failed and was begun again is the `attempt` of that number. The `memo` is as the start gave it.
    """

    reason: Stall | None = None
    next_wakeup_at: datetime | None = None
    begins_at: datetime | None = None
    expires_at: datetime | None = None
    attempt: int = 1
    memo: dict[str, Raw] = {}


class RunPage(msgspec.Struct, frozen=True, kw_only=True):
    """Runs, newest first; `cursor` asks for the next page and is absent on the last."""

    runs: list[RunSummary]
    cursor: str | None = None


class HistoryPage(msgspec.Struct, frozen=True, kw_only=True):
    """Events in order; `next_after` asks for the next page and is absent at the end of what is stored."""

    workflow_id: str
    run: int
    events: list[HistoryEvent]
    next_after: int | None = None


class RunResult(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How a run ended: its `value`, its `error`, or the `reason` for which it was cancelled or terminated.

    A run that is `continued` has no result of its own: the run with the number `next_run` goes on with its work, after
    the `error` if that is why. By now `last_run` has that work, many runs later perhaps.
    """

    workflow_id: str
    run: int
    status: Status
    value: Raw | UnsetType = UNSET
    error: ErrorInfo | None = None
    reason: str | None = None
    closed_at: datetime | None = None
    next_run: int | None = None
    last_run: int | None = None


class QueryList(msgspec.Struct, frozen=True, kw_only=True):
    """The names of the queries that a run answers as it is now."""

    workflow_id: str
    run: int
    queries: list[str]


class UpdateResult(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became of an update: `completed` with a `value`, by the run of that number, or `accepted` and not answered.

    Asking again with the same `update_id` is safe, and is answered once there is an answer.
    """

    workflow_id: str
    update_id: str
    status: Literal["completed", "accepted"]
    run: int | None = None
    value: Raw | UnsetType = UNSET


class CallbackResult(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became of what was said to a callback: it has it (`applied`), or that is durable and not yet applied.

    Sending a completion again with the same `submission_id` is safe. A heartbeat has none, and is never answered.
    """

    submission_id: str | None = None
    status: Literal["applied", "accepted"]


@asynccontextmanager
async def connect(settings: Settings, *, connections: int = 4) -> AsyncIterator[Reader]:
    """A reader with its own small pool, which connects when first asked, so that this never waits for Postgres."""
    async with _database.connect(settings, connections) as database:
        yield Reader(database)


class Reader:
    """Reads runs of one installation. Every method raises `DatabaseUnavailable` when Postgres does not answer.

    Ids and names must be such as `everstep_schemas.names.why_bad_name` accepts. `run` None stands for an id's newest.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self.histories = Histories(database)

    async def list_runs(
        self,
        *,
        workflow: str | None = None,
        status: Filter | None = None,
        attributes: Mapping[str, AttributeValue] | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> RunPage:
        """A page of at most `limit` runs (1000 at most), newest first.

        `status` is a status or a condition. Of `attributes` a run has all, with these values; a list is part of the
        run's. Raises `InvalidCursor`.
        """
        limit = min(limit, MAX_RUNS)
        condition = status if status in get_args(Condition) else None
        at, key = (None, None) if cursor is None else _parse_cursor(cursor)
        closed_or_running = status if condition is None else None
        wanted = msgspec.json.encode(attributes).decode() if attributes else None
        rows = await self._database.fetch(
            "list_runs", workflow, closed_or_running, condition, at, key, limit + 1, wanted
        )
        page = rows[:limit]
        return RunPage(runs=[_summary(row) for row in page], cursor=_cursor(page[-1]) if len(rows) > limit else None)

    async def describe(self, workflow_id: str, run: int | None = None) -> RunDescription | None:
        """The run, or None if there is none."""
        row = await self._row(workflow_id, run)
        if row is None:
            return None
        first = await self._database.first("beginning", row["run_key"])
        return _description(row, None if first is None else _started(first["data"]))

    async def run_of_source(self, workflow_id: str, source: str) -> RunDescription | None:
        """The run of this id that the submission with the identity `source` created, or None."""
        row = await self._database.first("run_of_source", workflow_id, source)
        return None if row is None else await self.describe(workflow_id, row["run"])

    async def history(
        self, workflow_id: str, run: int | None = None, *, after: int = 0, limit: int = 100
    ) -> HistoryPage | None:
        """At most `limit` events (1000 at most, fewer when they are large) above the number `after`, in order.

        None if there is no such run.
        """
        row = await self._row(workflow_id, run)
        if row is None:
            return None
        limit = min(limit, MAX_EVENTS)
        rows = await self._database.fetch("history", row["run_key"], after + 1, limit, _HISTORY_BYTES)
        found = [event for stored in rows for event in _events(stored) if event.seq > after]
        cut = len(found) > limit or bool(rows and rows[-1]["seq"] < rows[-1]["last"])
        page = found[:limit]
        return HistoryPage(
            workflow_id=workflow_id, run=row["run"], events=page, next_after=page[-1].seq if cut else None
        )

    async def whole_history(self, workflow_id: str, run: int | None = None) -> AsyncIterator[HistoryEvent]:
        """Every event in order, read page by page."""
        after: int | None = 0
        while after is not None:
            page = await self.history(workflow_id, run, after=after, limit=MAX_EVENTS)
            if page is None:
                return
            for event in page.events:
                yield event
            run, after = page.run, page.next_after

    async def result(self, workflow_id: str, run: int | None = None) -> RunResult | None:
        """How the run ended, or its status alone while it is running; None if there is no such run."""
        row = await self._row(workflow_id, run)
        if row is None:
            return None
        known = RunResult(workflow_id=workflow_id, run=row["run"], status=row["status"], closed_at=row["closed_at"])
        if known.status == "running":
            return known
        if known.status == "continued":
            last = await self._database.first("last_of_chain", workflow_id, known.run)
            known = msgspec.structs.replace(known, last_run=None if last is None else last["run"])
        return _ended(known, await self._closing_event(row["run_key"]))

    async def _closing_event(self, run_key: int) -> events.AnyEvent | None:
        """The event that closed the run: in the last row, unless cancelling what was pending filled further rows."""
        below = 1 << 62
        while rows := await self._database.fetch("row_before", run_key, below):
            for event in reversed(events.decode_events(rows[0]["data"])):
                if isinstance(event, _CLOSING):
                    return event
            below = rows[0]["seq"]
        return None

    async def _row(self, workflow_id: str, run: int | None) -> asyncpg.Record | None:
        return await self._database.first("run", workflow_id, run)


_CLOSING = (
    events.Completed,
    events.Failed,
    events.Cancelled,
    events.Continued,
    events.Terminated,
    events.TimedOut,
)


def _ended(known: RunResult, event: events.AnyEvent | None) -> RunResult:
    match event:
        case events.Completed(value=value):
            return msgspec.structs.replace(known, value=value)
        case events.Failed(error=error):
            return msgspec.structs.replace(known, error=error)
        case events.Cancelled(reason=reason) | events.Terminated(reason=reason):
            return msgspec.structs.replace(known, reason=reason)
        case events.Continued(error=error):
            return msgspec.structs.replace(known, error=error, next_run=known.run + 1)
        case _:
            return known


# ---- rows


_PLAIN = tuple(name for name in RunSummary.__struct_fields__ if name not in ("parent", "attributes"))
_attributes = msgspec.json.Decoder(dict[str, AttributeValue])
_parent = msgspec.json.Decoder(RunRef)  # further fields are for who answers it


def _shared(row: asyncpg.Record) -> dict[str, Any]:
    parent, attributes = row["parent"], row["attributes"]
    return {
        **{name: row[name] for name in _PLAIN},
        "parent": None if parent is None else _parent.decode(parent),
        "attributes": {} if attributes is None else _attributes.decode(attributes),
    }


def _summary(row: asyncpg.Record) -> RunSummary:
    return RunSummary(**_shared(row))


def _description(row: asyncpg.Record, started: events.Started | None) -> RunDescription:
    reason = None if row["reason"] is None else msgspec.json.decode(row["reason"], type=Stall)
    described = RunDescription(**_shared(row), reason=reason, next_wakeup_at=row["next_wakeup_at"])
    if started is None:
        return described
    return msgspec.structs.replace(
        described,
        begins_at=None if started.start_at is None else started.start_at.astimezone(UTC),
        expires_at=started.expires_at,
        attempt=started.attempt,
        memo=started.memo,
    )


def _started(data: bytes) -> events.Started | None:
    """The first event: of a history, or of what is kept for a run that waits for its code."""
    first = events.decode_events(data)[0] if data.startswith(b"[") else wire.parked_decoder.decode(data)
    return first if isinstance(first, events.Started) else None


def _events(row: asyncpg.Record) -> Iterator[HistoryEvent]:
    for position, event in enumerate(events.decode_events(row["data"])):
        yield HistoryEvent(row["seq"] + position, row["at"], event)


# ---- cursors: opaque to whoever carries them


def _cursor(row: asyncpg.Record) -> str:
    microseconds = (row["started_at"] - _EPOCH) // _MICROSECOND
    return urlsafe_b64encode(f"{microseconds:x}.{row['run_key']:x}".encode()).decode().rstrip("=")


def _parse_cursor(cursor: str) -> tuple[datetime, int]:
    try:
        text = urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode()
        microseconds, key = (int(part, 16) for part in text.split("."))
        if not 0 <= key < 1 << 63:
            raise ValueError(key)
        return _EPOCH + microseconds * _MICROSECOND, key
    except (ValueError, OverflowError) as error:
        raise InvalidCursor(
            f"{cursor[:100]!r} is not a cursor: pass on the one of the last page as it came, or none"
        ) from error
