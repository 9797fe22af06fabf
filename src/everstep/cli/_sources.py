"""Where reading commands read: an orchestrator's HTTP API if its address is set, else Postgres."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import asynccontextmanager
from typing import Protocol, TypeVar

from everstep._client import connected
from everstep._client.transport import NO_ATTRIBUTES, Ended
from everstep.cli._failures import Finding
from everstep.errors import RunNotFound
from everstep.reads import Filter, HistoryEvent, Reader, RunDescription, RunSummary, connect
from everstep.settings import Settings, SettingsError
from everstep_schemas.events import AttributeValue

T = TypeVar("T")


class Source(Protocol):
    """What is stored about runs; `run` None stands for an id's newest. Raises `RunNotFound`.

    The end of exactly one run may be that it goes on as another; that of the newest is the end of the last.
    """

    async def ended(self, workflow_id: str, run: int | None = None) -> Ended: ...
    async def describe(self, workflow_id: str, run: int | None = None) -> RunDescription: ...
    def history(self, workflow_id: str, run: int | None = None) -> AsyncIterator[HistoryEvent]: ...
    def runs(
        self,
        workflow: str | None,
        status: Filter | None,
        limit: int | None,
        attributes: Mapping[str, AttributeValue] = NO_ATTRIBUTES,
    ) -> AsyncIterator[RunSummary]: ...


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
        ended = await self._end(workflow_id, run)
        while run is None and ended.last_run is not None:
            ended = await self._end(workflow_id, ended.last_run)
        return ended

    async def _end(self, workflow_id: str, run: int | None) -> Ended:
        found = await self._stored(workflow_id, run)
        if found.status != "running":
            return found
        if not self._settings.kafka_bootstrap:
            raise Finding(
                f"run {workflow_id!r} is still running: to wait for its end set EVERSTEP_API_URL, or"
                " EVERSTEP_KAFKA_BOOTSTRAP"
            )
        return await self._awaited(workflow_id, found.run)

    async def _stored(self, workflow_id: str, run: int | None) -> Ended:
        result = await _found(workflow_id, run, self._reader.result(workflow_id, run))
        end = (result.value, result.error, result.reason, result.next_run, result.last_run)
        return Ended(workflow_id, result.run, result.status, *end)

    async def _awaited(self, workflow_id: str, run: int) -> Ended:
        from everstep.admin import database
        from everstep.lifecycle import CLOSING, LifecycleTail

        stored = await database.check_reachable(self._settings.postgres_dsn, self._settings.postgres_schema)
        tail = LifecycleTail(self._settings, stored.shards)
        try:
            async with tail.watch(workflow_id) as watch:
                while (ended := await self._stored(workflow_id, run)).status == "running":
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

    async def runs(
        self,
        workflow: str | None,
        status: Filter | None,
        limit: int | None,
        attributes: Mapping[str, AttributeValue] = NO_ATTRIBUTES,
    ) -> AsyncIterator[RunSummary]:
        cursor: str | None = None
        left = limit
        while left is None or left > 0:
            page = await self._reader.list_runs(
                workflow=workflow, status=status, attributes=attributes, limit=left or 1000, cursor=cursor
            )
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
