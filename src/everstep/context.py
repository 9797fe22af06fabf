"""What a workflow's code sees of its run: time, ids, randomness, waiting, signals, status, log.

All of it is a function of the run's history, so that a replay sees the same.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, overload
from uuid import UUID

from msgspec import Raw

from everstep._core.handles import Handle
from everstep._core.payloads import codec_for
from everstep._core.ports import WorkflowCode
from everstep._core.scope import Scope, current
from everstep._core.signals import NO_DEFAULT
from everstep._core.timers import LAST_INSTANT, instant, micros
from everstep.durations import Duration
from everstep.errors import NondeterminismError

if TYPE_CHECKING:
    from typing_extensions import TypeForm

    from everstep.retry import Retry
    from everstep.signals import Signal

T = TypeVar("T")
D = TypeVar("D")


@dataclass(frozen=True, slots=True)
class RunInfo:
    """Which run this is. `history_events` counts its events so far."""

    workflow: str
    workflow_id: str
    run: int
    version: int
    started_at: datetime
    history_events: int


class Log(Protocol):
    """A log whose lines carry the run's id and are written once, not again on replay."""

    def debug(self, event: str, /, **fields: object) -> None: ...
    def info(self, event: str, /, **fields: object) -> None: ...
    def warning(self, event: str, /, **fields: object) -> None: ...
    def error(self, event: str, /, **fields: object) -> None: ...


class _RunLog:
    __slots__ = ("_scope",)

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    def debug(self, event: str, /, **fields: object) -> None:
        self._scope.log("debug", event, fields)

    def info(self, event: str, /, **fields: object) -> None:
        self._scope.log("info", event, fields)

    def warning(self, event: str, /, **fields: object) -> None:
        self._scope.log("warning", event, fields)

    def error(self, event: str, /, **fields: object) -> None:
        self._scope.log("error", event, fields)


class SignalStream(Generic[T]):
    """The messages of one signal, in order of arrival; iterating takes one after the other and never ends."""

    __slots__ = ("_context", "_decode", "_name")

    def __init__(self, context: Context, name: str, decode: Callable[[Raw], T]) -> None:
        self._context = context
        self._name = name
        self._decode = decode

    def __aiter__(self) -> AsyncIterator[T]:
        return self

    async def __anext__(self) -> T:
        return await self.receive()

    def receive(self, *, timeout: Duration | None = None) -> Handle[T]:
        """The next message; after `timeout` without one it raises `WaitTimeout`."""
        return self._context._wait(self._name, self._decode, timeout, NO_DEFAULT)

    def pending(self) -> int:
        """How many messages have come that nobody has taken."""
        return self._context._here("signals").mailbox.pending(self._name)


class Context:
    """The run that the code belongs to. Usable only by that code, while it is being run."""

    __slots__ = ("_code", "_random", "_scope", "_uuids")

    def __init__(self, scope: Scope, code: WorkflowCode) -> None:
        self._scope = scope
        self._code = code
        self._random: random.Random | None = None
        self._uuids = 0

    def _here(self, use: str) -> Scope:
        scope = self._scope
        if current() is not scope:
            raise NondeterminismError(
                f"ctx.{use} was used outside of the run it belongs to ({scope.identity.workflow_id!r}): "
                "a context is only for the code of its own workflow function"
            )
        return scope

    # ---- facts

    @property
    def info(self) -> RunInfo:
        """Which run this is."""
        scope = self._here("info")
        run = scope.identity
        return RunInfo(
            run.workflow,
            run.workflow_id,
            run.run,
            run.version,
            instant(scope.started_at),
            scope.journal.next_seq - 1,
        )

    @property
    def log(self) -> Log:
        """A log that is silent on replay. A line may be written again if a process dies before its step is stored."""
        return _RunLog(self._here("log"))

    @property
    def random(self) -> random.Random:
        """Random numbers that are the same on every replay, and others in every run."""
        scope = self._here("random")
        if self._random is None:
            self._random = random.Random(f"everstep/{scope.identity.nonce}")  # noqa: S311  # replay needs a seed
        return self._random

    def now(self) -> datetime:
        """The instant, in UTC, of the event that the code is reacting to."""
        return instant(self._here("now").loop.now)

    def uuid4(self) -> UUID:
        """A random UUID that is the same on every replay."""
        scope = self._here("uuid4")
        self._uuids += 1
        digest = blake2b(f"{scope.identity.nonce}/uuid/{self._uuids}".encode(), digest_size=16).digest()
        return UUID(bytes=digest, version=4)

    # ---- waiting

    def sleep(self, duration: Duration, /) -> Handle[None]:
        """Wait that long, durably: for a year as well as for a second."""
        return self._here("sleep").sleep_until(self._after("sleep", duration))

    def sleep_until(self, instant: datetime, /) -> Handle[None]:
        """Wait until then. The instant needs a time zone; one that has passed is over at once."""
        if instant.tzinfo is None:
            raise ValueError("ctx.sleep_until needs an instant with a time zone: datetime(…, tzinfo=UTC)")
        return self._here("sleep_until").sleep_until(micros(instant))

    @overload
    def wait_for_signal(self, signal: Signal[T], /, *, timeout: Duration | None = None) -> Handle[T]: ...
    @overload
    def wait_for_signal(self, signal: Signal[T], /, *, timeout: Duration, default: D) -> Handle[T | D]: ...
    @overload
    def wait_for_signal(self, name: str, /, *, type: TypeForm[T], timeout: Duration | None = None) -> Handle[T]: ...
    @overload
    def wait_for_signal(self, name: str, /, *, type: TypeForm[T], timeout: Duration, default: D) -> Handle[T | D]: ...
    @overload
    def wait_for_signal(self, name: str, /, *, timeout: Duration | None = None) -> Handle[Any]: ...
    def wait_for_signal(
        self,
        signal: Signal[Any] | str,
        /,
        *,
        type: Any = Any,
        timeout: Duration | None = None,
        default: object = NO_DEFAULT,
    ) -> Handle[Any]:
        """The next message of that name, one that has already come included.

        Each message goes to one wait, in order of arrival. After `timeout` the wait gives `default` if there is one,
        else it raises `WaitTimeout`. A message that does not fit the type raises `PayloadError`.
        """
        name, decode = _declared(signal, type)
        return self._wait(name, decode, timeout, default)

    @overload
    def signals(self, signal: Signal[T], /) -> SignalStream[T]: ...
    @overload
    def signals(self, name: str, /, *, type: TypeForm[T]) -> SignalStream[T]: ...
    def signals(self, signal: Signal[Any] | str, /, *, type: Any = Any) -> SignalStream[Any]:
        """All messages of that name, in order: `async for message in ctx.signals(order_changed)`."""
        self._here("signals")
        return SignalStream(self, *_declared(signal, type))

    def _wait(self, name: str, decode: Callable[[Raw], Any], timeout: Duration | None, default: object) -> Handle[Any]:
        deadline = None if timeout is None else self._after("wait_for_signal", timeout)
        return self._here("wait_for_signal").wait_for_signal(name, decode, deadline, default)

    def _after(self, use: str, duration: Duration) -> int:
        if not isinstance(duration, timedelta):
            raise TypeError(f"ctx.{use} needs a duration such as seconds(30), not {duration!r}")
        return min(self._here(use).loop.now + duration // timedelta(microseconds=1), LAST_INSTANT)

    # ---- doing

    @overload
    def activity(
        self,
        name: str,
        /,
        *args: Any,
        queue: str | None = None,
        timeout: Duration | None = None,
        retry: Retry | None = None,
        returns: TypeForm[T],
    ) -> Handle[T]: ...
    @overload
    def activity(
        self,
        name: str,
        /,
        *args: Any,
        queue: str | None = None,
        timeout: Duration | None = None,
        retry: Retry | None = None,
    ) -> Handle[Any]: ...
    def activity(
        self,
        name: str,
        /,
        *args: Any,
        queue: str | None = None,
        timeout: Duration | None = None,
        retry: Retry | None = None,
        returns: Any = Any,
    ) -> Handle[Any]:
        """Schedule an activity by its name alone; its code may be elsewhere, in any language.

        Without `queue`, `timeout` and `retry` those of the workflow's app hold; `returns` is the type of the result.
        """
        scope = self._here("activity")
        return scope.schedule_activity(
            self._code.activity_call(name, args, queue=queue, timeout=timeout, retry=retry, returns=returns)
        )

    # ---- saying

    def set_status(self, text: str, /) -> None:
        """Say in words what the run is doing; shown wherever runs are listed, and published."""
        self._here("set_status").set_status(text)


def _declared(signal: Signal[Any] | str, type: Any) -> tuple[str, Callable[[Raw], Any]]:
    if isinstance(signal, str):
        return signal, codec_for(type).decode
    return signal.name, signal.codec.decode
