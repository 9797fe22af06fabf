"""Reading runs: list, describe, history and result, answered out of Postgres by any orchestrator."""

from __future__ import annotations

import time
from typing import Annotated

from litestar import Response, get
from litestar.openapi import ResponseSpec
from litestar.params import FromPath, FromQuery, QueryParameter

from everstep._named import attributes
from everstep.lifecycle import CLOSING
from everstep.reads import Filter, HistoryPage, RunDescription, RunPage, RunResult
from everstep_orchestrator.api.dependencies import Api, Fact, FromProcess
from everstep_orchestrator.api.problems import (
    DATABASE_UNAVAILABLE,
    INVALID,
    KAFKA_UNAVAILABLE,
    MALFORMED,
    NO_SUCH_RUN,
    Refused,
    documented,
)
from everstep_orchestrator.api.segments import valid_name
from everstep_orchestrator.api.waiting import next_fact, seconds_of, watching

RunNumber = Annotated[
    int | None, QueryParameter(ge=1, le=2**31 - 1, description="Which run of the id; the newest by default.")
]
Wait = Annotated[str, QueryParameter(description="How long to wait for the end, as in `30s`; 60 s at most.")]
_READING = documented(MALFORMED, NO_SUCH_RUN, INVALID, DATABASE_UNAVAILABLE)


def no_such_run(workflow_id: str, run: int | None = None) -> Refused:
    which = f"{workflow_id!r} has no run" if run is None else f"{workflow_id!r} has no run number {run}"
    hint = "check the id, or list what there is with GET /api/v1/runs"
    return Refused(NO_SUCH_RUN, f"{which}: {hint}", workflow_id=workflow_id, run=run)


@get(
    "/runs",
    tags=["runs"],
    summary="List runs, newest first",
    responses=documented(MALFORMED, INVALID, DATABASE_UNAVAILABLE),
)
async def list_runs(
    api: FromProcess,
    workflow: FromQuery[str | None] = None,
    status: Annotated[Filter | None, QueryParameter(description="A status, or the condition of a running run.")] = None,
    limit: Annotated[int, QueryParameter(ge=1, description="The most runs of a page; 1000 at most.")] = 50,
    attribute: Annotated[
        list[str] | None,
        QueryParameter(description='Only runs with this attribute, as in `customer="C-9"`. Repeatable.'),
    ] = None,
    cursor: Annotated[str | None, QueryParameter(description="What the page before gave as `cursor`.")] = None,
) -> RunPage:
    if workflow is not None:
        valid_name("workflow", workflow)
    try:
        wanted = attributes(attribute or ())
    except ValueError as error:
        raise Refused(INVALID, f"attribute: {error}") from error
    return await api.reader.list_runs(workflow=workflow, status=status, attributes=wanted, limit=limit, cursor=cursor)


@get("/runs/{workflow_id:str}", tags=["runs"], summary="Describe a run", responses=_READING)
async def describe_run(api: FromProcess, workflow_id: FromPath[str], run: RunNumber = None) -> RunDescription:
    found = await api.reader.describe(workflow_id, run)
    if found is None:
        raise no_such_run(workflow_id, run)
    return found


@get("/runs/{workflow_id:str}/history", tags=["runs"], summary="The events of a run, in order", responses=_READING)
async def run_history(
    api: FromProcess,
    workflow_id: FromPath[str],
    run: RunNumber = None,
    after: Annotated[int, QueryParameter(ge=0, le=2**53, description="Only events above this number.")] = 0,
    limit: Annotated[int, QueryParameter(ge=1, description="The most events of a page; 1000 at most.")] = 100,
) -> HistoryPage:
    page = await api.reader.history(workflow_id, run, after=after, limit=limit)
    if page is None:
        raise no_such_run(workflow_id, run)
    return page


@get(
    "/runs/{workflow_id:str}/result",
    tags=["runs"],
    summary="How a run ended, waiting for the end if asked to",
    responses={202: ResponseSpec(RunResult, description="Still running; ask again", generate_examples=False)}
    | documented(MALFORMED, NO_SUCH_RUN, INVALID, DATABASE_UNAVAILABLE, KAFKA_UNAVAILABLE),
)
async def run_result(
    api: FromProcess, workflow_id: FromPath[str], run: RunNumber = None, wait: Wait = "0s"
) -> Response[RunResult]:
    until = time.monotonic() + seconds_of(wait)
    result = await _result(api, workflow_id, run)
    if run is None:  # the id's newest, whichever that is when the wait is over
        while result.status in ("running", "continued") and time.monotonic() < until and not api.stopping.is_set():
            result = await _awaited_result(api, workflow_id, result.last_run or result.run, until)
        if result.status == "continued":
            result = await _result(api, workflow_id, None)
    elif result.status == "running" and time.monotonic() < until:
        result = await _awaited_result(api, workflow_id, run, until)
    return Response(result, status_code=202 if result.status == "running" else 200)


async def _result(api: Api, workflow_id: str, run: int | None) -> RunResult:
    result = await api.reader.result(workflow_id, run)
    if result is None:
        raise no_such_run(workflow_id, run)
    return result


async def _awaited_result(api: Api, workflow_id: str, run: int, until: float) -> RunResult:
    """Watches before it looks, so that an end in between is seen by one or the other."""
    async with watching(api, workflow_id) as watch:
        result = await _result(api, workflow_id, run)
        if result.status != "running":
            return result

        def closes(fact: Fact) -> bool:
            return fact.body.run == run and fact.type in CLOSING

        await next_fact(api, watch, closes, max(0.0, until - time.monotonic()))
    return await _result(api, workflow_id, run)


READING = [list_runs, describe_run, run_history, run_result]
