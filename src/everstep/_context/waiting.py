"""What a run waits for: time, signals, callbacks, conditions; and what it answers."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from msgspec import Raw

from everstep._context.facts import Facts
from everstep._core.callbacks import Callback
from everstep._core.handlers import QueryHandler, UpdateHandler
from everstep._core.handles import Handle
from everstep._core.payloads import Codec, codec_for
from everstep._core.signals import NO_DEFAULT, UnreadableSignal
from everstep._core.texts import check_name
from everstep._core.timers import LAST_INSTANT, micros
from everstep._options import why_bad_time
from everstep.durations import Duration
from everstep.queries import Query, Update
from everstep.signals import declared

if TYPE_CHECKING:
    from typing_extensions import TypeForm

    from everstep.signals import Signal

T = TypeVar("T")
D = TypeVar("D")
A = TypeVar("A")
R = TypeVar("R")
_ANY: Codec[Any] = codec_for(Any)


class SignalStream(Generic[T]):
    """The messages of one signal, in order of arrival; iterating takes one after the other and never ends."""

    __slots__ = ("_context", "_decode", "_name")

    def __init__(self, context: Waiting, name: str, decode: Callable[[Raw], T]) -> None:
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


class Waiting(Facts):
    """What a run waits for, and what it answers."""

    __slots__ = ()

    # ---- time

    def sleep(self, duration: Duration, /) -> Handle[None]:
        """Wait that long, durably: for a year as well as for a second. Nothing or less is over at once."""
        return self._acting("sleep").sleep_until(self._after("sleep", duration))

    def sleep_until(self, instant: datetime, /) -> Handle[None]:
        """Wait until then. The instant needs a time zone; one that has passed is over at once."""
        if not isinstance(instant, datetime):
            raise TypeError(f"ctx.sleep_until needs an instant such as datetime(…, tzinfo=UTC), not {instant!r}")
        if instant.utcoffset() is None:
            raise ValueError("ctx.sleep_until needs an instant with a time zone: datetime(…, tzinfo=UTC)")
        return self._acting("sleep_until").sleep_until(min(micros(instant), LAST_INSTANT))

    # ---- signals

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
        else it raises `WaitTimeout`. A message that does not fit the type is put aside, and the wait goes on.
        """
        name, codec = declared(signal, type)
        return self._wait(name, codec.decode, timeout, default)

    @overload
    def signals(self, signal: Signal[T], /) -> SignalStream[T]: ...
    @overload
    def signals(self, name: str, /, *, type: TypeForm[T]) -> SignalStream[T]: ...
    def signals(self, signal: Signal[Any] | str, /, *, type: Any = Any) -> SignalStream[Any]:
        """All messages of that name, in order: `async for message in ctx.signals(order_changed)`."""
        self._here("signals")
        name, codec = declared(signal, type)
        return SignalStream(self, name, codec.decode)

    @overload
    def on_signal(self, signal: Signal[T], fn: Callable[[T], Awaitable[None] | None], /) -> None: ...
    @overload
    def on_signal(self, signal: str, fn: Callable[[Any], Awaitable[None] | None], /) -> None: ...
    def on_signal(self, signal: Signal[Any] | str, fn: Callable[[Any], Awaitable[None] | None], /) -> None:
        """From now on `fn` gets the messages of that name, in order, those that have already come first.

        It may be `async` and await activities. An error that it raises is one of the run.
        """
        name, codec = declared(signal)
        self._acting("on_signal").mailbox.handle(name, codec.decode, fn)

    def on_unreadable_signal(self, fn: Callable[[UnreadableSignal], Awaitable[None] | None], /) -> None:
        """From now on `fn` hears of signals that do not fit the type which the code declares for them.

        Without it they are put aside all the same: logged, published and shown in the history.
        """
        self._acting("on_unreadable_signal").on_unreadable = fn

    def _wait(self, name: str, decode: Callable[[Raw], Any], timeout: Duration | None, default: object) -> Handle[Any]:
        deadline = None if timeout is None else self._after("wait_for_signal", timeout)
        return self._acting("wait_for_signal").wait_for_signal(name, decode, deadline, default)

    # ---- callbacks and conditions

    def callback(
        self, type: TypeForm[T], /, *, timeout: Duration | None = None, heartbeat_timeout: Duration | None = None
    ) -> Callback[T]:
        """Something that an outside system completes: give it `token` or `url`, and await the value of that type.

        Whoever has the token can complete it, once; it cannot be guessed. A failure raises `CallbackError`, the end of
        `timeout`, or `heartbeat_timeout` without a heartbeat, `WaitTimeout`.
        """
        scope = self._acting("callback")
        deadline = None if timeout is None else self._after("callback", timeout)
        if heartbeat_timeout is not None and (problem := why_bad_time("heartbeat_timeout", heartbeat_timeout)):
            raise ValueError(f"ctx.callback: {problem}")
        seconds = None if heartbeat_timeout is None else heartbeat_timeout.total_seconds()
        return scope.create_callback(codec_for(type).decode, deadline, seconds)

    def wait_until(self, predicate: Callable[[], bool], /, *, timeout: Duration | None = None) -> Handle[None]:
        """Wait until `predicate` is true of what the run knows; it is asked after every event, so it must be quick.

        After `timeout` it raises `WaitTimeout`. To look at the outside world again and again there is `ctx.poll`.
        """
        deadline = None if timeout is None else self._after("wait_until", timeout)
        return self._acting("wait_until").wait_until(predicate, deadline)

    def handlers_done(self, *, timeout: Duration | None = None) -> Handle[None]:
        """Wait until all handlers of signals and updates that are at work have ended.

        What is still at work when the run returns or goes on as a new one is broken off, and whoever waits for the
        answer to such an update is told `RunEnded`. After `timeout` it raises `WaitTimeout`; in a handler,
        `RuntimeError`, since it would wait for itself.
        """
        deadline = None if timeout is None else self._after("handlers_done", timeout)
        return self._acting("handlers_done").handlers_done(deadline)

    # ---- queries and updates

    def expose(self, **values: object) -> None:
        """Answer the queries of these names: with the value, or with what it returns if it can be called."""
        self._acting("expose").queries.expose(values)

    @overload
    def on_query(self, query: Query[R], fn: Callable[[], R], /) -> None: ...
    @overload
    def on_query(self, query: str, fn: Callable[..., object], /) -> None: ...
    @overload
    def on_query(self, query: Query[R], /) -> Callable[[Callable[[], R]], Callable[[], R]]: ...
    def on_query(self, query: Query[Any] | str, fn: Callable[..., Any] | None = None, /) -> Any:
        """Answer a query with what `fn` returns, also after the run has ended. It only looks: no `await`, no commands.

        Without `fn`, a decorator.
        """
        queries = self._acting("on_query").queries
        name, codec = (query.name, query.codec) if isinstance(query, Query) else (query, _ANY)
        check_name("query", name)

        def register(fn: Callable[..., Any]) -> Callable[..., Any]:
            if inspect.iscoroutinefunction(fn):
                raise TypeError(f"ctx.on_query: the query {name!r} only looks at the run: write `def`, not `async def`")
            queries.add(name, QueryHandler(fn, codec))
            return fn

        return _applied(register, fn)

    @overload
    def on_update(
        self,
        update: Update[A, R],
        fn: Callable[[A], Awaitable[R]],
        /,
        *,
        validate: Callable[[A], object] | None = None,
    ) -> None: ...
    @overload
    def on_update(
        self, update: str, fn: Callable[..., Awaitable[object]], /, *, validate: Callable[..., object] | None = None
    ) -> None: ...
    @overload
    def on_update(
        self, update: Update[A, R], /, *, validate: Callable[[A], object] | None = None
    ) -> Callable[[Callable[[A], Awaitable[R]]], Callable[[A], Awaitable[R]]]: ...
    def on_update(
        self,
        update: Update[Any, Any] | str,
        fn: Callable[..., Awaitable[Any]] | None = None,
        /,
        *,
        validate: Callable[..., object] | None = None,
    ) -> Any:
        """Carry out an update with `fn`, which may await, and answer with what it returns.

        `validate` is asked first: if it raises, the update is rejected with that message and leaves no trace. It only
        looks. An update that comes before this line has run is rejected, so register handlers first. Without `fn`, a
        decorator.
        """
        updates = self._acting("on_update").updates
        if isinstance(update, Update):
            name, takes, gives = update.name, update.codec, update.result_codec
        else:
            name, takes, gives = update, _ANY, _ANY
            check_name("update", name)

        def register(fn: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
            updates.add(name, UpdateHandler(fn, validate, takes, gives))
            return fn

        return _applied(register, fn)


def _applied(register: Callable[[Any], Any], fn: Any) -> Any:
    """A decorator, unless there is a function to register already."""
    if fn is None:
        return register
    register(fn)
    return None
