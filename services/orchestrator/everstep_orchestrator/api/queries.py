"""Queries: any run, open or closed, is replayed from what is stored and asked. Nothing is written.

An orchestrator that lacks the run's code hands the question on to one that has it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import msgspec
from litestar import Response, get
from litestar.params import FromPath, QueryParameter
from msgspec import Raw

from everstep._core.engine import CannotRun, LiveRun, QueryFailed, StallReason
from everstep.reads import QueryList
from everstep.stored_histories import StoredRun
from everstep_orchestrator.api.dependencies import Api, FromProcess
from everstep_orchestrator.api.problems import (
    BUSY,
    CANNOT_REPLAY,
    DATABASE_UNAVAILABLE,
    INVALID,
    MALFORMED,
    NO_CODE,
    NO_SUCH_QUERY,
    NO_SUCH_RUN,
    QUERY_FAILED,
    AnyRequest,
    Refused,
    documented,
)
from everstep_orchestrator.api.runs import RunNumber, no_such_run

T = TypeVar("T")

_QUERYING = (MALFORMED, NO_SUCH_RUN, CANNOT_REPLAY, INVALID, QUERY_FAILED, DATABASE_UNAVAILABLE, NO_CODE, BUSY)
# A run that ended or held up a process may do so again when it is replayed.
_NOT_TRIED = ("crashed", "blocked")


@get(
    "/runs/{workflow_id:str}/queries/{name:str}",
    tags=["runs"],
    summary="Ask a run",
    responses=documented(NO_SUCH_QUERY, *_QUERYING),
)
async def query_run(
    api: FromProcess,
    request: AnyRequest,
    workflow_id: FromPath[str],
    name: FromPath[str],
    run: RunNumber = None,
    args: Annotated[str, QueryParameter(description="The arguments, a JSON array.")] = "[]",
) -> Response[Raw]:
    arguments = _arguments(args)
    return await _asked(api, request, workflow_id, run, lambda live: Raw(live.query(name, arguments)))


@get(
    "/runs/{workflow_id:str}/queries",
    tags=["runs"],
    summary="The queries that a run answers",
    responses=documented(*_QUERYING),
)
async def run_queries(
    api: FromProcess, request: AnyRequest, workflow_id: FromPath[str], run: RunNumber = None
) -> Response[QueryList]:
    def names(live: LiveRun) -> QueryList:
        return QueryList(workflow_id=workflow_id, run=live.identity.run, queries=live.query_names())

    return await _asked(api, request, workflow_id, run, names)


def _arguments(text: str) -> list[Any]:
    try:
        return msgspec.json.decode(text, type=list[Any])
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError) as error:
        raise Refused(INVALID, f"args must be a JSON array, one item per argument: {error}") from error


async def _asked(
    api: Api, request: AnyRequest, workflow_id: str, run: int | None, question: Callable[[LiveRun], T]
) -> Response[T]:
    stored = await api.reader.histories.run(workflow_id, run)
    if stored is None:
        raise no_such_run(workflow_id, run)
    identity = stored.identity
    if stored.reason is not None and stored.reason.kind in _NOT_TRIED:
        raise _cannot_replay(stored, stored.reason)
    if not api.asker.knows(identity.workflow, identity.version):
        there = await api.reader.histories.addresses(identity.workflow, identity.version)
        answer = await api.peers.ask(request, there)
        if answer is None:
            raise _no_code(stored)
        return answer  # type: ignore[return-value]  # the same, written down already
    return Response(await _answer(api, stored, question))


async def _answer(api: Api, stored: StoredRun, question: Callable[[LiveRun], T]) -> T:
    run = stored.identity

    def ask(live: LiveRun) -> T:
        if not live.events:
            raise QueryFailed("the run has not begun: it waits for an orchestrator to start it")
        return question(live)

    try:
        return await api.asker.ask(run, api.reader.histories.pages(run.run_key), ask)
    except QueryFailed as error:
        kind = NO_SUCH_QUERY if error.unknown else QUERY_FAILED
        raise Refused(kind, str(error), workflow_id=run.workflow_id, run=run.run) from error
    except CannotRun as error:
        raise _cannot_replay(stored, error.reason) from error
    except TimeoutError as error:
        raise Refused(BUSY, f"{error}: ask again later", workflow_id=run.workflow_id, run=run.run) from error


def _cannot_replay(stored: StoredRun, reason: StallReason) -> Refused:
    run = stored.identity
    return Refused(
        CANNOT_REPLAY,
        reason.message,
        workflow_id=run.workflow_id,
        run=run.run,
        expected=reason.expected,
        got=reason.got,
        seq=reason.seq,
    )


def _no_code(stored: StoredRun) -> Refused:
    run = stored.identity
    version = f" version {run.version}" if run.version else ""
    detail = f"no orchestrator has code for workflow {run.workflow!r}{version}: deploy it, then ask again"
    return Refused(NO_CODE, detail, workflow_id=run.workflow_id, run=run.run)


QUERIES = [query_run, run_queries]
