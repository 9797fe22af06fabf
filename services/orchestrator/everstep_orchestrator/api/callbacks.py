"""Callbacks: what an outside system says to a run, knowing nothing but a token.

The token is proved before anything else: it must be the one that follows from its run's nonce. Whoever has none learns
nothing, not even whether there is such a run. A completion is then made durable and its answer awaited, as an update's
is; one that comes again with the same `submission_id` is answered as the first was.
"""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Annotated, TypeAlias

from litestar import Response, post
from litestar.openapi import ResponseSpec
from litestar.params import FromPath, JSONBody, QueryParameter

from everstep._core.callbacks import token_of
from everstep.reads import CallbackResult
from everstep.stored_histories import StoredRun
from everstep_orchestrator.api.bodies import (
    CompleteRequest,
    FailRequest,
    HeartbeatRequest,
    JsonBody,
    check_size,
    name_or_new,
)
from everstep_orchestrator.api.dependencies import Api, Fact, FromProcess
from everstep_orchestrator.api.problems import CALLBACK_CLOSED, INVALID, NO_SUCH_CALLBACK, Refused, documented
from everstep_orchestrator.api.steering import REFUSALS
from everstep_orchestrator.api.waiting import answered, seconds_of, submit, watching
from everstep_schemas.names import Token
from everstep_schemas.wire import (
    CallbackProblem,
    CompleteCallback,
    FailCallback,
    HeartbeatCallback,
    LifecycleType,
)

Wait = Annotated[str, QueryParameter(description="How long to wait for the answer; 60 s at most.")]
_Look: TypeAlias = Callable[[], Awaitable[CallbackResult | None]]

_ANSWERS = (
    LifecycleType.CALLBACK_COMPLETED,
    LifecycleType.CALLBACK_FAILED,
    LifecycleType.SUBMISSION_REJECTED,
)
_REFUSALS = documented(NO_SUCH_CALLBACK, CALLBACK_CLOSED, *REFUSALS)
_UNANSWERED = {202: ResponseSpec(CallbackResult, description="Durable, not answered yet", generate_examples=False)}
_DOES_NOT_FIT = "the value does not fit"
_MOST_KEY = 1 << 63


@post(
    "/callbacks/{token:str}/complete",
    tags=["callbacks"],
    summary="Give a callback its value",
    dto=JsonBody[CompleteRequest],
    return_dto=None,
    status_code=200,
    responses=_UNANSWERED | _REFUSALS,
)
async def complete_callback(
    api: FromProcess, token: FromPath[str], data: JSONBody[CompleteRequest], wait: Wait = "10s"
) -> Response[CallbackResult]:
    check_size(api, "value", data.value)
    id = name_or_new("submission_id", data.submission_id)
    return await _settled(api, CompleteCallback(token=token, value=data.value, submission_id=id), id, seconds_of(wait))


@post(
    "/callbacks/{token:str}/fail",
    tags=["callbacks"],
    summary="Fail a callback",
    dto=JsonBody[FailRequest],
    return_dto=None,
    status_code=200,
    responses=_UNANSWERED | _REFUSALS,
)
async def fail_callback(
    api: FromProcess, token: FromPath[str], data: JSONBody[FailRequest], wait: Wait = "10s"
) -> Response[CallbackResult]:
    check_size(api, "message and type", data.message.encode(), data.type.encode())
    id = name_or_new("submission_id", data.submission_id)
    problem = CallbackProblem(message=data.message, type=data.type)
    return await _settled(api, FailCallback(token=token, error=problem, submission_id=id), id, seconds_of(wait))


@post(
    "/callbacks/{token:str}/heartbeat",
    tags=["callbacks"],
    summary="Say that the work for a callback goes on",
    dto=JsonBody[HeartbeatRequest],
    return_dto=None,
    status_code=202,
    responses=_REFUSALS,
)
async def beat_callback(api: FromProcess, token: FromPath[str], data: JSONBody[HeartbeatRequest]) -> CallbackResult:
    check_size(api, "details", data.details)
    run, _ = await _proved(api, token)
    if run.status != "running":
        raise _run_ended(run)
    await submit(api, HeartbeatCallback(token=token, details=data.details))
    return CallbackResult(status="accepted")


# ---- tokens


async def _proved(api: Api, text: str) -> tuple[StoredRun, Token]:
    """The run that a token belongs to. One that was made up takes as long to be refused as one of no run."""
    token = Token.parse(text) or Token(0, 0, 0, 0, "")
    run = await api.reader.histories.run_by_key(token.run_key if 0 <= token.run_key < _MOST_KEY else 0)
    nonce = "" if run is None else run.identity.nonce
    genuine = token_of(token.run_key, nonce, token.seq)
    if run is None or not hmac.compare_digest(genuine.encode(), text.encode()):
        raise Refused(NO_SUCH_CALLBACK, "no callback has this token: use it as it was given out, to its last character")
    return run, token


# ---- completions


async def _settled(
    api: Api, submission: CompleteCallback | FailCallback, id: str, seconds: float
) -> Response[CallbackResult]:
    run, token = await _proved(api, submission.token)
    look = partial(_look, api, run.identity.run_key, token.seq, id)
    if run.status != "running":
        return Response(await _settled_before(look, _run_ended(run)))

    def wanted(fact: Fact) -> bool:
        return fact.body.submission_id == id and fact.type in _ANSWERS

    async with watching(api, run.identity.workflow_id) as watch:
        await submit(api, submission)
        answer = await answered(api, watch, wanted, look, seconds)
    if answer is None:
        return Response(CallbackResult(submission_id=id, status="accepted"), status_code=202)
    if isinstance(answer, CallbackResult):
        return Response(answer)
    if answer.type == LifecycleType.SUBMISSION_REJECTED:
        return Response(await _rejected(look, answer.body.reason or "rejected without a reason"))
    return Response(CallbackResult(submission_id=id, status="applied"))


async def _look(api: Api, run_key: int, seq: int, id: str) -> CallbackResult | None:
    """Success, if this very submission has settled the callback before."""
    settled = await api.reader.histories.closed_by(run_key, seq, id)
    return CallbackResult(submission_id=id, status="applied") if settled else None


async def _settled_before(look: _Look, otherwise: Refused) -> CallbackResult:
    found = await look()
    if found is None:
        raise otherwise
    return found


async def _rejected(look: _Look, reason: str) -> CallbackResult:
    if reason.startswith(_DOES_NOT_FIT):
        raise Refused(INVALID, reason)
    return await _settled_before(look, Refused(CALLBACK_CLOSED, reason))


def _run_ended(run: StoredRun) -> Refused:
    return Refused(CALLBACK_CLOSED, f"nobody waits for it any more: its run has ended ({run.status})")


CALLBACKS = [complete_callback, fail_callback, beat_callback]
