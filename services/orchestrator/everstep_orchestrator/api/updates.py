"""Updates: a request that a run validates, carries out and answers.

It is made durable first, then its answer is awaited on the lifecycle topic, which is watched from before. An answer
that was given earlier, by this run or by one before it, is found in the histories: whoever asks with an id that was
ever carried out gets that answer, and nothing is carried out twice.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Annotated, TypeAlias

from litestar import Response, post
from litestar.openapi import ResponseSpec
from litestar.params import FromPath, JSONBody, QueryParameter
from msgspec import Raw, UnsetType

from everstep.reads import UpdateResult
from everstep_orchestrator.api.bodies import JsonBody, UpdateRequest, check_size, name_or_new
from everstep_orchestrator.api.dependencies import Api, Fact, FromProcess
from everstep_orchestrator.api.problems import (
    NO_SUCH_RUN,
    RUN_CLOSED,
    UPDATE_FAILED,
    UPDATE_REJECTED,
    Refused,
    documented,
)
from everstep_orchestrator.api.runs import no_such_run
from everstep_orchestrator.api.steering import REFUSALS, run_closed
from everstep_orchestrator.api.waiting import answered, seconds_of, submit, watching
from everstep_schemas.errors import ErrorInfo
from everstep_schemas.events import UpdateFailed
from everstep_schemas.wire import LifecycleType, Update

_ANSWERS = (LifecycleType.UPDATE_COMPLETED, LifecycleType.UPDATE_FAILED, LifecycleType.SUBMISSION_REJECTED)
# Rejections behind which there may be an answer: by an earlier run of the id, or by this one before it ended.
_ENDED = re.compile(r"run (\d+) of .* has ended \((\w+)\)", re.DOTALL)
_EARLIER = "duplicate: update"

_Look: TypeAlias = Callable[[], Awaitable[UpdateResult | None]]


@post(
    "/runs/{workflow_id:str}/updates/{name:str}",
    tags=["runs"],
    summary="Ask a run to do something and to answer",
    dto=JsonBody[UpdateRequest],
    return_dto=None,
    status_code=200,
    responses={202: ResponseSpec(UpdateResult, description="Not answered yet; ask again", generate_examples=False)}
    | documented(NO_SUCH_RUN, RUN_CLOSED, UPDATE_REJECTED, UPDATE_FAILED, *REFUSALS),
)
async def update_run(
    api: FromProcess,
    workflow_id: FromPath[str],
    name: FromPath[str],
    data: JSONBody[UpdateRequest],
    wait: Annotated[str, QueryParameter(description="How long to wait for the answer; 60 s at most.")] = "10s",
) -> Response[UpdateResult]:
    seconds = seconds_of(wait)
    check_size(api, "value", data.value)
    update_id = name_or_new("update_id", data.update_id)
    update = Update(workflow_id=workflow_id, name=name, value=data.value, update_id=update_id)
    result = await _updated(api, update, update_id, seconds)
    return Response(result, status_code=202 if result.status == "accepted" else 200)


async def _updated(api: Api, update: Update, update_id: str, seconds: float) -> UpdateResult:
    workflow_id = update.workflow_id
    look = partial(_look, api, workflow_id, update_id)
    run = await api.reader.histories.run(workflow_id)
    if run is None:
        raise no_such_run(workflow_id)
    if run.status != "running":
        return await _answered_before(look, run_closed(workflow_id, run.identity.run, run.status))

    def wanted(fact: Fact) -> bool:
        return fact.body.submission_id == update_id and fact.type in _ANSWERS

    # What an earlier run answered is no answer of this one, unless this one says so.
    look_here = partial(look, run.identity.run)
    async with watching(api, workflow_id) as watch:
        await submit(api, update)
        answer = await answered(api, watch, wanted, look_here, seconds)
    if answer is None:
        return UpdateResult(workflow_id=workflow_id, update_id=update_id, status="accepted")
    if isinstance(answer, UpdateResult):
        return answer
    if answer.type == LifecycleType.SUBMISSION_REJECTED:
        return await _rejected(look, workflow_id, answer.body.reason or "rejected without a reason")
    if answer.body.error is not None:
        raise _failed(workflow_id, answer.body.run, answer.body.error)
    return _completed(workflow_id, update_id, answer.body.run, answer.body.result)


async def _look(api: Api, workflow_id: str, update_id: str, run: int | None = None) -> UpdateResult | None:
    """The answer that stands in a history; a failure is raised as the answer that it is."""
    found = await api.reader.histories.answer(workflow_id, update_id, run)
    if found is None or found.event is None:
        return None
    if isinstance(found.event, UpdateFailed):
        raise _failed(workflow_id, found.run, found.event.error)
    return _completed(workflow_id, update_id, found.run, found.event.value)


async def _answered_before(look: _Look, otherwise: Refused) -> UpdateResult:
    found = await look()
    if found is None:
        raise otherwise
    return found


async def _rejected(look: _Look, workflow_id: str, reason: str) -> UpdateResult:
    refused = Refused(UPDATE_REJECTED, reason, workflow_id=workflow_id)
    if (ended := _ENDED.fullmatch(reason)) is not None:
        return await _answered_before(look, run_closed(workflow_id, int(ended[1]), ended[2]))
    if reason.startswith(_EARLIER):
        return await _answered_before(look, refused)
    raise refused


def _completed(workflow_id: str, update_id: str, run: int, value: Raw | UnsetType) -> UpdateResult:
    return UpdateResult(workflow_id=workflow_id, update_id=update_id, status="completed", run=run, value=value)


def _failed(workflow_id: str, run: int, error: ErrorInfo) -> Refused:
    text = f"{error.type}: {error.message}" if error.message else error.type
    return Refused(UPDATE_FAILED, text, workflow_id=workflow_id, run=run, error=error)


UPDATES = [update_run]
