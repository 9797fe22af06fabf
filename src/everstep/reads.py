"""What is stored about runs, read straight from Postgres: by the HTTP API and by the command line alike.

Reading needs no owner and no fence: a run and its history are written in one transaction, so whoever has seen a run
closed finds its closing event. Nothing here writes or locks. Pages of runs go on below a pair of columns that never
change, pages of a history above an event's number, so both stay right while runs go on.
"""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, get_args

import asyncpg
import msgspec
from msgspec import UNSET, Raw, UnsetType

from everstep.histories import HistoryEvent as HistoryEvent
from everstep.settings import Settings
from everstep_schemas import events
from everstep_schemas.errors import ErrorInfo
from everstep_schemas.sql import queries

Status = Literal["running", "completed", "failed", "cancelled", "terminated", "timed_out", "continued"]
Condition = Literal["stalled", "held", "suspended"]
Filter = Status | Condition

MAX_RUNS = 1000
MAX_EVENTS = 1000
_HISTORY_BYTES = 4 << 20
_CONNECT_SECONDS = 5.0
_STATEMENT_SECONDS = 10.0
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class DatabaseUnavailable(Exception):
    """Postgres cannot be asked now; the message says why and what to do."""


class NotMigrated(DatabaseUnavailable):
    """The database answers and holds no installation, or an older one."""


class InvalidCursor(Exception):
    """The text is not a cursor that a list of runs gave out."""


class RunSummary(msgspec.Struct, frozen=True, kw_only=True):
    """A run as a list shows it. `condition` says why a running run does not run now."""

    workflow_id: str
    run: int
    workflow: str
    version: int
    status: Status
    condition: Condition | None = None
    custom_status: str | None = None
    started_at: datetime
    closed_at: datetime | None = None


class Stall(msgspec.Struct, frozen=True, kw_only=True):
    """Why a run is stalled: what its history expected and what came instead, at the event `seq`."""

    kind: str
    message: str = ""
    expected: str | None = None
    got: str | None = None
    seq: int | None = None


class RunDescription(RunSummary, frozen=True, kw_only=True):
    """All that is stored about a run beside its history."""

    reason: Stall | None = None
    next_wakeup_at: datetime | None = None


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
    """How a run ended: its `value`, its `error`, or the `reason` for which it was cancelled or terminated."""

    workflow_id: str
    run: int
    status: Status
    value: Raw | UnsetType = UNSET
    error: ErrorInfo | None = None
    reason: str | None = None
    closed_at: datetime | None = None


@asynccontextmanager
async def connect(settings: Settings, *, connections: int = 4) -> AsyncIterator[Reader]:
    """A reader with its own small pool, which connects when first asked, so that this never waits for Postgres."""
    pool = asyncpg.create_pool(
        settings.postgres_dsn,
        min_size=0,
        max_size=connections,
        timeout=_CONNECT_SECONDS,
        command_timeout=_STATEMENT_SECONDS + _CONNECT_SECONDS,
        server_settings={
            "application_name": "everstep reads",
            "statement_timeout": str(int(_STATEMENT_SECONDS * 1000)),
            "plan_cache_mode": "force_custom_plan",
        },
    )
    await pool
    try:
        yield Reader(pool, settings.postgres_schema)
    finally:
        pool.terminate()


class Reader:
    """Reads runs of one installation. Every method raises `DatabaseUnavailable` when Postgres does not answer.

    Ids and names must be such as `everstep_schemas.names.why_bad_name` accepts. `run` None stands for an id's newest.
    """

    def __init__(self, pool: asyncpg.Pool[asyncpg.Record], schema: str) -> None:
        self._pool = pool
        self._sql = queries("reads", schema)

    async def list_runs(
        self, *, workflow: str | None = None, status: Filter | None = None, limit: int = 50, cursor: str | None = None
    ) -> RunPage:
        """A page of at most `limit` runs (1000 at most), newest first.

        `status` is a status or a condition. Raises `InvalidCursor`.
        """
        limit = min(limit, MAX_RUNS)
        condition = status if status in get_args(Condition) else None
        at, key = (None, None) if cursor is None else _parse_cursor(cursor)
        closed_or_running = status if condition is None else None
        rows = await self._fetch("list_runs", workflow, closed_or_running, condition, at, key, limit + 1)
        page = rows[:limit]
        return RunPage(runs=[_summary(row) for row in page], cursor=_cursor(page[-1]) if len(rows) > limit else None)

    async def describe(self, workflow_id: str, run: int | None = None) -> RunDescription | None:
        """The run, or None if there is none."""
        row = await self._row(workflow_id, run)
        return None if row is None else _description(row)

    async def run_of_source(self, workflow_id: str, source: str) -> RunDescription | None:
        """The run of this id that the submission with the identity `source` created, or None."""
        rows = await self._fetch("run_of_source", workflow_id, source)
        return await self.describe(workflow_id, rows[0]["run"]) if rows else None

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
        rows = await self._fetch("history", row["run_key"], after + 1, limit, _HISTORY_BYTES)
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
        return _ended(known, await self._closing_event(row["run_key"]))

    async def _closing_event(self, run_key: int) -> events.AnyEvent | None:
        """The event that closed the run: in the last row, unless cancelling what was pending filled further rows."""
        below = 1 << 62
        while rows := await self._fetch("row_before", run_key, below):
            for event in reversed(events.decode_events(rows[0]["data"])):
                if isinstance(event, _CLOSING):
                    return event
            below = rows[0]["seq"]
        return None

    async def _row(self, workflow_id: str, run: int | None) -> asyncpg.Record | None:
        rows = await self._fetch("run", workflow_id, run)
        return rows[0] if rows else None

    async def _fetch(self, name: str, *arguments: Any) -> list[asyncpg.Record]:
        with _unavailability():
            async with self._pool.acquire(timeout=_CONNECT_SECONDS) as connection:
                return await connection.fetch(self._sql[name], *arguments)


_CLOSING = (events.Completed, events.Failed, events.Cancelled, events.Terminated)


def _ended(known: RunResult, event: events.AnyEvent | None) -> RunResult:
    match event:
        case events.Completed(value=value):
            return msgspec.structs.replace(known, value=value)
        case events.Failed(error=error):
            return msgspec.structs.replace(known, error=error)
        case events.Cancelled(reason=reason) | events.Terminated(reason=reason):
            return msgspec.structs.replace(known, reason=reason)
        case _:
            return known


@contextmanager
def _unavailability() -> Iterator[None]:
    """Turns the many ways in which Postgres can be away into one."""
    try:
        yield
    except asyncpg.QueryCanceledError as error:
        raise DatabaseUnavailable(
            f"Postgres took longer than {_STATEMENT_SECONDS:g} s: ask for less, or look at what keeps it busy"
        ) from error
    except (asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError, asyncpg.InvalidSchemaNameError) as error:
        raise NotMigrated(f"the database is not migrated ({error}): run `everstep migrate`") from error
    except _AWAY as error:
        why = str(error) or type(error).__name__
        raise DatabaseUnavailable(
            f"Postgres does not answer ({why}): check EVERSTEP_POSTGRES_DSN and the server"
        ) from error


_AWAY = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # a query on a connection that the server is just ending
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
)


# ---- rows


def _shared(row: asyncpg.Record) -> dict[str, Any]:
    return {name: row[name] for name in RunSummary.__struct_fields__}


def _summary(row: asyncpg.Record) -> RunSummary:
    return RunSummary(**_shared(row))


def _description(row: asyncpg.Record) -> RunDescription:
    reason = None if row["reason"] is None else msgspec.json.decode(row["reason"], type=Stall)
    return RunDescription(**_shared(row), reason=reason, next_wakeup_at=row["next_wakeup_at"])


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
