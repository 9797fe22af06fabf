"""Exceptions as they are stored and sent, and what is made of them again.

An exception crosses the wire as `ErrorInfo`. What a workflow sees is always built from that, on the first run and on
every replay, so it is always the same. Errors that an activity declares (`raises=`) are built as themselves: from
their `args`, or, where they have attributes, from those, without calling their `__init__` again.
"""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any, cast, get_args, get_type_hints

import msgspec

from everstep.errors import (
    ActivityError,
    ActivityTimeout,
    CallbackError,
    ChildError,
    EverstepError,
    NonRetryable,
    PayloadError,
    Rejected,
    RemoteError,
    RetryAfter,
    RunAlreadyExists,
    RunCancelled,
    RunError,
    RunNotFound,
    RunTerminated,
    RunTimedOut,
    Which,
    WorkerLost,
)
from everstep_schemas.errors import ErrorInfo

MAX_MESSAGE = 4_096
MAX_TRACEBACK = 8_192
MAX_CAUSES = 8
MAX_FRAMES = 40

# ---- names


def type_name(cls: type[BaseException]) -> str:
    """The name of an exception's class on the wire: `ValueError`, `orders.payments.OutOfStock`."""
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"


def declared_name(cls: type[BaseException]) -> str:
    """The name of a declared error on the wire: `CardDeclined`, wherever its module moves to."""
    return cls.__qualname__


def gives_up(names: Iterable[str], error: ErrorInfo) -> bool:
    """Whether the error's type is among `names`, each with or without its module."""
    return any(error.type == name or error.type.endswith(f".{name}") for name in names)


# ---- from an exception to the wire


def info_of(error: BaseException, declared: Iterable[type[BaseException]] = ()) -> ErrorInfo:
    """`error` and what caused it as they cross the wire. Never fails, whatever `error` is made of."""
    first, *causes = _chain(error)
    cause: ErrorInfo | None = None
    for one in reversed(causes):
        cause = _plain_info(one, cause)
    known = _declared_class(first, tuple(declared))
    if known is None:
        return _plain_info(first, cause)
    return msgspec.structs.replace(
        _plain_info(first, cause), type=declared_name(known), retryable=False, fields=_fields_of(first)
    )


def _plain_info(error: BaseException, cause: ErrorInfo | None) -> ErrorInfo:
    if isinstance(error, RemoteError):
        return ErrorInfo(type=error.type, message=error.message, traceback=error.traceback, cause=cause)
    return ErrorInfo(
        type=type_name(type(error)),
        message=message_of(error),
        traceback=_traceback(error),
        cause=cause,
        retryable=not isinstance(error, NonRetryable | PayloadError),
        retry_after_seconds=max(0.0, error.delay.total_seconds()) if isinstance(error, RetryAfter) else None,
    )


def _chain(error: BaseException) -> list[BaseException]:
    """`error`, its cause, that one's cause, …: a few of them, each once (causes can form a ring)."""
    chain: list[BaseException] = []
    following: BaseException | None = error
    while following is not None and len(chain) < MAX_CAUSES and not any(following is one for one in chain):
        chain.append(following)
        following = _cause_of(following)
    return chain


def _cause_of(error: BaseException) -> BaseException | None:
    if error.__cause__ is not None:
        return error.__cause__
    if isinstance(error, BaseExceptionGroup):
        first: BaseException = error.exceptions[0]
        return first
    return None if error.__suppress_context__ else error.__context__


def _declared_class(error: BaseException, declared: tuple[type[BaseException], ...]) -> type[BaseException] | None:
    """The nearest declared class: an undeclared subclass of a declared error arrives as that error."""
    return next((cls for cls in type(error).__mro__ if cls in declared), None)


def message_of(error: BaseException) -> str:
    """The error's words, as text that can be stored, whatever its class makes of them."""
    try:
        text = str(error)
    except Exception:
        text = f"<str() of this {type(error).__qualname__} failed>"
    return _bounded(text, MAX_MESSAGE)


def _bounded(text: str, most: int) -> str:
    """`text` as valid Unicode of at most about `most` characters, with its middle left out."""
    text = text.encode("utf-8", "backslashreplace").decode()
    if len(text) <= most:
        return text
    return f"{text[: most // 2]}\n… {len(text) - most} characters left out …\n{text[-(most // 2) :]}"


_MACHINERY = {"everstep", "everstep_orchestrator", "everstep_schemas", "everstep_worker", "asyncio", "concurrent"}


def _traceback(error: BaseException) -> str:
    """The author's own frames, as Python prints them; without the exception itself, which `message` holds."""
    frames = [
        (frame, line)
        for frame, line in traceback.walk_tb(error.__traceback__)
        if str(frame.f_globals.get("__name__", "")).partition(".")[0] not in _MACHINERY
    ]
    if len(frames) > MAX_FRAMES:
        frames = frames[: MAX_FRAMES // 4] + frames[-(MAX_FRAMES - MAX_FRAMES // 4) :]
    return _bounded("".join(traceback.StackSummary.extract(iter(frames)).format()), MAX_TRACEBACK)


_encoder = msgspec.json.Encoder(order="deterministic")


def _fields_of(error: BaseException) -> msgspec.Raw | msgspec.UnsetType:
    """What the error is rebuilt from: its attributes if it has any, else its `args`."""
    attributes = vars(error)
    if not attributes:
        args = _encoded(list(error.args))
        return msgspec.UNSET if args is None else args
    encoded = {name: _encoded(value) for name, value in attributes.items()}
    return msgspec.Raw(_encoder.encode({name: raw for name, raw in encoded.items() if raw is not None}))


def _encoded(value: object) -> msgspec.Raw | None:
    try:
        return msgspec.Raw(_encoder.encode(value))
    except Exception:  # whatever an author's attribute raises, the error itself must cross
        return None


# ---- from the wire to what a workflow or a client sees


def exception_of(info: ErrorInfo, declared: Mapping[str, type[Exception]] | None = None) -> Exception:
    """The exception in `info`: a declared one as itself, any other as `RemoteError`; causes as `__cause__`."""
    cls = declared.get(info.type) if declared else None
    error = RemoteError(info.type, info.message, info.traceback) if cls is None else _rebuilt(cls, info)
    if info.cause is not None:
        error.__cause__ = exception_of(info.cause, declared)
    return error


def activity_error(
    activity: str, attempts: int, info: ErrorInfo, declared: Mapping[str, type[Exception]] | None = None
) -> Exception:
    """What awaiting an activity that failed for good raises."""
    if declared and info.type in declared:
        return exception_of(info, declared)
    cause = exception_of(info)
    tries = "1 attempt" if attempts == 1 else f"{attempts} attempts"
    error = _ACTIVITY_ERRORS.get(info.type, ActivityError)(
        f"activity {activity!r} failed after {tries}: {cause}",
        activity=activity,
        type=info.type,
        attempts=attempts,
        traceback=info.traceback,
        cause=cause,
    )
    if isinstance(error, ActivityTimeout):
        error.which = _which(info)
    return error


_ACTIVITY_ERRORS: dict[str, type[ActivityError]] = {cls.__qualname__: cls for cls in (ActivityTimeout, WorkerLost)}


def timed_out(which: Which, message: str, cause: ErrorInfo | None = None) -> ErrorInfo:
    """A time of an activity ran out; the total and the wait for a worker are not tried again."""
    return ErrorInfo(
        type=declared_name(ActivityTimeout),
        message=message,
        cause=cause,
        retryable=which in ("attempt", "heartbeat"),
        fields=msgspec.Raw(_encoder.encode({"which": which})),
    )


def worker_lost(count: int) -> ErrorInfo:
    """An attempt was checked out by so many workers that were lost with it."""
    return ErrorInfo(
        type=declared_name(WorkerLost),
        message=f"{count} workers that ran this attempt were lost, and it is not given to another one: it may be what "
        "ended them (memory, a native crash); the workers' logs and their supervisor say more",
    )


CALLBACK_FAILED = "CallbackFailed"


def callback_error(info: ErrorInfo) -> CallbackError:
    """What awaiting a callback that failed raises."""
    return CallbackError(f"{info.type}: {info.message}", type=info.type)


def child_error(workflow_id: str, run: int, status: str, info: ErrorInfo | None, reason: str) -> ChildError:
    """What awaiting a child that ended without a result raises."""
    cause: Exception
    because = f": {reason}" if reason else ""
    if status == "rejected" and info is not None and info.type == declared_name(RunAlreadyExists):
        cause = RunAlreadyExists(info.message, workflow_id=workflow_id)
    elif info is not None:
        cause = exception_of(info)
    else:
        kind = {"cancelled": RunCancelled, "terminated": RunTerminated, "timed_out": RunTimedOut}.get(status, RunError)
        words = status.replace("_", " ")
        cause = kind(f"run {workflow_id!r} was {words}{because}", workflow_id=workflow_id, run=run)
    how = "could not be started" if status == "rejected" else status.replace("_", " ")
    return ChildError(f"child run {workflow_id!r} {how}: {cause}", workflow_id=workflow_id, cause=cause)


def request_error(workflow_id: str, info: ErrorInfo) -> EverstepError:
    """What awaiting a request to another run raises when it could not reach it."""
    if info.type == declared_name(RunNotFound):
        return RunNotFound(info.message, workflow_id=workflow_id)
    return Rejected(info.message)


def _which(info: ErrorInfo) -> Which:
    fields = _fields_in(info)
    which: Any = fields.get("which") if isinstance(fields, dict) else None
    return cast(Which, which) if which in get_args(Which) else "attempt"


def _rebuilt(cls: type[Exception], info: ErrorInfo) -> Exception:
    fields = _fields_in(info)
    if isinstance(fields, list):
        try:
            return _with_args(cls, tuple(fields))
        except Exception:  # the class has changed, or another language answered: the message is what is left
            fields = {}
    error = cls.__new__(cls)
    error.args = (info.message,)
    for name, value in fields.items():
        error.__dict__[name] = _typed(cls, name, value)
    return error


def _fields_in(info: ErrorInfo) -> list[Any] | dict[str, Any]:
    fields = msgspec.json.decode(info.fields) if isinstance(info.fields, msgspec.Raw) else {}
    return fields if isinstance(fields, list | dict) else {}


def _with_args(cls: type[Exception], args: tuple[Any, ...]) -> Exception:
    """`args` already are what `__init__` made of its parameters, so an `__init__` in Python is not called again."""
    error = cls.__new__(cls, *args) if inspect.isfunction(cls.__init__) else cls(*args)
    error.args = args
    return error


def _typed(cls: type[Exception], name: str, value: Any) -> Any:
    try:
        return msgspec.convert(value, attribute_types(cls).get(name, Any))
    except Exception:  # a value of an older version of the class: better as it is than not at all
        return value


def attribute_types(cls: type[Exception]) -> dict[str, Any]:
    """The annotations of an error's attributes, in its class or among the parameters of its `__init__`."""
    types: dict[str, Any] = {}
    for annotated in (cls.__init__, cls):
        with suppress(Exception):  # an annotation that cannot be resolved only means an attribute without a type
            types |= get_type_hints(annotated)
    return types


def why_not_declarable(cls: object) -> str | None:
    """Why `raises=` cannot hold `cls`, or None if it can."""
    if not (isinstance(cls, type) and issubclass(cls, Exception)):
        return "is not an exception class"
    if cls is Exception or issubclass(cls, EverstepError):
        return "says nothing about the business: declare errors of your own"
    try:
        cls.__new__(cls)
    except Exception as error:
        return f"cannot be rebuilt from what crosses the wire: its `__new__` wants arguments ({error})"
    return None
