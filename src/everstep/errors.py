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

How they cross the wire, and what a workflow sees of them, is said in `everstep._error_infos`.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from everstep._fanout import MapResult

Which = Literal["attempt", "total", "queue", "heartbeat"]


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

    def saying(self, what: str) -> PayloadError:
        """The same, and before it what the value was to be: "the result of activity 'pay' does not fit"."""
        return PayloadError(self.path, f"{what}: {self.reason}")


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

    def __init__(self, message: str, failures: list[tuple[str, BaseException]], cause: BaseException | None) -> None:
        super().__init__(message)
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

    def __init__(self, *, workflow_id: str, run: int, type: str, cause: Exception) -> None:
        super().__init__(f"run {workflow_id!r} failed: {cause}", workflow_id=workflow_id, run=run)
        self.type = type
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

    def __init__(self, message: str, *, type: str, cause: Exception) -> None:
        super().__init__(message)
        self.type = type
        self.__cause__ = cause

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
        if not isinstance(delay, timedelta):
            raise TypeError(f"RetryAfter: delay is a duration such as seconds(30), not {delay!r}")
        super().__init__(message or f"try again after {delay.total_seconds():g} s")
        self.delay = delay


class RunEvicted(BaseException):
    """The run left this process's memory while the code was suspended. Nothing was decided; another replay goes on."""
