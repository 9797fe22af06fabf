"""Where reading commands read: an orchestrator's HTTP API if its address is set, else Postgres."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Protocol, TypeVar

from msgspec import UNSET

from everstep._client import connected
from everstep._client.transport import Ended
from everstep.cli._failures import Finding
from everstep.errors import RunNotFound
from everstep.reads import Filter, HistoryEvent, Reader, RunDescription, RunSummary, connect
from everstep.settings import Settings, SettingsError

T = TypeVar("T")


class Source(Protocol):
    """What is stored about runs; `run` None stands for an id's newest. Raises `RunNotFound`."""

    async def ended(self, workflow_id: str, run: int | None = None) -> Ended: ...
    async def describe(self, workflow_id: str, run: int | None = None) -> RunDescription: ...
    def history(self, workflow_id: str, run: int | None = None) -> AsyncIterator[HistoryEvent]: ...
    def runs(self, workflow: str | None, status: Filter | None, limit: int | None) -> AsyncIterator[RunSummary]: ...


@asynccontextmanager
async def source() -> AsyncIterator[Source]:
    """The source that the environment names."""
    settings = Settings.from_environment()
    if settings.api_url:
        async with connected(settings) as transport:
            yield transport
    elif settings.postgres_dsn:
        async with connect(settings, connections=1) as reader:
            yield _Stored(settings, reader)
    else:
        raise SettingsError(
            [
                "neither EVERSTEP_API_URL nor EVERSTEP_POSTGRES_DSN is set: set the address of an orchestrator, as in"
                " http://127.0.0.1:8080, or of the database"
            ]
        )


class _Stored:
    """Straight out of Postgres; the end of a run that still runs is awaited on the lifecycle topic."""

    def __init__(self, settings: Settings, reader: Reader) -> None:
        self._settings = settings
        self._reader = reader

    async def ended(self, workflow_id: str, run: int | None = None) -> Ended:
        found = await self._stored(workflow_id, run)
        if found is None:
            if not self._settings.kafka_bootstrap:
                raise Finding(
                    f"run {workflow_id!r} is still running: to wait for its end set EVERSTEP_API_URL, or"
                    " EVERSTEP_KAFKA_BOOTSTRAP"
                )
            found = await self._awaited(workflow_id, run)
        return found

    async def _stored(self, workflow_id: str, run: int | None) -> Ended | None:
        result = await _found(workflow_id, run, self._reader.result(workflow_id, run))
        if result.status == "running":
            return None
        value = UNSET if result.value is UNSET else result.value
        return Ended(workflow_id, result.run, result.status, value, result.error, result.reason)

    async def _awaited(self, workflow_id: str, run: int | None) -> Ended:
        from everstep.admin import database
        from everstep.lifecycle import CLOSING, LifecycleTail

        stored = await database.check_reachable(self._settings.postgres_dsn, self._settings.postgres_schema)
        tail = LifecycleTail(self._settings, stored.shards)
        try:
            async with tail.watch(workflow_id) as watch:
                while (ended := await self._stored(workflow_id, run)) is None:
                    await watch.next(lambda fact: fact.type in CLOSING)
                return ended
        finally:
            await tail.close()

    async def describe(self, workflow_id: str, run: int | None = None) -> RunDescription:
        return await _found(workflow_id, run, self._reader.describe(workflow_id, run))

    async def history(self, workflow_id: str, run: int | None = None) -> AsyncIterator[HistoryEvent]:
        described = await self.describe(workflow_id, run)
        async for event in self._reader.whole_history(workflow_id, described.run):
            yield event

    async def runs(self, workflow: str | None, status: Filter | None, limit: int | None) -> AsyncIterator[RunSummary]:
        cursor: str | None = None
        left = limit
        while left is None or left > 0:
            page = await self._reader.list_runs(workflow=workflow, status=status, limit=left or 1000, cursor=cursor)
            for run in page.runs:
                yield run
            if page.cursor is None:
                return
            left, cursor = left and left - len(page.runs), page.cursor


async def _found(workflow_id: str, run: int | None, answer: Awaitable[T | None]) -> T:
    found = await answer
    if found is None:
        what = f"no run has the id {workflow_id!r}" if run is None else f"{workflow_id!r} has no run number {run}"
        raise RunNotFound(f"{what}: `everstep list` shows those there are", workflow_id=workflow_id)
    return found
