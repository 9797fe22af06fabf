"""Starting and steering runs. What changes a run goes through Kafka like every other client's submission.

A start is answered by the lifecycle topic: the watch is opened before the submission is sent, so the answer cannot be
missed, and what it says is read from Postgres, where it was committed before it was published. Signals and requests to
end are answered as soon as they are durable; what they did stands in the history.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated
from urllib.parse import quote

import msgspec
from litestar import Response, post
from litestar.openapi import ResponseSpec
from litestar.params import FromPath, JSONBody, QueryParameter

from everstep._core.starting import why_impossible
from everstep.reads import RunDescription
from everstep_orchestrator.api.bodies import (
    JsonBody,
    ReasonRequest,
    SignalRequest,
    StartRequest,
    check_size,
    name_or_new,
)
from everstep_orchestrator.api.dependencies import Api, Fact, FromProcess, Watch
from everstep_orchestrator.api.problems import (
    DATABASE_UNAVAILABLE,
    DUPLICATE,
    INVALID,
    KAFKA_UNAVAILABLE,
    MALFORMED,
    NO_SUCH_RUN,
    NOT_JSON,
    RUN_CLOSED,
    TOO_LARGE,
    UNANSWERED,
    Refused,
    documented,
)
from everstep_orchestrator.api.runs import no_such_run
from everstep_orchestrator.api.segments import valid_name
from everstep_orchestrator.api.waiting import next_fact, seconds_of, submit, watching
from everstep_schemas.wire import Cancel, LifecycleType, RunSubmission, Signal, Start, Terminate

REFUSALS = (MALFORMED, TOO_LARGE, NOT_JSON, INVALID, DATABASE_UNAVAILABLE, KAFKA_UNAVAILABLE)
_STEERING = documented(NO_SUCH_RUN, RUN_CLOSED, *REFUSALS)


class Accepted(msgspec.Struct, frozen=True, kw_only=True):
    """The submission is durable; the run that was newest then."""

    workflow_id: str
    run: int


# ---- start


@post(
    "/runs",
    tags=["runs"],
    summary="Start a run",
    dto=JsonBody[StartRequest],
    return_dto=None,
    responses={200: ResponseSpec(RunDescription, description="The run that existed", generate_examples=False)}
    | documented(DUPLICATE, UNANSWERED, *REFUSALS),
)
async def start_run(
    api: FromProcess,
    data: JSONBody[StartRequest],
    wait: Annotated[str, QueryParameter(description="How long to wait for the answer; 60 s at most.")] = "10s",
) -> Response[RunDescription]:
    seconds = seconds_of(wait)
    start = _submission(api, data)
    async with watching(api, start.workflow_id) as watch:
        run, created = await _started(api, watch, start, seconds)
    location = f"/api/v1/runs/{quote(run.workflow_id, safe='')}?run={run.run}"
    return Response(run, status_code=201 if created else 200, headers={"location": location})


def _submission(api: Api, data: StartRequest) -> Start:
    if not bytes(data.args).lstrip().startswith(b"["):
        raise Refused(INVALID, "args must be a JSON array: one item per argument")
    if data.kwargs is not msgspec.UNSET and not bytes(data.kwargs).lstrip().startswith(b"{"):
        raise Refused(INVALID, "kwargs must be a JSON object")
    check_size(api, "args, kwargs, memo and with_signal", *_payloads(data))
    start = Start(
        workflow=valid_name("workflow", data.workflow),
        workflow_id=name_or_new("workflow_id", data.workflow_id),
        submission_id=name_or_new("submission_id", data.submission_id),
        args=data.args,
        kwargs=data.kwargs,
        version=data.version,
        on_duplicate=data.on_duplicate,
        attributes=data.attributes,
        memo=data.memo,
        start_at=data.start_at,
        timeout_seconds=data.timeout_seconds,
        with_signal=data.with_signal,
    )
    if why := why_impossible(start):
        raise Refused(INVALID, why)
    return start


def _payloads(data: StartRequest) -> Iterator[bytes | msgspec.Raw]:
    yield data.args
    if data.kwargs is not msgspec.UNSET:
        yield data.kwargs
    yield from data.memo.values()
    if data.with_signal is not None:
        yield data.with_signal.value


async def _started(api: Api, watch: Watch, start: Start, seconds: float) -> tuple[RunDescription, bool]:
    """The run that answers the start, and whether this created it."""
    source = start.submission_id or ""
    if known := await api.reader.run_of_source(start.workflow_id, source):
        return known, False
    await submit(api, start)
    fact = await next_fact(api, watch, lambda fact: fact.body.submission_id == source, seconds)
    if fact is not None and fact.type == LifecycleType.SUBMISSION_REJECTED:
        raise _rejected(start, fact)
    # Also without an answer: a run that waits for an orchestrator that has its code is not announced.
    if created := await api.reader.run_of_source(start.workflow_id, source):
        return created, True
    existing = await api.reader.describe(start.workflow_id, fact.body.run) if fact else None
    if existing is None:
        raise _unanswered(start)
    return existing, False


def _rejected(start: Start, fact: Fact) -> Refused:
    reason = fact.body.reason or "rejected without a reason"
    if reason.startswith("duplicate"):
        hint = "choose another id, or say with on_duplicate what is to happen"
        return Refused(DUPLICATE, f"{reason}; {hint}", workflow_id=start.workflow_id)
    return Refused(INVALID, reason, workflow_id=start.workflow_id)


def _unanswered(start: Start) -> Refused:
    return Refused(
        UNANSWERED,
        "the submission is durable and will be applied, but no orchestrator has answered yet: send the same body again"
        " with this workflow_id and this submission_id, which starts nothing twice",
        workflow_id=start.workflow_id,
        submission_id=start.submission_id,
    )


# ---- signal, cancel, terminate


@post(
    "/runs/{workflow_id:str}/signals/{name:str}",
    tags=["runs"],
    summary="Send a signal to a run",
    dto=JsonBody[SignalRequest],
    return_dto=None,
    status_code=202,
    responses=_STEERING,
)
async def signal_run(
    api: FromProcess, workflow_id: FromPath[str], name: FromPath[str], data: JSONBody[SignalRequest]
) -> Accepted:
    check_size(api, "value", data.value)
    signal_id = None if data.signal_id is None else valid_name("signal_id", data.signal_id)
    return await _send(api, Signal(workflow_id=workflow_id, name=name, value=data.value, signal_id=signal_id))


@post(
    "/runs/{workflow_id:str}/cancel",
    tags=["runs"],
    summary="Ask a run to end; its code may still clean up",
    dto=JsonBody[ReasonRequest],
    return_dto=None,
    status_code=202,
    responses=_STEERING,
)
async def cancel_run(api: FromProcess, workflow_id: FromPath[str], data: JSONBody[ReasonRequest]) -> Accepted:
    return await _send(api, Cancel(workflow_id=workflow_id, reason=data.reason))


@post(
    "/runs/{workflow_id:str}/terminate",
    tags=["runs"],
    summary="End a run without running its code",
    dto=JsonBody[ReasonRequest],
    return_dto=None,
    status_code=202,
    responses=_STEERING,
)
async def terminate_run(api: FromProcess, workflow_id: FromPath[str], data: JSONBody[ReasonRequest]) -> Accepted:
    return await _send(api, Terminate(workflow_id=workflow_id, reason=data.reason))


async def _send(api: Api, submission: RunSubmission) -> Accepted:
    """Makes the submission durable, if there is an open run that it can reach."""
    run = await api.reader.describe(submission.workflow_id)
    if run is None:
        raise no_such_run(submission.workflow_id)
    if run.status != "running":
        raise run_closed(run.workflow_id, run.run, run.status)
    await submit(api, submission)
    return Accepted(workflow_id=run.workflow_id, run=run.run)


def run_closed(workflow_id: str, run: int, status: str) -> Refused:
    """The answer to what only a running run can do."""
    detail = f"run {run} of {workflow_id!r} has ended ({status}): only a running run can be reached"
    return Refused(RUN_CLOSED, detail, workflow_id=workflow_id, run=run)


STEERING = [start_run, signal_run, cancel_run, terminate_run]
