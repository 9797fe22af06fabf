"""The client: starts runs, steers and asks them, awaits what they return.

With `EVERSTEP_API_URL` it uses the HTTP API for everything. With Kafka alone it starts, signals, updates, cancels and
terminates runs, settles callbacks, and awaits the results of runs that it started.
"""

from __future__ import annotations

import dataclasses
import uuid
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, overload

from msgspec import UNSET, Raw
from typing_extensions import TypeVarTuple, Unpack

from everstep._client import transport_of
from everstep._client.transport import Ended, Transport
from everstep._core.attributes import AttributeValue, stored
from everstep._core.children import ChildHandle
from everstep._core.payloads import codec_for
from everstep._error_infos import CALLBACK_FAILED, exception_of
from everstep.errors import Rejected, RunCancelled, RunError, RunFailed, RunTerminated, RunTimedOut
from everstep.queries import Query, Update
from everstep.settings import Settings, SettingsError
from everstep.signals import Signal
from everstep.workflows import Workflow
from everstep_schemas import events, wire
from everstep_schemas.names import why_bad_name
from everstep_schemas.wire import NULL, OnDuplicate

if TYPE_CHECKING:  # what describes runs is read with asyncpg, which most clients never need
    from typing_extensions import TypeForm

    from everstep.reads import Filter, HistoryEvent, RunDescription, RunSummary

T = TypeVar("T")
R = TypeVar("R")
A = TypeVar("A")
R_co = TypeVar("R_co", covariant=True)
Ts = TypeVarTuple("Ts")

_NOTHING: Mapping[str, Any] = MappingProxyType({})


class Run(Generic[R_co]):
    """A run, or the newest run of an id; from `Client.start` or `Client.run`."""

    def __init__(
        self, transport: Transport, id: str, decode: Callable[[Raw], R_co], ended: Callable[[], Awaitable[Ended]]
    ) -> None:
        self._transport = transport
        self._id = id
        self._decode = decode
        self._ended = ended

    @property
    def id(self) -> str:
        """The workflow id."""
        return self._id

    async def result(self, *, timeout: timedelta | None = None) -> R_co:
        """What the run returned, once it has.

        Raises `TimeoutError` if it still runs after `timeout`; `RunFailed`, `RunCancelled`, `RunTerminated` or
        `RunTimedOut` if it ended otherwise; `RunNotFound` if there is no such run. May be called again, and by several
        tasks at once.
        """
        ended = await self._within(timeout, self._ended, f"run {self._id!r} is still running after {timeout}")
        if ended.status != "completed":
            raise _error(ended)
        return self._decode(NULL if ended.value is UNSET else ended.value)

    @overload
    async def signal(self, signal: Signal[T], value: T, /, *, signal_id: str | None = None) -> None: ...
    @overload
    async def signal(self, signal: str, value: Any = None, /, *, signal_id: str | None = None) -> None: ...
    async def signal(self, signal: Signal[Any] | str, value: Any = None, /, *, signal_id: str | None = None) -> None:
        """Sends a signal; on return it is durable, but may not have been applied yet.

        The same `signal_id` is applied once however often it is sent; without one this call is applied once. Over HTTP
        it raises `RunNotFound`, and `Rejected` if the run has ended; over Kafka alone nobody answers.
        """
        name, codec = (signal, codec_for(Any)) if isinstance(signal, str) else (signal.name, signal.codec)
        await self._transport.send(
            wire.Signal(
                workflow_id=self._id,
                name=_checked("signal", name),
                value=Raw(codec.encode(value)),
                signal_id=_identity("signal_id", signal_id),
            )
        )

    async def _within(self, timeout: timedelta | None, waiting: Callable[[], Awaitable[T]], message: str) -> T:
        limited = None if timeout is None else _duration(timeout)
        try:
            async with self._transport.limit(limited) as limit:
                return await waiting()
        except TimeoutError:
            if not limit.expired():
                raise
            raise TimeoutError(message) from None

    @overload
    async def query(self, query: Query[R], /) -> R: ...
    @overload
    async def query(self, query: str, /, *args: Any, returns: TypeForm[T]) -> T: ...
    @overload
    async def query(self, query: str, /, *args: Any) -> Any: ...
    async def query(self, query: Query[Any] | str, /, *args: Any, returns: Any = Any) -> Any:
        """What the run's code answers, as of its last stored event; also once it has ended. Needs the HTTP API.

        Raises `QueryError` if it has no answer, `RunNotFound` if there is no such run.
        """
        name, codec = (query, codec_for(returns)) if isinstance(query, str) else (query.name, query.codec)
        encoded = codec_for(list[Any]).encode([*args])
        return codec.decode(await self._transport.query(self._id, _checked("query", name), encoded))

    @overload
    async def update(
        self, update: Update[A, R], value: A, /, *, update_id: str | None = None, timeout: timedelta | None = None
    ) -> R: ...
    @overload
    async def update(
        self, update: str, value: Any = None, /, *, update_id: str | None = None, timeout: timedelta | None = None
    ) -> Any: ...
    async def update(
        self,
        update: Update[Any, Any] | str,
        value: Any = None,
        /,
        *,
        update_id: str | None = None,
        timeout: timedelta | None = None,
    ) -> Any:
        """Asks the run to do something, and waits for its answer.

        The same `update_id` is done once and answered the same however often it is sent; without one each call is its
        own. Raises `UpdateRejected` if the run's code does not accept it, `UpdateFailed` if it cannot be carried out,
        `TimeoutError` if there is no answer after `timeout`: it may still be done; `RunNotFound` if there is no run and
        `Rejected` if it has ended. Over Kafka alone, what a run answered that has ended since cannot be had again.
        """
        name, takes, gives = (
            (update, codec_for(Any), codec_for(Any))
            if isinstance(update, str)
            else (update.name, update.codec, update.result_codec)
        )
        asked = wire.Update(
            workflow_id=self._id,
            name=_checked("update", name),
            value=Raw(takes.encode(value)),
            update_id=_identity("update_id", update_id),
        )
        late = f"run {self._id!r} has not answered update {name!r} after {timeout}"
        return gives.decode(await self._within(timeout, lambda: self._transport.update(asked), late))

    async def cancel(self, reason: str = "") -> None:
        """Asks the run to end: its code sees `CancelledError` and may still clean up. Answers as `signal` does."""
        await self._transport.send(wire.Cancel(workflow_id=self._id, reason=reason))

    async def terminate(self, reason: str = "") -> None:
        """Ends the run without asking its code. Answers as `signal` does."""
        await self._transport.send(wire.Terminate(workflow_id=self._id, reason=reason))

    async def describe(self) -> RunDescription:
        """What is stored about the newest run of this id. Needs the HTTP API."""
        return await self._transport.describe(self._id)

    def history(self) -> AsyncIterator[HistoryEvent]:
        """The events of the newest run of this id, in order. Needs the HTTP API."""
        return self._transport.history(self._id)

    def __repr__(self) -> str:
        return f"Run({self._id!r})"


class CallbackClient:
    """Whoever holds a callback's token; from `Client.callback`."""

    def __init__(self, transport: Transport, token: str) -> None:
        self._transport = transport
        self._token = token

    async def complete(self, value: Any = None, /, *, submission_id: str | None = None) -> None:
        """Gives the callback its value; on return it is durable.

        The same `submission_id` counts once however often it is sent; without one this call counts once. Over HTTP it
        raises `CallbackClosed` if the callback was settled before or nobody waits for it any more, and `Rejected` if
        there is none with this token or the value is not of its type; over Kafka alone nobody answers.
        """
        await self._transport.callback(
            wire.CompleteCallback(
                token=self._token,
                value=Raw(codec_for(Any).encode(value)),
                submission_id=_identity("submission_id", submission_id),
            )
        )

    async def fail(self, message: str, /, *, type: str = CALLBACK_FAILED, submission_id: str | None = None) -> None:
        """Fails the callback: its run sees a `CallbackError` of this `type`. Answers as `complete` does."""
        await self._transport.callback(
            wire.FailCallback(
                token=self._token,
                error=wire.CallbackProblem(message=message, type=type),
                submission_id=_identity("submission_id", submission_id),
            )
        )

    async def heartbeat(self, details: Any = None, /) -> None:
        """Says that the work goes on: the callback's `heartbeat_timeout` begins anew. On return it is durable."""
        await self._transport.callback(
            wire.HeartbeatCallback(token=self._token, details=Raw(codec_for(Any).encode(details)))
        )


class Client:
    """Use as `async with Client() as client`. Settings come from the environment, arguments go before them.

    Safe to share between any number of tasks of one event loop. With a `transport` that leads to an installation
    already, such as that of a test, nothing else is looked at.
    """

    def __init__(
        self,
        *,
        kafka_bootstrap: str | None = None,
        api_url: str | None = None,
        settings: Settings | None = None,
        transport: Transport | None = None,
    ) -> None:
        self._transport = _transport(settings, kafka_bootstrap, api_url) if transport is None else transport

    async def __aenter__(self) -> Self:
        await self._transport.open()
        return self

    async def __aexit__(
        self, type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        await self._transport.close()

    @overload
    async def start(
        self,
        workflow: Callable[[Unpack[Ts]], ChildHandle[R]],
        /,
        *args: *Ts,
        id: str,
        attributes: Mapping[str, AttributeValue] = _NOTHING,
        version: int | None = None,
        memo: Mapping[str, Any] = _NOTHING,
        submission_id: str | None = None,
        start_at: datetime | None = None,
        timeout: timedelta | None = None,
        on_duplicate: OnDuplicate = "reject",
        with_signal: tuple[Signal[Any] | str, Any] | None = None,
    ) -> Run[R]: ...
    @overload
    async def start(
        self,
        workflow: str,
        /,
        *args: Any,
        returns: TypeForm[T],
        id: str,
        attributes: Mapping[str, AttributeValue] = _NOTHING,
        version: int | None = None,
        memo: Mapping[str, Any] = _NOTHING,
        submission_id: str | None = None,
        start_at: datetime | None = None,
        timeout: timedelta | None = None,
        on_duplicate: OnDuplicate = "reject",
        with_signal: tuple[Signal[Any] | str, Any] | None = None,
    ) -> Run[T]: ...
    @overload
    async def start(
        self,
        workflow: str,
        /,
        *args: Any,
        id: str,
        attributes: Mapping[str, AttributeValue] = _NOTHING,
        version: int | None = None,
        memo: Mapping[str, Any] = _NOTHING,
        submission_id: str | None = None,
        start_at: datetime | None = None,
        timeout: timedelta | None = None,
        on_duplicate: OnDuplicate = "reject",
        with_signal: tuple[Signal[Any] | str, Any] | None = None,
    ) -> Run[Any]: ...
    async def start(  # type: ignore[misc]  # mypy does not see that `*args: Any` takes `*Ts`
        self,
        workflow: Any,
        /,
        *args: Any,
        returns: Any = Any,
        id: str,
        attributes: Mapping[str, AttributeValue] = _NOTHING,
        version: int | None = None,
        memo: Mapping[str, Any] = _NOTHING,
        submission_id: str | None = None,
        start_at: datetime | None = None,
        timeout: timedelta | None = None,
        on_duplicate: OnDuplicate = "reject",
        with_signal: tuple[Signal[Any] | str, Any] | None = None,
    ) -> Run[Any]:
        """Starts a run and returns once it exists, or, if its code is not there yet, is stored and waits for it.

        While no orchestrator runs, nobody answers: bound the wait with `asyncio.timeout`, and start again with the same
        `submission_id` to learn what became of it.

        The same `submission_id` starts one run however often it is sent; without one each call is its own submission.
        `on_duplicate` says what happens if the id has a run: `"reject"` raises `RunAlreadyExists`, `"return_existing"`
        gives that run, `"allow_closed"` starts another if it has ended, `"terminate_existing"` ends it first. Without
        `version` the highest there is runs.

        The code begins at `start_at`, or at once, and the run is closed as timed out `timeout` after that. `attributes`
        can be searched for, the `memo` is only kept. The signal in `with_signal` reaches the run that answers, whether
        it is new or was open before. Raises `PayloadError` for arguments that do not fit, `Rejected` for what
        cannot be started.
        """
        name, encoded, decode = _call(workflow, args, returns)
        start = wire.Start(
            workflow_id=_checked("id", id),
            workflow=_checked("workflow", name),
            args=Raw(encoded),
            version=version,
            on_duplicate=on_duplicate,
            attributes=_stored(attributes),
            memo={name: Raw(codec_for(Any).encode(value)) for name, value in memo.items()},
            start_at=_in_utc(start_at),
            timeout_seconds=None if timeout is None else _duration(timeout).total_seconds(),
            with_signal=None if with_signal is None else _first_signal(*with_signal),
            submission_id=_identity("submission_id", submission_id),
        )
        started = await self._transport.start(start)
        run = Run(self._transport, id, decode, started.ended)
        weakref.finalize(run, started.forget).atexit = False
        return run

    @overload
    def run(self, id: str, /, of: Workflow[..., R]) -> Run[R]: ...
    @overload
    def run(self, id: str, /) -> Run[Any]: ...
    def run(self, id: str, /, of: Workflow[..., Any] | None = None) -> Run[Any]:
        """The newest run of an id, without asking whether there is one. `of` types its result."""
        _checked("id", id)
        decode = codec_for(Any).decode if of is None else of.decode_result
        return Run(self._transport, id, decode, lambda: self._transport.ended(id))

    def callback(self, token: str, /) -> CallbackClient:
        """The callback that has this token, to complete or fail."""
        return CallbackClient(self._transport, token)

    def list(
        self,
        *,
        workflow: str | None = None,
        status: Filter | None = None,
        attributes: Mapping[str, AttributeValue] = _NOTHING,
        limit: int | None = None,
    ) -> AsyncIterator[RunSummary]:
        """Runs, newest first: of one workflow, of one status or condition, at most `limit`. Needs the HTTP API.

        Of `attributes` a run has all, with these values; of a list the items given are among the run's.
        """
        return self._transport.runs(workflow, status, limit, _stored(attributes))


def _call(workflow: Workflow[..., Any] | str, args: tuple[Any, ...], returns: Any) -> tuple[str, bytes, Any]:
    """The name, the arguments as JSON, and what reads the result."""
    if isinstance(workflow, str):
        return workflow, codec_for(Any).encode([*args]), codec_for(returns).decode
    return workflow.name, workflow.encode_args(args, {})[0], workflow.decode_result


def _transport(settings: Settings | None, kafka_bootstrap: str | None, api_url: str | None) -> Transport:
    settings = Settings.from_environment() if settings is None else settings
    if api_url is not None:
        settings = dataclasses.replace(settings, api_url=api_url)
    elif kafka_bootstrap is not None:
        settings = dataclasses.replace(settings, kafka_bootstrap=kafka_bootstrap, api_url="")
    if not settings.api_url and not settings.kafka_bootstrap:
        raise SettingsError(
            ["neither EVERSTEP_API_URL nor EVERSTEP_KAFKA_BOOTSTRAP is set: a client needs one of them"]
        )
    return transport_of(settings)


def _in_utc(at: datetime | None) -> datetime | None:
    if at is None:
        return None
    if not isinstance(at, datetime):
        raise TypeError(f"start_at is an instant such as datetime(…, tzinfo=UTC), not {at!r}")
    if at.tzinfo is None:
        raise Rejected("start_at has no time zone: datetime(…, tzinfo=UTC)")
    return at.astimezone(UTC)


def _duration(timeout: timedelta) -> timedelta:
    if not isinstance(timeout, timedelta):
        raise TypeError(f"timeout is a duration such as seconds(30), not {timeout!r}")
    return timeout


def _stored(attributes: Mapping[str, AttributeValue]) -> dict[str, events.AttributeValue]:
    """Attributes as they are kept; `TypeError` or `ValueError` for what cannot be."""
    return {name: stored(name, value) for name, value in attributes.items()}


def _first_signal(signal: Signal[Any] | str, value: Any) -> wire.FirstSignal:
    name, codec = (signal, codec_for(Any)) if isinstance(signal, str) else (signal.name, signal.codec)
    return wire.FirstSignal(name=_checked("signal", name), value=Raw(codec.encode(value)))


def _identity(what: str, given: str | None) -> str:
    """The identity of what is sent, drawn if none is given. An empty one is a mistake: it would count twice."""
    return uuid.uuid4().hex if given is None else _checked(what, given)


def _checked(what: str, name: str) -> str:
    if why := why_bad_name(name):
        raise ValueError(f"{what} {name[:100]!r} {why}")
    return name


def _error(ended: Ended) -> RunError:
    where: dict[str, Any] = {"workflow_id": ended.workflow_id, "run": ended.run}
    because = f": {ended.reason}" if ended.reason else ""
    how = "has reached its timeout" if ended.status == "timed_out" else f"was {ended.status}"
    message = f"run {ended.workflow_id!r} {how}{because}"
    if ended.error is not None:
        return RunFailed(type=ended.error.type, cause=exception_of(ended.error), **where)
    kinds = {"cancelled": RunCancelled, "terminated": RunTerminated, "timed_out": RunTimedOut}
    return kinds.get(ended.status, RunError)(message, **where)
