"""Every error of the HTTP API is a problem (RFC 9457): a kind for programs, a detail that teaches people."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec
import structlog
from litestar import Request, Response
from litestar.exceptions import HTTPException
from litestar.openapi import ResponseSpec

from everstep.reads import DatabaseUnavailable, InvalidCursor
from everstep_schemas.errors import ErrorInfo

PROBLEM_JSON = "application/problem+json"
_RETRY_SECONDS = "1"

logger = structlog.stdlib.get_logger(__name__)


class Problem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Why a request was not done. `type` names the kind and never changes; `detail` says what happened and what to do.

    The ids are those of the run that stands in the way, or of a start that nobody has answered yet. `error` is what an
    update ended with; `expected` is what a history holds at its event `seq`, `got` what the code does instead.
    """

    type: str
    title: str
    status: int
    detail: str
    instance: str = ""
    workflow_id: str | None = None
    run: int | None = None
    submission_id: str | None = None
    error: ErrorInfo | None = None
    expected: str | None = None
    got: str | None = None
    seq: int | None = None


class Kind(NamedTuple):
    """One kind of problem."""

    status: int
    name: str
    title: str


MALFORMED = Kind(400, "malformed", "The request cannot be read")
NO_SUCH_PATH = Kind(404, "no-such-path", "There is nothing at this path")
NO_SUCH_RUN = Kind(404, "no-such-run", "There is no such run")
NO_SUCH_QUERY = Kind(404, "no-such-query", "The run answers no such query")
NO_SUCH_CALLBACK = Kind(404, "no-such-callback", "There is no such callback")
METHOD_NOT_ALLOWED = Kind(405, "method-not-allowed", "The path does not take this method")
DUPLICATE = Kind(409, "duplicate-run", "The id has a run already")
RUN_CLOSED = Kind(409, "run-closed", "The run has ended")
UPDATE_REJECTED = Kind(409, "update-rejected", "The run does not accept the update")
CALLBACK_CLOSED = Kind(409, "callback-closed", "The callback is closed")
CANNOT_REPLAY = Kind(409, "cannot-replay", "The code does not repeat what the run did")
TOO_LARGE = Kind(413, "too-large", "The request is too large")
NOT_JSON = Kind(415, "not-json", "The body is not declared as JSON")
INVALID = Kind(422, "invalid", "The request asks for something impossible")
QUERY_FAILED = Kind(422, "query-failed", "The run has no answer to the query")
UPDATE_FAILED = Kind(422, "update-failed", "The run could not carry the update out")
INTERNAL = Kind(500, "internal", "The orchestrator failed")
DATABASE_UNAVAILABLE = Kind(503, "database-unavailable", "Postgres does not answer")
KAFKA_UNAVAILABLE = Kind(503, "kafka-unavailable", "Kafka does not answer")
NO_CODE = Kind(503, "no-code", "No orchestrator has the run's code")
BUSY = Kind(503, "busy", "There is no time for the question now")
UNANSWERED = Kind(504, "unanswered", "Accepted, not yet answered")

KINDS = tuple(value for value in globals().copy().values() if isinstance(value, Kind))
_BY_STATUS = {kind.status: kind for kind in (MALFORMED, NO_SUCH_PATH, METHOD_NOT_ALLOWED, TOO_LARGE, INTERNAL)}


class Refused(Exception):
    """Ends the handling of a request with a problem; `ids` are the problem's further fields."""

    def __init__(self, kind: Kind, detail: str, **ids: Any) -> None:
        super().__init__(detail)
        self.kind = kind
        self.detail = detail
        self.ids = ids


def documented(*kinds: Kind) -> dict[int, ResponseSpec]:
    """The problems of an operation for the OpenAPI document."""
    titles: dict[int, list[str]] = {}
    for kind in kinds:
        titles.setdefault(kind.status, []).append(kind.title)
    return {
        status: ResponseSpec(Problem, description="; ".join(words), media_type=PROBLEM_JSON, generate_examples=False)
        for status, words in titles.items()
    }


AnyRequest = Request[Any, Any, Any]


def response(request: AnyRequest, kind: Kind, detail: str, **ids: Any) -> Response[Problem]:
    problem = Problem(
        type=f"urn:everstep:problem:{kind.name}",
        title=kind.title,
        status=kind.status,
        detail=detail,
        instance=request.scope["raw_path"].decode("ascii", "replace"),
        **ids,
    )
    headers = {"retry-after": _RETRY_SECONDS} if kind.status in (503, 504) else {}
    return Response(problem, status_code=kind.status, media_type=PROBLEM_JSON, headers=headers)


def _refused(request: AnyRequest, error: Refused) -> Response[Problem]:
    return response(request, error.kind, error.detail, **error.ids)


def _database_unavailable(request: AnyRequest, error: DatabaseUnavailable) -> Response[Problem]:
    return response(request, DATABASE_UNAVAILABLE, str(error))


def _invalid_cursor(request: AnyRequest, error: InvalidCursor) -> Response[Problem]:
    return response(request, INVALID, str(error))


def _of_litestar(request: AnyRequest, error: HTTPException) -> Response[Problem]:
    """What Litestar itself refuses: paths, methods, sizes, and parameters that do not fit their types."""
    if isinstance(error.extra, list) and error.extra:
        wrong = "; ".join(f"{item.get('key', 'body')}: {item.get('message')}" for item in error.extra)
        return response(request, INVALID, wrong)
    kind = _BY_STATUS.get(error.status_code, MALFORMED)
    answer = response(request, kind, _DETAILS.get(kind, error.detail))
    answer.headers.update(error.headers or {})
    return answer


_DETAILS = {
    NO_SUCH_PATH: "nothing is here: the paths are listed at /openapi.json, and an id is one percent-encoded segment",
    METHOD_NOT_ALLOWED: "this path does not take this method: the header `allow` lists those it does",
    TOO_LARGE: "the body is larger than EVERSTEP_MAX_PAYLOAD_BYTES allows: pass a reference to large data instead",
}


def _unexpected(request: AnyRequest, error: Exception) -> Response[Problem]:
    logger.error("http request failed", path=request.scope["path"], exc_info=error)
    return response(request, INTERNAL, f"{type(error).__name__}: the orchestrator's log has the details")


EXCEPTION_HANDLERS: Any = {
    Refused: _refused,
    DatabaseUnavailable: _database_unavailable,
    InvalidCursor: _invalid_cursor,
    HTTPException: _of_litestar,
    Exception: _unexpected,
}
