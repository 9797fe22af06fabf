"""What can be wrong with a declared workflow or activity, found when it is declared; the messages say what to write."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, get_args, get_type_hints

from everstep._core.payloads import codec_for
from everstep._error_infos import declared_name, why_not_declarable
from everstep._options import why_bad_time
from everstep.errors import RegistrationError
from everstep.providers import Provided, Provider
from everstep.retry import Retry
from everstep_schemas.events import OnParentClose
from everstep_schemas.names import why_bad_name


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


def context_parameter(fn: Callable[..., Any], owner: str) -> str:
    """The name of the workflow's first parameter, which must be able to take the `Context`."""
    if found := providers_of(fn, owner):
        raise RegistrationError(f"{owner}: {next(iter(found))!r} is provided by workers, to activities only")
    first = next(iter(inspect.signature(fn).parameters.values()), None)
    if first is None or first.kind not in (first.POSITIONAL_ONLY, first.POSITIONAL_OR_KEYWORD):
        raise RegistrationError(f"{owner} takes no context: its first parameter is `ctx: Context`")
    annotation = first.annotation
    text = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", "")
    if annotation is not first.empty and text.rpartition(".")[2] not in ("Context", "Any"):
        raise RegistrationError(f"{owner}: its first parameter is `ctx: Context`, not `{first}`; put that before it")
    return first.name


def check_version(version: object, owner: str) -> None:
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise RegistrationError(f"{owner}: version is {version!r}; versions are whole numbers from 1 on")


def check_workflow(timeout: object, retry: object, owner: str) -> None:
    """What holds for each run of a workflow."""
    if timeout is not None and (problem := why_bad_time("timeout", timeout)):
        raise RegistrationError(f"{owner}: {problem}")
    if retry is not None and not isinstance(retry, Retry):
        raise RegistrationError(f"{owner}: retry is `Retry(max_attempts=3)` or the like, not {retry!r}")


def check_child(id: object, version: object, on_parent_close: object, timeout: object, owner: str) -> None:
    """What is said of one child."""
    if id is not None and (problem := why_bad_name(id) if isinstance(id, str) else "is no text"):
        raise RegistrationError(f"{owner}: the id {str(id)[:100]!r} {problem}")
    if version is not None:
        check_version(version, owner)
    if on_parent_close not in get_args(OnParentClose):
        allowed = ", ".join(map(repr, get_args(OnParentClose)))
        raise RegistrationError(f"{owner}: on_parent_close is one of {allowed}, not {on_parent_close!r}")
    if timeout is not None and (problem := why_bad_time("timeout", timeout)):
        raise RegistrationError(f"{owner}: {problem}")


def check_executor(executor: object, is_async: bool, providers: Mapping[str, object], owner: str) -> str:
    """Where an activity runs: a coroutine on the loop, a plain function in a thread or a process."""
    if executor not in ("auto", "thread", "process"):
        raise RegistrationError(f"{owner}: executor is 'auto', 'thread' or 'process', not {executor!r}")
    if executor != "auto" and is_async:
        raise RegistrationError(f"{owner}: executor={executor!r} is for plain functions; leave it out or the `async`")
    if executor == "process" and providers:
        raise RegistrationError(
            f"{owner}: {next(iter(providers))!r} is provided in the worker's own process and cannot go into another; "
            "open what is needed within the function"
        )
    return str(executor)


def providers_of(fn: Callable[..., Any], owner: str) -> dict[str, Provider[Any]]:
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


def declared_errors(raises: Iterable[type[Exception]], owner: str) -> dict[str, type[Exception]]:
    """Declared errors by their names on the wire."""
    if isinstance(raises, type):
        raise RegistrationError(f"{owner}: raises= takes a list: [{raises.__qualname__}]")
    declared: dict[str, type[Exception]] = {}
    for cls in raises:
        if problem := why_not_declarable(cls):
            raise RegistrationError(f"{owner}: raises={getattr(cls, '__qualname__', cls)!s}, which {problem}")
        if declared.setdefault(declared_name(cls), cls) is not cls:
            raise RegistrationError(f"{owner}: two errors in raises= are named {declared_name(cls)!r}; rename one")
        _check_attributes(cls, owner)
    return declared


def _check_attributes(cls: type[Exception], owner: str) -> None:
    try:
        for annotation in get_type_hints(cls).values():
            codec_for(annotation)
    except (NameError, RegistrationError) as error:
        raise RegistrationError(f"{owner}: an attribute of {cls.__qualname__} cannot be rebuilt: {error}") from None
