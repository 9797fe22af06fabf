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
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, TypeVar, cast

from msgspec import Raw, UnsetType

from everstep._core import scope
from everstep._core.arguments import Arguments
from everstep._core.calls import ActivityCall
from everstep._core.handles import Handle
from everstep._core.payloads import codec_for
from everstep.durations import seconds
from everstep.errors import RegistrationError, attribute_types, declared_name, why_not_declarable
from everstep.providers import Provided, Provider
from everstep.retry import Retry
from everstep_schemas.names import why_bad_name, why_bad_queue

if TYPE_CHECKING:
    from everstep.context import Context

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)

DEFAULT_RETRY = Retry()
DEFAULT_TIMEOUT = seconds(10)
_SAME: Any = object()


class Activity(Generic[P, R]):
    """A function with effects, which a worker executes: at least once, under one `activity.info().idempotency_key`.

    Calling it in a workflow schedules it and returns a handle to await. Elsewhere the call returns an awaitable that
    runs it here, without retries; parameters that are `provided` are then passed by hand.
    """

    fn: Callable[..., Any]

    def __init__(
        self,
        fn: Callable[..., Any],
        *,
        name: str,
        queue: str = "default",
        retry: Retry = DEFAULT_RETRY,
        timeout: timedelta = DEFAULT_TIMEOUT,
        raises: Iterable[type[Exception]] = (),
    ) -> None:
        check_function(fn, "activity", name)
        owner = f"activity {name!r}"
        self.fn = fn
        self.name = name
        self.is_async = inspect.iscoroutinefunction(fn)
        self.providers = _providers(fn, owner)
        self.raises = tuple(raises)
        self._owner = owner
        self._declared = _declared(self.raises, owner)
        self._arguments = Arguments(fn, owner, omitted=self.providers)
        self._configure(queue, retry, timeout)
        functools.update_wrapper(self, fn)

    def _configure(self, queue: str, retry: Retry, timeout: timedelta) -> None:
        check_queue(queue, self._owner)
        check_retry(retry, self._owner)
        self.queue = queue
        self.retry = retry
        self.timeout = timeout
        self._timeout_seconds = timeout_seconds(timeout, self._owner)
        self._policy = retry.policy(self._declared)

    def options(self, *, queue: str = _SAME, retry: Retry = _SAME, timeout: timedelta = _SAME) -> Activity[P, R]:
        """The same activity with other options, for one call: `await f.options(timeout=minutes(5))(x)`."""
        other = copy.copy(self)
        other._configure(
            self.queue if queue is _SAME else queue,
            self.retry if retry is _SAME else retry,
            self.timeout if timeout is _SAME else timeout,
        )
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
        self, fn: Callable[Concatenate[Context, P], Coroutine[Any, Any, R]], *, name: str, version: int = 1
    ) -> None:
        check_function(fn, "workflow", name)
        owner = f"workflow {name!r}"
        _check_version(version, owner)
        self.fn = fn
        self.name = name
        self.version = version
        self._arguments = Arguments(fn, owner, omitted=(_context_parameter(fn, owner),))
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


# ---- checks of declarations


def check_function(fn: object, kind: str, name: str) -> None:
    """`RegistrationError` for what cannot be a workflow or an activity at all."""
    if problem := why_bad_name(name):
        raise RegistrationError(f"{kind} {name!r}: the name {problem}")
    if isinstance(fn, staticmethod | classmethod) or inspect.ismethod(fn) or _is_in_class(fn):
        raise RegistrationError(
            f"{kind} {name!r} is a method: a worker in another process has no `self` to call it on. Write it as a "
            "function of the module, and what `self` held as arguments or as `provided` parameters"
        )
    if not inspect.isfunction(fn):
        raise RegistrationError(f"{kind} {name!r}: only functions written with `def` can be registered, not {fn!r}")
    if inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn):
        raise RegistrationError(f"{kind} {name!r} is a generator: collect what it yields and `return` it, as a list")
    if kind == "workflow" and not inspect.iscoroutinefunction(fn):
        raise RegistrationError(f"workflow {name!r} must be `async def`: it waits for activities, timers and signals")


def _is_in_class(fn: object) -> bool:
    outer = str(getattr(fn, "__qualname__", "")).rpartition(".")[0]
    return bool(outer) and not outer.endswith("<locals>")


def _context_parameter(fn: Callable[..., Any], owner: str) -> str:
    """The name of the workflow's first parameter, which must be able to take the `Context`."""
    first = next(iter(inspect.signature(fn).parameters.values()), None)
    if first is None or first.kind not in (first.POSITIONAL_ONLY, first.POSITIONAL_OR_KEYWORD):
        raise RegistrationError(f"{owner} takes no context: its first parameter is `ctx: Context`")
    annotation = first.annotation
    text = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", "")
    if annotation is not first.empty and text.rpartition(".")[2] not in ("Context", "Any"):
        raise RegistrationError(f"{owner}: its first parameter is `ctx: Context`, not `{first}`; put that before it")
    return first.name


def _check_version(version: object, owner: str) -> None:
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise RegistrationError(f"{owner}: version is {version!r}; versions are whole numbers from 1 on")


def check_queue(queue: object, owner: str) -> None:
    if not isinstance(queue, str):
        raise RegistrationError(f"{owner}: queue is {queue!r}, not a name")
    if problem := why_bad_queue(queue):
        raise RegistrationError(f"{owner}: the queue {queue!r} {problem}")


def check_retry(retry: object, owner: str) -> None:
    if not isinstance(retry, Retry):
        raise RegistrationError(f"{owner}: retry is `Retry(max_attempts=3)` or the like, not {retry!r}")


def timeout_seconds(timeout: object, owner: str) -> float:
    """The timeout in seconds; `RegistrationError` if it is none."""
    if not isinstance(timeout, timedelta):
        raise RegistrationError(f"{owner}: timeout is a duration such as seconds(30), not {timeout!r}")
    if timeout <= timedelta():
        raise RegistrationError(f"{owner}: timeout is {timeout.total_seconds():g} s; it must be longer than nothing")
    return timeout.total_seconds()


def _providers(fn: Callable[..., Any], owner: str) -> dict[str, Provider[Any]]:
    """The provided parameters, by the identity of their defaults."""
    found: dict[str, Provider[Any]] = {}
    for one in inspect.signature(fn).parameters.values():
        if isinstance(one.default, Provided):
            if one.kind is one.POSITIONAL_ONLY:
                raise RegistrationError(
                    f"{owner}: the worker passes {one.name!r} by name, so it cannot stand before `/`"
                )
            found[one.name] = one.default.provider
        elif isinstance(one.default, Provider):
            raise RegistrationError(f"{owner}: write `{one.name}=provided({one.default.name})`")
        elif found and one.kind is one.POSITIONAL_OR_KEYWORD:
            raise RegistrationError(f"{owner}: {one.name!r} follows a provided parameter; put those last, after a `*`")
    return found


def _declared(raises: tuple[type[Exception], ...], owner: str) -> dict[str, type[Exception]]:
    """Declared errors by their names on the wire."""
    declared: dict[str, type[Exception]] = {}
    for cls in raises:
        if problem := why_not_declarable(cls):
            raise RegistrationError(f"{owner}: raises={getattr(cls, '__qualname__', cls)!s}, which {problem}")
        if declared.setdefault(declared_name(cls), cls) is not cls:
            raise RegistrationError(f"{owner}: two errors in raises= are named {declared_name(cls)!r}; rename one")
        for name, annotation in attribute_types(cls).items():
            _check_attribute(cls, name, annotation, owner)
    return declared


def _check_attribute(cls: type[Exception], name: str, annotation: Any, owner: str) -> None:
    try:
        codec_for(annotation)
    except RegistrationError as error:
        raise RegistrationError(f"{owner}: {cls.__qualname__}.{name} is lost on the way: {error}") from None


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(map(repr, names)))
