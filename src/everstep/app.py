"""The `App`: where an author's workflows and activities are registered, and what services load."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
import traceback
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Protocol, TypeVar, cast, overload

from everstep._options import BUILT_IN, Options
from everstep.definitions import Activity, AsyncActivity, Executor, SyncActivity
from everstep.errors import EverstepError, RegistrationError
from everstep.providers import Provider
from everstep.retry import Retry
from everstep.workflows import Workflow
from everstep_schemas.names import why_bad_name

if TYPE_CHECKING:
    from everstep.context import Context

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

Versions = Mapping[int, Workflow[..., Any]]


class LoadError(EverstepError):
    """`MODULE:app` names nothing that can be loaded; the message says what is missing."""


class App:
    """A set of workflows and activities, and what they have in common.

    `queue`, `retry` and `timeout` (of one attempt) hold for the activities that say nothing else: the queue "default",
    tries without limit, 10 s. `include` adds everything of other apps, which keep their own defaults.
    """

    def __init__(
        self,
        name: str,
        *,
        queue: str = BUILT_IN.queue,
        retry: Retry = BUILT_IN.retry,
        timeout: timedelta = BUILT_IN.timeout,
        include: Iterable[App] = (),
    ) -> None:
        owner = f"app {name!r}"
        if problem := why_bad_name(name):
            raise RegistrationError(f"{owner}: the name {problem}")
        self.name = name
        self._options = Options(queue, retry, timeout)
        self._options.check(owner)
        self._workflows: dict[str, dict[int, Workflow[..., Any]]] = {}
        self._activities: dict[str, Activity[..., Any]] = {}
        self._included_by: list[App] = []
        for other in include:
            self._include(other)

    def __repr__(self) -> str:
        return f"<app {self.name!r}>"

    @property
    def workflows(self) -> Mapping[str, Versions]:
        """All workflows by name and version, those of included apps among them."""
        return MappingProxyType(self._workflows)

    @property
    def activities(self) -> Mapping[str, Activity[..., Any]]:
        """All activities by name, those of included apps and those whose code is elsewhere among them."""
        return MappingProxyType(self._activities)

    # ---- registering

    @overload
    def workflow(self, fn: Callable[Concatenate[Context, P], Coroutine[Any, Any, R]], /) -> Workflow[P, R]: ...
    @overload
    def workflow(
        self,
        *,
        name: str | None = None,
        version: int = 1,
        timeout: timedelta | None = None,
        retry: Retry | None = None,
    ) -> _WorkflowDecorator: ...
    def workflow(
        self,
        *fns: Any,
        name: str | None = None,
        version: int = 1,
        timeout: timedelta | None = None,
        retry: Retry | None = None,
    ) -> Any:
        """Registers an `async def` with `ctx: Context` as its first parameter. New runs take the highest `version`.

        A run that takes longer than `timeout` is closed as timed out. One that fails is begun anew as `retry` says,
        which without it is never; `timeout` holds for all these attempts together.
        """

        def register(fn: Callable[..., Coroutine[Any, Any, Any]]) -> Workflow[..., Any]:
            workflow: Workflow[..., Any] = Workflow(
                fn, name=_name(fn, name), version=version, options=self._options, timeout=timeout, retry=retry
            )
            self._add_workflow(workflow)
            return workflow

        return register(*fns) if fns else register

    @overload
    def activity(  # type: ignore[overload-overlap]  # a coroutine function is a function too; the first overload wins
        self, fn: Callable[P, Coroutine[Any, Any, R]], /
    ) -> AsyncActivity[P, R]: ...
    @overload
    def activity(self, fn: Callable[P, R], /) -> SyncActivity[P, R]: ...
    @overload
    def activity(
        self,
        *,
        name: str | None = None,
        queue: str | None = None,
        retry: Retry | None = None,
        raises: Iterable[type[Exception]] = (),
        timeout: timedelta | None = None,
        total_timeout: timedelta | None = None,
        queue_timeout: timedelta | None = None,
        heartbeat_timeout: timedelta | None = None,
        executor: Executor = "auto",
    ) -> _ActivityDecorator: ...
    def activity(
        self,
        *fns: Any,
        name: str | None = None,
        raises: Iterable[type[Exception]] = (),
        executor: Executor = "auto",
        **given: Any,
    ) -> Any:
        """Registers a function with effects, `async` or not, which workers run.

        `raises` names the errors that belong to the business: they reach the workflow as themselves and are not tried
        again. `timeout` limits one attempt, `total_timeout` all of them with the pauses between, `queue_timeout` the
        wait of each for a worker; an attempt that calls no `activity.heartbeat()` for `heartbeat_timeout` has failed.
        What is not given is the app's. `executor="process"` runs a plain function in a process of its own, for work
        that keeps a processor busy.
        """

        def register(fn: Callable[..., Any]) -> Activity[..., Any]:
            activity = self._activity(fn, name, given, raises=raises, executor=executor)
            self._add_activity(activity)
            return activity

        return register(*fns) if fns else register

    def remote(
        self,
        *,
        name: str | None = None,
        queue: str,
        retry: Retry | None = None,
        timeout: timedelta | None = None,
        raises: Iterable[type[Exception]] = (),
    ) -> _ActivityDecorator:
        """Declares an activity whose code is elsewhere, in another codebase or language, by its signature.

        Workflows call it like one of their own; workers of this app do not run it.
        """

        def register(fn: Callable[..., Any]) -> Activity[..., Any]:
            given = {"queue": queue, "retry": retry, "timeout": timeout}
            activity = self._activity(fn, name, given, raises=raises, is_remote=True)
            self._add_activity(activity)
            return activity

        return cast("_ActivityDecorator", register)

    def _activity(
        self, fn: Callable[..., Any], name: str | None, given: Mapping[str, Any], **more: Any
    ) -> Activity[..., Any]:
        kind = AsyncActivity if inspect.iscoroutinefunction(fn) else SyncActivity
        return kind(fn, name=_name(fn, name), options=self._options.with_given(**given), **more)

    @overload
    def provide(self, opener: Callable[[], AsyncIterator[T]], /) -> Provider[T]: ...
    @overload
    def provide(self, opener: Callable[[], AbstractAsyncContextManager[T]], /) -> Provider[T]: ...
    def provide(self, opener: Any, /) -> Provider[Any]:
        """Makes an async generator function, or a function that returns an async context manager, a provider.

        Each worker opens it once, at the first activity that needs it, and closes it when it stops.
        """
        return Provider(opener)

    # ---- composing: what an app holds, those that include it hold as well

    def _include(self, other: App) -> None:
        for versions in other._workflows.values():
            for workflow in versions.values():
                self._add_workflow(workflow)
        for activity in other._activities.values():
            self._add_activity(activity)
        other._included_by.append(self)

    def _holders(self) -> set[App]:
        return {self}.union(*(app._holders() for app in self._included_by))

    def _add_workflow(self, workflow: Workflow[..., Any]) -> None:
        holders = self._holders()
        for app in holders:
            known = app._workflows.get(workflow.name, {}).get(workflow.version)
            app._refuse_clash(known, workflow, f"workflow {workflow.name!r} version {workflow.version}")
        for app in holders:
            app._workflows.setdefault(workflow.name, {})[workflow.version] = workflow

    def _add_activity(self, activity: Activity[..., Any]) -> None:
        holders = self._holders()
        for app in holders:
            app._refuse_clash(app._activities.get(activity.name), activity, f"activity {activity.name!r}")
        for app in holders:
            app._activities[activity.name] = activity

    def _refuse_clash(self, known: _Definition | None, new: _Definition, what: str) -> None:
        if known is not None and known is not new:
            raise RegistrationError(
                f"{self!r} would hold two of {what}: {_place(known)} and {_place(new)}; rename one with `name=…`"
            )


_Definition = Activity[..., Any] | Workflow[..., Any]


class _WorkflowDecorator(Protocol):
    def __call__(self, fn: Callable[Concatenate[Context, P], Coroutine[Any, Any, R]], /) -> Workflow[P, R]: ...


class _ActivityDecorator(Protocol):
    @overload
    def __call__(  # type: ignore[overload-overlap]  # as above
        self, fn: Callable[P, Coroutine[Any, Any, R]], /
    ) -> AsyncActivity[P, R]: ...
    @overload
    def __call__(self, fn: Callable[P, R], /) -> SyncActivity[P, R]: ...


def _name(fn: object, name: str | None) -> str:
    return str(getattr(fn, "__name__", fn)) if name is None else name


def _place(definition: _Definition) -> str:
    return f"{definition.fn.__module__}.{definition.fn.__qualname__}"


# ---- loading


def load(target: str) -> App:
    """The app that `MODULE:app` names, with the current directory importable; `LoadError` if there is none."""
    module_name, colon, attribute = target.partition(":")
    if not (module_name and colon and attribute):
        raise LoadError(f"{target!r} is not MODULE:app, such as orders.workflows:app")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise LoadError(f"module {module_name!r} imports {error.name!r}, which is not installed here") from error
        raise LoadError(
            f"there is no module {error.name!r} here, in {os.getcwd()}, or among what is installed"
        ) from None
    except RegistrationError as error:
        raise LoadError(f"module {module_name!r}: {error}") from error
    except Exception as error:
        raise LoadError(
            f"module {module_name!r} cannot be imported: {type(error).__name__}: {error}{_raised_at(error)};"
            f" `python -c 'import {module_name}'` shows the way there"
        ) from error
    return _app_in(module, attribute)


def _raised_at(error: Exception) -> str:
    if isinstance(error, SyntaxError):  # says so itself
        return ""
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f" ({place.filename}, line {place.lineno})"


def _app_in(module: Any, attribute: str) -> App:
    found = getattr(module, attribute, None)
    if isinstance(found, App):
        return found
    apps = [name for name, value in vars(module).items() if isinstance(value, App)]
    there = f"it has the apps {', '.join(map(repr, apps))}" if apps else "it has no app at all"
    problem = "does not exist" if found is None else f"is a {type(found).__qualname__}, not an App"
    raise LoadError(f"{attribute!r} in module {module.__name__!r} {problem}; {there}")
