"""What the decorators of an `App` make of functions that have effects: activities.

Everything that can be found wrong with a declaration is found when it is made, not in the first run. Calling an
activity means: inside a workflow, schedule it; elsewhere, run it here.
"""

from __future__ import annotations

import asyncio
import copy
import functools
import inspect
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any, Generic, Literal, NamedTuple, ParamSpec, TypeVar, cast

from msgspec import Raw, UnsetType

from everstep._checks import check_executor, check_function, declared_errors, providers_of
from everstep._core import scope
from everstep._core.arguments import Arguments
from everstep._core.calls import ActivityCall
from everstep._core.handles import Handle
from everstep._options import BUILT_IN, Options, in_seconds
from everstep._tasks import noted
from everstep.retry import Retry

P = ParamSpec("P")
R = TypeVar("R")

Executor = Literal["auto", "thread", "process"]

_SAME: Any = object()


class Activity(Generic[P, R]):
    """A function with effects, which a worker executes: at least once, under one `activity.info().idempotency_key`.

    Calling it in a workflow schedules it and returns a handle to await. Elsewhere the call returns an awaitable that
    runs it here, without retries; parameters that are `provided` are then passed by hand. One that `is_remote` has its
    code elsewhere.
    """

    fn: Callable[..., Any]

    def __init__(
        self,
        fn: Callable[..., Any],
        *,
        name: str,
        options: Options = BUILT_IN,
        raises: Iterable[type[Exception]] = (),
        executor: Executor = "auto",
        is_remote: bool = False,
    ) -> None:
        check_function(fn, "activity", name)
        owner = f"activity {name!r}"
        self.fn = fn
        self.name = name
        self.is_async = inspect.iscoroutinefunction(fn)
        self.is_remote = is_remote
        self.providers = providers_of(fn, owner)
        self.in_process = check_executor(executor, self.is_async, self.providers, owner) == "process"
        self._owner = owner
        self._declared = declared_errors(raises, owner)
        self.raises = tuple(self._declared.values())
        self._arguments = Arguments(fn, owner, omitted=self.providers)
        self._configure(options)
        functools.update_wrapper(self, fn)

    def _configure(self, options: Options) -> None:
        options.check(self._owner)
        self._options = options
        self._policy = options.retry.policy(self._declared)
        self._times = times_of(options)

    @property
    def queue(self) -> str:
        return self._options.queue

    @property
    def retry(self) -> Retry:
        return self._options.retry

    @property
    def timeout(self) -> timedelta:
        """Of one attempt."""
        return self._options.timeout

    @property
    def heartbeat_timeout(self) -> timedelta | None:
        """How long an attempt may be silent."""
        return self._options.heartbeat_timeout

    def options(
        self,
        *,
        queue: str = _SAME,
        retry: Retry = _SAME,
        timeout: timedelta = _SAME,
        total_timeout: timedelta = _SAME,
        queue_timeout: timedelta = _SAME,
        heartbeat_timeout: timedelta = _SAME,
    ) -> Activity[P, R]:
        """The same activity with other options, for one call: `await f.options(timeout=minutes(5))(x)`."""
        given: dict[str, Any] = {
            "queue": queue,
            "retry": retry,
            "timeout": timeout,
            "total_timeout": total_timeout,
            "queue_timeout": queue_timeout,
            "heartbeat_timeout": heartbeat_timeout,
        }
        other = copy.copy(self)
        other._configure(replace(self._options, **{name: one for name, one in given.items() if one is not _SAME}))
        return other

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Handle[R]:
        run = scope.current()
        if run is None:
            return cast("Handle[R]", self._run_here(args, kwargs))
        if self.providers:
            self._refuse_provided(kwargs)
        positional, named = self._arguments.encode(args, kwargs)
        times = self._times
        return run.schedule_activity(
            ActivityCall(
                name=self.name,
                queue=self._options.queue,
                args=positional,
                kwargs=named,
                retry=self._policy,
                decode=self._arguments.result.decode,
                raises=self._declared,
                timeout_seconds=times.timeout_seconds,
                total_timeout_seconds=times.total_timeout_seconds,
                queue_timeout_seconds=times.queue_timeout_seconds,
                heartbeat_timeout_seconds=times.heartbeat_timeout_seconds,
            )
        )

    def _refuse_provided(self, kwargs: Mapping[str, Any]) -> None:
        if given := self.providers.keys() & kwargs.keys():
            raise TypeError(f"{self._owner}: {_listed(given)} is provided by the worker; leave it out in a workflow")

    def _run_here(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Coroutine[Any, Any, Any]:
        if self.is_remote:
            raise TypeError(
                f"{self._owner} was called outside of a workflow, and its code is elsewhere: @app.remote only says "
                "what it takes and gives. In a test of a workflow put a fake in its place: env.replace(…)"
            )
        given = inspect.signature(self.fn).bind(*args, **kwargs).arguments
        if missing := self.providers.keys() - given.keys():
            raise TypeError(
                f"{self._owner} was called outside of a workflow, so no worker provides {_listed(missing)}: pass it by "
                "name, such as a fake in a test"
            )
        return self._awaited(args, kwargs)

    async def _awaited(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self.is_async:
            with noted():
                return await self.fn(*args, **kwargs)
        return await asyncio.to_thread(self.fn, *args, **kwargs)

    def decode_args(
        self, args: bytes | Raw, kwargs: bytes | Raw | UnsetType | None = None
    ) -> tuple[list[Any], dict[str, Any]]:
        """What a call passed, without what is provided; `PayloadError` for what does not fit."""
        return self._arguments.decode(args, kwargs)

    def encode_result(self, value: Any) -> bytes:
        """The JSON of what `fn` returned; `PayloadError` if it does not fit the annotation."""
        return self._arguments.encode_result(value)

    def __repr__(self) -> str:
        return f"<activity {self.name!r} of queue {self.queue!r}>"


class AsyncActivity(Activity[P, R]):
    """An activity whose function is `async`: it runs on the worker's event loop."""

    fn: Callable[P, Coroutine[Any, Any, R]]


class SyncActivity(Activity[P, R]):
    """An activity that is a plain function: it runs in a thread of the worker, or in a process if it says so."""

    fn: Callable[P, R]


class Times(NamedTuple):
    """The timeouts as a call carries them."""

    timeout_seconds: float
    total_timeout_seconds: float | None
    queue_timeout_seconds: float | None
    heartbeat_timeout_seconds: float | None


def times_of(options: Options) -> Times:
    return Times(
        options.timeout.total_seconds(),
        in_seconds(options.total_timeout),
        in_seconds(options.queue_timeout),
        in_seconds(options.heartbeat_timeout),
    )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(map(repr, names)))
