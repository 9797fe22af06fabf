"""What the decorators of an `App` make of functions: activities and workflows.

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
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, TypeVar, cast

from msgspec import Raw, UnsetType

from everstep._checks import check_function, check_version, context_parameter, declared_errors, providers_of
from everstep._core import scope
from everstep._core.arguments import Arguments
from everstep._core.calls import ActivityCall
from everstep._core.handles import Handle
from everstep._core.payloads import codec_for
from everstep._options import BUILT_IN, Options
from everstep.errors import RegistrationError
from everstep.retry import Retry
from everstep_schemas.names import why_bad_name

if TYPE_CHECKING:
    from everstep.context import Context

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)

_SAME: Any = object()


class Activity(Generic[P, R]):
    """A function with effects, which a worker executes: at least once, under one `activity.info().idempotency_key`.

    Calling it in a workflow schedules it and returns a handle to await. Elsewhere the call returns an awaitable that
    runs it here, without retries; parameters that are `provided` are then passed by hand.
    """

    fn: Callable[..., Any]

    def __init__(
        self, fn: Callable[..., Any], *, name: str, options: Options = BUILT_IN, raises: Iterable[type[Exception]] = ()
    ) -> None:
        check_function(fn, "activity", name)
        owner = f"activity {name!r}"
        self.fn = fn
        self.name = name
        self.is_async = inspect.iscoroutinefunction(fn)
        self.providers = providers_of(fn, owner)
        self._owner = owner
        self._declared = declared_errors(raises, owner)
        self.raises = tuple(self._declared.values())
        self._arguments = Arguments(fn, owner, omitted=self.providers)
        self._configure(options)
        functools.update_wrapper(self, fn)

    def _configure(self, options: Options) -> None:
        options.check(self._owner)
        self._options = options
        self._timeout_seconds = options.timeout.total_seconds()
        self._policy = options.retry.policy(self._declared)

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

    def options(self, *, queue: str = _SAME, retry: Retry = _SAME, timeout: timedelta = _SAME) -> Activity[P, R]:
        """The same activity with other options, for one call: `await f.options(timeout=minutes(5))(x)`."""
        given: dict[str, Any] = {"queue": queue, "retry": retry, "timeout": timeout}
        other = copy.copy(self)
        other._configure(replace(self._options, **{name: one for name, one in given.items() if one is not _SAME}))
        return other

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Handle[R]:
        run = scope.current()
        if run is None:
            return cast("Handle[R]", self._run_here(args, kwargs))
        self._refuse_provided(kwargs)
        positional, named = self._arguments.encode(args, kwargs)
        return run.schedule_activity(
            ActivityCall(
                name=self.name,
                queue=self.queue,
                args=positional,
                kwargs=named,
                timeout_seconds=self._timeout_seconds,
                retry=self._policy,
                decode=self._arguments.result.decode,
                raises=self._declared,
            )
        )

    def _refuse_provided(self, kwargs: Mapping[str, Any]) -> None:
        if self.providers and (given := self.providers.keys() & kwargs.keys()):
            raise TypeError(f"{self._owner}: {_listed(given)} is provided by the worker; leave it out in a workflow")

    def _run_here(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Coroutine[Any, Any, Any]:
        given = inspect.signature(self.fn).bind(*args, **kwargs).arguments
        if missing := self.providers.keys() - given.keys():
            raise TypeError(
                f"{self._owner} was called outside of a workflow, so no worker provides {_listed(missing)}: pass it by "
                "name, such as a fake in a test"
            )
        return self._awaited(args, kwargs)

    async def _awaited(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self.is_async:
            return await self.fn(*args, **kwargs)
        return await asyncio.to_thread(self.fn, *args, **kwargs)

    def decode_args(
        self, args: bytes | Raw, kwargs: bytes | Raw | UnsetType | None = None
    ) -> tuple[list[Any], dict[str, Any]]:
        """What a call passed, without what is provided; `PayloadError` for what does not fit."""
        return self._arguments.decode(args, kwargs)

    def encode_result(self, value: Any) -> bytes:
        """The JSON of what `fn` returned; `PayloadError` if it does not fit the annotation."""
        return self._arguments.result.encode(value)

    def __repr__(self) -> str:
        return f"<activity {self.name!r} of queue {self.queue!r}>"


class AsyncActivity(Activity[P, R]):
    """An activity whose function is `async`: it runs on the worker's event loop."""

    fn: Callable[P, Coroutine[Any, Any, R]]


class SyncActivity(Activity[P, R]):
    """An activity that is a plain function: it runs in a thread of the worker."""

    fn: Callable[P, R]


class RunOf(Generic[R_co]):
    """What calling a workflow stands for, in types only: `Client.start` takes the arguments and the result from it."""


class Workflow(Generic[P, R]):
    """A durable function. `Client.start(workflow, …, id=…)` runs it; `fn` is the plain function."""

    fn: Callable[Concatenate[Context, P], Coroutine[Any, Any, R]]

    def __init__(
        self,
        fn: Callable[Concatenate[Context, P], Coroutine[Any, Any, R]],
        *,
        name: str,
        version: int = 1,
        options: Options = BUILT_IN,
    ) -> None:
        check_function(fn, "workflow", name)
        owner = f"workflow {name!r}"
        check_version(version, owner)
        self.fn = fn
        self.name = name
        self.version = version
        self._arguments = Arguments(fn, owner, omitted=(context_parameter(fn, owner),))
        self._options = options
        functools.update_wrapper(self, fn)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> RunOf[R]:
        if scope.current() is None:
            raise TypeError(
                f"workflow {self.name!r} was called like a function: start a run with "
                f"`await client.start({self.fn.__name__}, …, id=…)`, see Client.start"
            )
        raise TypeError(
            f"workflow {self.name!r} was called in a workflow: workflows call activities and plain `async` functions; "
            "take what both need into a function, or start a run of its own with Client.start in an activity"
        )

    def activity_call(
        self,
        name: str,
        args: tuple[Any, ...],
        *,
        queue: str | None = None,
        timeout: timedelta | None = None,
        retry: Retry | None = None,
        returns: Any = Any,
    ) -> ActivityCall:
        """A call of an activity that is known by its name alone, with the app's options for what is not given."""
        options = self._options.with_given(queue=queue, retry=retry, timeout=timeout)
        options.check(f"activity {name!r}")
        if problem := why_bad_name(name):
            raise RegistrationError(f"activity {name!r}: the name {problem}")
        return ActivityCall(
            name=name,
            queue=options.queue,
            args=codec_for(list[Any]).encode(list(args)),
            kwargs=None,
            timeout_seconds=options.timeout.total_seconds(),
            retry=options.retry.policy(),
            decode=codec_for(returns).decode,
            raises={},
        )

    def encode_args(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[bytes, bytes | None]:
        """The arguments without `ctx` as JSON; `TypeError` or `PayloadError` for what does not fit."""
        return self._arguments.encode(args, kwargs)

    def decode_args(
        self, args: bytes | Raw, kwargs: bytes | Raw | UnsetType | None = None
    ) -> tuple[list[Any], dict[str, Any]]:
        """The arguments without `ctx`; `PayloadError` for what does not fit."""
        return self._arguments.decode(args, kwargs)

    def encode_result(self, value: Any) -> bytes:
        """The JSON of what `fn` returned; `PayloadError` if it does not fit the annotation."""
        return self._arguments.result.encode(value)

    def decode_result(self, raw: bytes | Raw) -> R:
        """What a run returned; `PayloadError` if it does not fit the annotation."""
        return cast("R", self._arguments.result.decode(raw))

    def __repr__(self) -> str:
        return f"<workflow {self.name!r} version {self.version}>"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(map(repr, names)))
