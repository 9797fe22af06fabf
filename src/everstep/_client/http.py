"""Everything over the HTTP API of the orchestrators; any of them answers for all runs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, TypeVar
from urllib.parse import quote

import httpx
import msgspec
from msgspec import UNSET, Raw, UnsetType

from everstep._client.transport import NO_ATTRIBUTES, Ended, Started, real_time, update_failure, update_refusal
from everstep.errors import (
    CallbackClosed,
    EverstepError,
    NotReachable,
    QueryError,
    Rejected,
    RunAlreadyExists,
    RunNotFound,
)
from everstep.reads import (
    CallbackResult,
    Filter,
    HistoryEvent,
    HistoryPage,
    QueryList,
    RunDescription,
    RunPage,
    RunResult,
    RunSummary,
    UpdateResult,
)
from everstep.settings import Settings
from everstep_schemas.errors import ErrorInfo
from everstep_schemas.events import AttributeValue
from everstep_schemas.wire import (
    NULL,
    CallbackSubmission,
    Cancel,
    CompleteCallback,
    FailCallback,
    FirstSignal,
    HeartbeatCallback,
    OnDuplicate,
    Signal,
    Start,
    Terminate,
    Update,
)

T = TypeVar("T")

_Query = Mapping[str, str | int | Sequence[str] | None]

_WAIT_SECONDS = 30
_WAIT = f"{_WAIT_SECONDS}s"
# For how long an API that has answered before may be away while somebody waits, and how often it is asked again.
_LOST_SECONDS = 60.0
_PAUSE_SECONDS = 0.5
_PAGE = 500
_PROBLEM = "urn:everstep:problem:"


class _StartBody(msgspec.Struct, kw_only=True, omit_defaults=True):
    workflow: str
    workflow_id: str
    args: Raw
    kwargs: Raw | UnsetType = UNSET
    version: int | None = None
    on_duplicate: OnDuplicate = "reject"
    submission_id: str | None = None
    attributes: dict[str, AttributeValue] = {}
    memo: dict[str, Raw] = {}
    start_at: datetime | None = None
    timeout_seconds: float | None = None
    with_signal: FirstSignal | None = None


class _SignalBody(msgspec.Struct):
    value: Raw
    signal_id: str | None = None


class _UpdateBody(msgspec.Struct):
    value: Raw
    update_id: str | None


class _CompleteBody(msgspec.Struct):
    value: Raw
    submission_id: str | None


class _FailBody(msgspec.Struct):
    message: str
    type: str
    submission_id: str | None


class _HeartbeatBody(msgspec.Struct):
    details: Raw


class _ReasonBody(msgspec.Struct):
    reason: str


class _Problem(msgspec.Struct):
    type: str = ""
    detail: str = ""
    workflow_id: str | None = None
    error: ErrorInfo | None = None


class _Unanswered(Exception):
    """Nothing is known yet; asking again is safe."""


class _Refused(Exception):
    """An update was not accepted, for this reason."""


class _Failed(Exception):
    """An update could not be carried out."""

    def __init__(self, error: ErrorInfo) -> None:
        super().__init__(error.type)
        self.error = error


class HttpTransport:
    """A client of `EVERSTEP_API_URL`."""

    def __init__(self, settings: Settings) -> None:
        self._url = settings.api_url
        self._reached = False
        timeout = httpx.Timeout(10.0, read=_WAIT_SECONDS + 15.0, pool=None)
        self._http = httpx.AsyncClient(base_url=f"{self._url.rstrip('/')}/api/v1", timeout=timeout)

    async def open(self) -> None:
        """Connects when first asked."""

    async def close(self) -> None:
        await self._http.aclose()

    async def start(self, start: Start) -> Started:
        body = _StartBody(**{name: getattr(start, name) for name in _StartBody.__struct_fields__})
        run = (await self._persist("POST", "/runs", RunDescription, {"wait": _WAIT}, body)).run

        async def ended() -> Ended:
            return await self._last(start.workflow_id, run)

        return Started(run, ended, _nothing_to_forget)

    async def send(self, submission: Signal | Cancel | Terminate) -> None:
        path = _path(submission.workflow_id)
        match submission:
            case Signal(name=name, value=value, signal_id=signal_id):
                await self._ask("POST", f"{path}/signals/{quote(name, safe='')}", body=_SignalBody(value, signal_id))
            case Cancel(reason=reason):
                await self._ask("POST", f"{path}/cancel", body=_ReasonBody(reason))
            case Terminate(reason=reason):
                await self._ask("POST", f"{path}/terminate", body=_ReasonBody(reason))

    async def ended(self, workflow_id: str, run: int | None = None) -> Ended:
        return await (self._last(workflow_id, None) if run is None else self._ended(workflow_id, run))

    async def _last(self, workflow_id: str, run: int | None) -> Ended:
        """The end of a run, or of the last of those that go on with its work."""
        ended = await self._ended(workflow_id, run)
        while ended.last_run is not None:
            ended = await self._ended(workflow_id, ended.last_run)
        return ended

    async def _ended(self, workflow_id: str, run: int | None) -> Ended:
        """Asks again and again, each time for as long as the server lets us wait."""
        while True:
            query = {"wait": _WAIT, "run": run}
            found = await self._persist("GET", f"{_path(workflow_id)}/result", RunResult, query)
            if found.status != "running":
                end = (found.value, found.error, found.reason, found.next_run, found.last_run)
                return Ended(workflow_id, found.run, found.status, *end)
            run = found.run

    async def query(self, workflow_id: str, name: str, args: bytes, run: int | None = None) -> Raw:
        path = f"{_path(workflow_id)}/queries/{quote(name, safe='')}"
        return await self._persist("GET", path, Raw, {"args": args.decode(), "run": run})

    async def queries(self, workflow_id: str, run: int | None = None) -> list[str]:
        """The names of the queries that a run answers, the id's newest by default; raises `RunNotFound`."""
        return (await self._persist("GET", f"{_path(workflow_id)}/queries", QueryList, {"run": run})).queries

    async def update(self, update: Update) -> Raw:
        """Asks again and again with the same id, which is carried out once."""
        path = f"{_path(update.workflow_id)}/updates/{quote(update.name, safe='')}"
        body = _UpdateBody(update.value, update.update_id)
        try:
            while True:
                result = await self._persist("POST", path, UpdateResult, {"wait": _WAIT}, body)
                if result.status == "completed":
                    return NULL if result.value is UNSET else result.value
        except _Refused as refused:
            raise update_refusal(update, str(refused)) from None
        except _Failed as failed:
            raise update_failure(update, failed.error) from None

    async def callback(self, submission: CallbackSubmission) -> None:
        path = f"/callbacks/{quote(submission.token, safe='')}"
        match submission:
            case CompleteCallback(value=value, submission_id=id):
                await self._settle(f"{path}/complete", _CompleteBody(value, id))
            case FailCallback(error=error, submission_id=id):
                await self._settle(f"{path}/fail", _FailBody(error.message, error.type, id))
            case HeartbeatCallback(details=details):
                await self._ask("POST", f"{path}/heartbeat", body=_HeartbeatBody(details))

    async def _settle(self, path: str, body: _CompleteBody | _FailBody) -> None:
        """Waits for the answer once: a run that cannot run now has the submission when it can."""
        await self._persist("POST", path, CallbackResult, {"wait": _WAIT}, body)

    def limit(self, timeout: timedelta | None) -> asyncio.Timeout:
        return real_time(timeout)

    async def describe(self, workflow_id: str, run: int | None = None) -> RunDescription:
        return await self._get(_path(workflow_id), RunDescription, {"run": run})

    async def history(self, workflow_id: str, run: int | None = None) -> AsyncIterator[HistoryEvent]:
        after: int | None = 0
        while after is not None:
            query = {"after": after, "limit": _PAGE, "run": run}
            page = await self._get(f"{_path(workflow_id)}/history", HistoryPage, query)
            for event in page.events:
                yield event
            after, run = page.next_after, page.run

    async def runs(
        self,
        workflow: str | None,
        status: Filter | None,
        limit: int | None,
        attributes: Mapping[str, AttributeValue] = NO_ATTRIBUTES,
    ) -> AsyncIterator[RunSummary]:
        cursor: str | None = None
        wanted = [f"{name}={msgspec.json.encode(value).decode()}" for name, value in attributes.items()]
        left = limit
        while left is None or left > 0:
            size = _PAGE if left is None else min(left, _PAGE)
            query: _Query = {
                "workflow": workflow,
                "status": status,
                "limit": size,
                "cursor": cursor,
                "attribute": wanted,
            }
            page = await self._get("/runs", RunPage, query)
            for run in page.runs:
                yield run
            if page.cursor is None:
                return
            left, cursor = left and left - len(page.runs), page.cursor

    async def _persist(self, method: str, path: str, type: type[T], query: _Query, body: Any = None) -> T:
        """Asks until there is an answer, also while orchestrators are being replaced: asking again is safe here."""
        lost_at: float | None = None
        while True:
            try:
                return msgspec.json.decode(await self._ask(method, path, query, body), type=type)
            except _Unanswered:
                lost_at = None
            except NotReachable:
                now = time.monotonic()
                lost_at = now if lost_at is None else lost_at
                if not self._reached or now - lost_at > _LOST_SECONDS:
                    raise
                await asyncio.sleep(_PAUSE_SECONDS)

    async def _get(self, path: str, type: type[T], query: _Query) -> T:
        return msgspec.json.decode(await self._ask("GET", path, query), type=type)

    async def _ask(self, method: str, path: str, query: _Query | None = None, body: Any = None) -> bytes:
        given: Any = {name: value for name, value in (query or {}).items() if value is not None}
        headers = {} if body is None else {"content-type": "application/json"}
        content = None if body is None else msgspec.json.encode(body)
        try:
            response = await self._http.request(method, path, params=given, content=content, headers=headers)
        except httpx.HTTPError as error:
            raise NotReachable(
                f"the API at {self._url} does not answer ({str(error) or type(error).__name__}): check EVERSTEP_API_URL"
                " and that an orchestrator runs there"
            ) from error
        self._reached = True
        if response.is_error:
            raise self._problem(response)
        return response.content

    def _problem(self, response: httpx.Response) -> Exception:
        try:
            problem = msgspec.json.decode(response.content, type=_Problem)
        except msgspec.MsgspecError:
            return NotReachable(f"{self._url} answers {response.status_code}: is it the API of an orchestrator?")
        kind, detail = problem.type.removeprefix(_PROBLEM), problem.detail
        if kind == "unanswered":
            return _Unanswered(detail)
        if kind == "duplicate-run":
            return RunAlreadyExists(detail, workflow_id=problem.workflow_id or "")
        if kind == "no-such-run":
            return RunNotFound(detail, workflow_id=problem.workflow_id or "")
        if kind == "update-failed":
            return _Failed(problem.error or ErrorInfo(type="Unknown", message=detail))
        if kind in _ERRORS:
            return _ERRORS[kind](detail)
        if response.is_client_error:
            return Rejected(detail)
        return (
            NotReachable(detail) if response.status_code == httpx.codes.SERVICE_UNAVAILABLE else EverstepError(detail)
        )


_ERRORS: dict[str, type[Exception]] = {
    "no-such-query": QueryError,
    "query-failed": QueryError,
    "cannot-replay": QueryError,
    "no-code": QueryError,
    "update-rejected": _Refused,
    "callback-closed": CallbackClosed,
}


def _path(workflow_id: str) -> str:
    return f"/runs/{quote(workflow_id, safe='')}"


def _nothing_to_forget() -> None:
    """The server remembers nothing of who waits."""
