"""The errors, whose fault each is, and what to do about it.

    EverstepError
    ├── RegistrationError     a workflow or activity is declared wrongly: change the code where it says
    ├── PayloadError          a value does not fit its annotation, or cannot be JSON: `.path` says which
    ├── ActivityError         an activity failed for good: `.cause`, `.type`, `.attempts`, `.traceback`
    │   ├── ActivityTimeout   … because it took too long: `.which`
    │   └── WorkerLost        … because the workers that ran it were lost, one after the other
    ├── ChildError            a child ended without a result: `.workflow_id`, `.cause`
    ├── CallbackError         whoever had a callback's token said that it failed: `.type`
    ├── MapError              more items of a map failed than it tolerates: `.result`, `.cause`
    ├── CompensationError     what a saga had done could not all be undone: `.failures`, `.cause`
    ├── RemoteError           the cause of one of these, of a class that is not known here: `.type`
    ├── WaitTimeout           (also TimeoutError) a wait in a workflow reached its `timeout=`
    ├── NondeterminismError   the workflow's code does what replay cannot repeat, or something else than was recorded
    ├── RunError              a run ended without a result
    │   ├── RunFailed         … its code raised: `.type`, `.cause`
    │   ├── RunCancelled      … it was cancelled
    │   ├── RunTerminated     … it was terminated
    │   └── RunTimedOut       … it reached its timeout
    ├── RunAlreadyExists      the workflow id is taken: choose another, or say `on_duplicate=`
    ├── RunNotFound           no run has that workflow id
    ├── QueryError            a run has no answer to a query: the message says why
    ├── UpdateRejected        a run's code did not accept an update: nothing has happened
    ├── UpdateFailed          a run accepted an update and could not carry it out: `.cause`
    ├── CallbackClosed        a callback was completed before, or nobody waits for it any more
    ├── Rejected              what a client asked for is impossible: the message says why
    └── NotReachable          neither Kafka nor an orchestrator answers: nothing is known to have happened
    NonRetryable              raised by an activity: do not try again (subclass it freely)
    RetryAfter                raised by an activity: try again after this delay
    RunEvicted                (BaseException) the run left this process's memory; its code may only let go

An exception crosses the wire as `ErrorInfo`. What a workflow sees is always built from that, on the first run and on
every replay, so it is always the same. Errors that an activity declares (`raises=`) are built as themselves: from
their `args`, or, where they have attributes, from those, without calling their `__init__` again.
"""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, cast, get_args, get_type_hints

import msgspec

from everstep_schemas.errors import ErrorInfo

if TYPE_CHECKING:
    from everstep._fanout import MapResult

Which = Literal["attempt", "total", "queue", "heartbeat"]

MAX_MESSAGE = 4_096
MAX_TRACEBACK = 8_192
MAX_CAUSES = 8
MAX_FRAMES = 40


class EverstepError(Exception):
    """Everything that Everstep itself raises."""


class RegistrationError(EverstepError):
    """A workflow, activity or provider is declared in a way that cannot work; the message says what to change."""


class PayloadError(EverstepError):
    """A value does not fit its annotation or cannot be written as JSON. `path` is where, such as `$.order.quantity`."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{reason} - at `{path}`")
        self.path = path
        self.reason = reason

    def under(self, name: str) -> PayloadError:
        """The same, seen from one level further out: `$.quantity` in `order` is `$.order.quantity`."""
        return PayloadError(f"$.{name}{self.path.removeprefix('$')}", self.reason)


class ActivityError(EverstepError):
    """An activity failed and is not tried again.

    `type` names the exception's class, `attempts` counts all tries, `traceback` shows the activity's own frames of the
    last one, `cause` is that exception: a `RemoteError`, since its class may not exist here.
    """

    def __init__(
        self, message: str, *, activity: str, type: str, attempts: int, traceback: str, cause: BaseException | None
    ) -> None:
        super().__init__(message)
        self.activity = activity
        self.type = type
        self.attempts = attempts
        self.traceback = traceback
        self.__cause__ = cause

    @property
    def cause(self) -> BaseException | None:
        return self.__cause__


class ActivityTimeout(ActivityError):
    """Time ran out: for `which` "attempt", its `timeout`. Not a `TimeoutError`: only waits raise those."""

    which: Which = "attempt"


class WorkerLost(ActivityError):
    """Several workers that ran an attempt were lost: it may be what ended them, so no further one tries."""


class ChildError(EverstepError):
    """A child run ended without a result. `cause` says how: a `RemoteError`, or a `RunError` such as `RunCancelled`."""

    def __init__(self, message: str, *, workflow_id: str, cause: BaseException | None) -> None:
        super().__init__(message)
        self.workflow_id = workflow_id
        self.__cause__ = cause

    @property
    def cause(self) -> BaseException | None:
        return self.__cause__


class CallbackError(EverstepError):
    """Whoever had the token of a callback said that it failed. `type` is their word for it."""

    def __init__(self, message: str, *, type: str) -> None:
        super().__init__(message)
        self.type = type


class MapError(EverstepError):
    """More items of a map failed than it tolerates. `result` holds what became of each, `cause` is the last error."""

    def __init__(self, message: str, result: MapResult[Any, Any], cause: BaseException) -> None:
        super().__init__(message)
        self.result = result
        self.__cause__ = cause

    @property
    def cause(self) -> BaseException | None:
        return self.__cause__


class CompensationError(EverstepError):
    """Steps of a saga failed to be undone: by hand, or by other code, somebody has to.

    `failures` names each with its error; `cause` is what made the saga fail.
    """

    def __init__(self, failures: list[tuple[str, Exception]], cause: BaseException | None) -> None:
        what = "; ".join(f"{name}: {error}" for name, error in failures)
        super().__init__(f"{len(failures)} of the saga's compensations failed ({what})")
        self.failures = failures
        self.__cause__ = cause

    @property
    def cause(self) -> BaseException | None:
        return self.__cause__


class RemoteError(EverstepError):
    """An exception of another process. `type` names its class; `str()` gives that and the message."""

    def __init__(self, type: str, message: str, traceback: str = "") -> None:
        super().__init__(f"{type}: {message}" if message else type)
        self.type = type
        self.message = message
        self.traceback = traceback


class WaitTimeout(EverstepError, TimeoutError):
    """A wait in a workflow reached its `timeout=` before what it waited for."""


class NondeterminismError(EverstepError):
    """A workflow's code does what replay cannot repeat. The run is stalled, whether the code catches this or not."""


class RunError(EverstepError):
    """A run ended without a result."""

    def __init__(self, message: str, *, workflow_id: str, run: int) -> None:
        super().__init__(message)
        self.workflow_id = workflow_id
        self.run = run


class RunFailed(RunError):
    """The run's code raised. `type` names the exception's class, `cause` is the exception as a `RemoteError`."""

    def __init__(self, *, workflow_id: str, run: int, error: ErrorInfo) -> None:
        cause = exception_of(error)
        super().__init__(f"run {workflow_id!r} failed: {cause}", workflow_id=workflow_id, run=run)
        self.type = error.type
        self.__cause__ = cause

    @property
    def cause(self) -> BaseException | None:
        return self.__cause__


class RunCancelled(RunError):
    """The run was cancelled and ended so."""


class RunTerminated(RunError):
    """The run was terminated: it ended without its code being asked."""


class RunTimedOut(RunError):
    """The run reached its timeout and was closed."""


class QueryError(EverstepError):
    """A run has no answer to a query: it knows none of that name, or its code could not answer."""


class UpdateRejected(EverstepError):
    """The run's code did not accept an update, for the reason in the message. Nothing has happened."""


class UpdateFailed(EverstepError):
    """A run accepted an update and could not carry it out. `cause` is the error, as a `RemoteError`."""

    def __init__(self, message: str, *, error: ErrorInfo) -> None:
        super().__init__(message)
        self.type = error.type
        self.__cause__ = exception_of(error)

    @property
    def cause(self) -> BaseException | None:
        return self.__cause__


class CallbackClosed(EverstepError):
    """A callback was completed before, or nobody waits for it any more."""


class RunAlreadyExists(EverstepError):
    """The workflow id belongs to another run."""

    def __init__(self, message: str, *, workflow_id: str) -> None:
        super().__init__(message)
        self.workflow_id = workflow_id


class RunNotFound(EverstepError):
    """No run has that workflow id."""

    def __init__(self, message: str, *, workflow_id: str) -> None:
        super().__init__(message)
        self.workflow_id = workflow_id


class Rejected(EverstepError):
    """What a client asked for cannot be done, now or later, unless it asks for something else."""


class NotReachable(EverstepError):
    """Kafka or the orchestrator's API did not answer; what was asked may or may not have been done."""


class NonRetryable(Exception):
    """Raised by an activity: this failure is final, whatever the retry policy says."""


class RetryAfter(Exception):
    """Raised by an activity: try again, if the policy allows another attempt, but not before `delay` has passed."""

    def __init__(self, delay: timedelta, message: str = "") -> None:
        super().__init__(message or f"try again after {delay.total_seconds():g} s")
        self.delay = delay


class RunEvicted(BaseException):
    """The run left this process's memory while the code was suspended. Nothing was decided; another replay goes on."""


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
        message=_message(error),
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


def _message(error: BaseException) -> str:
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
