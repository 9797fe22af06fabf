"""A run's program: the author's coroutine on its loop. An input event goes in, commands are in the journal after it.

The engine knows a program by `activate`, `close` and what is pending in its scope, so that other kinds of programs can
stand beside the coroutine one day.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import Context as ContextVariables
from typing import Any, TypeVar

from msgspec import UNSET, Raw

from everstep._core import stepping
from everstep._core.activities import too_large
from everstep._core.calls import Continuation, GoOn
from everstep._core.loop import Task, new_loop
from everstep._core.model import CannotRun, ClosedStatus, Identity, StallReason, Successor
from everstep._core.ports import Guard, LogSink, WorkflowCode
from everstep._core.retrying import retry_at
from everstep._core.scope import Scope, evicted
from everstep._core.signals import unread_of
from everstep._core.states import (
    CANCELLED,
    COMPLETED,
    CONTINUED,
    FAILED,
    NEW,
    RUN,
    RUNNING,
    TERMINATED,
    TIMED_OUT,
)
from everstep._core.timers import Wakeups, instant, micros
from everstep.context import Context
from everstep.errors import NondeterminismError, PayloadError, info_of
from everstep_schemas import events
from everstep_schemas.errors import ErrorInfo
from everstep_schemas.events import Event, Inheritance, InputEvent

T = TypeVar("T")

_CLOSED: dict[str, ClosedStatus] = {
    COMPLETED: "completed",
    FAILED: "failed",
    CANCELLED: "cancelled",
    TERMINATED: "terminated",
    TIMED_OUT: "timed_out",
    CONTINUED: "continued",
}
# The run as a whole wakes under the number of its first event: to begin, and later because it has taken too long.
START = 1
# So many ids of what was applied before go along to the next run of an id.
INHERITED_IDS = 200


class Program:
    """The coroutine of one run with everything it waits for."""

    __slots__ = (
        "_begun",
        "_cancel_reason",
        "_code",
        "_fatal",
        "_guard",
        "_limit",
        "_main",
        "_timeout_seconds",
        "_variables",
        "loop",
        "scope",
        "state",
        "wakeups",
    )

    _main: Task[None]

    def __init__(
        self, identity: Identity, code: WorkflowCode, limit: int, guard: Guard, sink: LogSink, url: str
    ) -> None:
        self._code = code
        self._limit = limit
        self._guard = guard
        self._cancel_reason = ""
        self._begun = False
        self._fatal: BaseException | None = None
        self._timeout_seconds: float | None = None
        self._variables = ContextVariables()
        self.state = NEW
        self.wakeups = Wakeups()
        self.loop = new_loop(identity.nonce, self._unretrieved)
        self.scope = Scope(identity, self.loop, self.wakeups, limit, sink, url, self._fail)

    @property
    def closed(self) -> ClosedStatus | None:
        return _CLOSED.get(self.state)

    def activate(self, event: InputEvent, at: int) -> None:
        """Apply one event and run the code until nothing is ready.

        Raises `CannotRun` if the code never yields, and if it did what replay cannot repeat.
        """
        kind = type(event)
        self.state = RUN[self.state][kind]
        self.loop.now = at
        broken = stepping.step(self.loop, self._guard, self._variables, _APPLY[kind], self, event)
        self._check_violation()
        if broken is not None:
            raise _blocked(broken)

    def ask(self, question: Callable[[], T]) -> T:
        """Ask the author's code something between two steps: it may neither command nor schedule anything."""
        self.scope.journal.close(_refuse_command)
        try:
            answer = stepping.ask(self.loop, self._guard, self._variables, question)
        except stepping.Broken as error:
            raise _blocked(str(error)) from error
        finally:
            self.scope.journal.reopen()
            scheduled = self.loop.take_ready()
        self._check_violation()
        if scheduled:
            raise NondeterminismError("a query or validator has scheduled something; it may only look")
        return answer

    def _check_violation(self) -> None:
        if (violation := self.scope.violation) is not None:
            message = f"{violation}. Deploy code without it and the run goes on"
            raise CannotRun(StallReason(kind="nondeterminism", message=message, got=violation))

    def due(self, seq: int, now: int) -> InputEvent:
        """What happens because the time of `seq` has come."""
        if seq == START:
            return events.TimedOut() if self._begun else events.TimerFired(ref=START)
        if seq in self.scope.activities:
            return self.scope.activities.due(seq, now)
        if seq in self.scope.callbacks:
            return self.scope.callbacks.due(seq)
        return events.TimerFired(ref=seq)

    def close(self) -> None:
        """Close all of the author's code; it can record nothing any more. Idempotent."""
        self.scope.journal.close(evicted)
        stepping.evict(self.loop, self._guard)

    # ---- input events

    def _started(self, event: events.Started) -> None:
        self.scope.begin(event)
        if event.start_at is not None and micros(event.start_at) > self.loop.now:
            self.wakeups.add(START, micros(event.start_at))
        else:
            self._begin()

    def _begin(self) -> None:
        self._begun = True
        self.wakeups.discard(START)
        if self.scope.started.expires_at is not None:
            self.wakeups.add(START, micros(self.scope.started.expires_at))
        self._main = self.loop.create_task(self._body(), name="main", context=self._variables)

    def _timer_fired(self, event: events.TimerFired) -> None:
        scope, ref = self.scope, event.ref
        if ref in scope.timers:
            scope.timers.fired(ref)
        elif ref in scope.mailbox:
            scope.mailbox.elapsed(ref)
        elif ref in scope.conditions:
            scope.conditions.elapsed(ref)
        elif ref in scope.callbacks:
            scope.callbacks.elapsed(event)
        elif ref == START and not self._begun:
            self._begin()
        else:
            raise LookupError(f"nothing waits for the time of event {ref}")

    def _update_requested(self, event: events.UpdateRequested) -> None:
        self.scope.updates.begin(self.scope.journal.next_seq - 1, event)

    def _cancel_requested(self, event: events.CancelRequested) -> None:
        self._cancel_reason = event.reason
        if self._begun:
            self._main.cancel(event.reason or None)
        else:
            self._end(events.Cancelled(reason=event.reason, unread=self.unread()))

    def _closed_from_outside(self, event: events.Terminated | events.TimedOut) -> None:
        self.loop.end()
        self._let_go()

    # ---- the author's function, from its first line to the closing event

    async def _body(self) -> None:
        try:
            value = Raw(await self._result(self.scope.started))
            closing: Event = events.Completed(value=value, unread=self.unread())
        except GoOn as going:
            closing = self._continued(going.continuation)
        except BaseException as error:
            if self.loop.is_closed():
                raise
            closing = self._failure(error)
        if self._fatal is not None:
            closing = self._failure(self._fatal)
        self._let_go()
        self._end(closing)

    async def _result(self, started: events.Started) -> bytes:
        kwargs = started.kwargs if isinstance(started.kwargs, Raw) else None
        args, named = self._code.decode_args(bytes(started.args), None if kwargs is None else bytes(kwargs))
        value = await self._code.fn(Context(self.scope, self._code), *args, **named)
        result = self._code.encode_result(value)
        if len(result) > self._limit:
            raise PayloadError("$", too_large("the run's result", len(result), self._limit))
        return result

    def _let_go(self) -> None:
        """Record what becomes of everything that the run leaves behind."""
        self.scope.activities.cancel_all()
        self.scope.children.close_all()
        self.scope.updates.close_all()

    def _end(self, closing: Event) -> None:
        self.scope.journal.record(closing)
        self.state = RUN[self.state][type(closing)]
        self.loop.end()

    def unread(self) -> dict[str, int]:
        """How many signals of each name the code has never received."""
        counts: dict[str, int] = {}
        for name, _ in self.scope.mailbox.unread():
            counts[name] = counts.get(name, 0) + 1
        return counts

    # ---- how it ends otherwise

    def _fail(self, error: BaseException) -> None:
        """Code beside the function, such as a signal's handler, has raised: the function is broken off."""
        self._fatal = self._fatal or error
        self._main.cancel()

    def _failure(self, error: BaseException) -> Event:
        if isinstance(error, asyncio.CancelledError) and events.Cancelled in RUN[self.state]:
            return events.Cancelled(reason=self._cancel_reason, unread=self.unread())
        with stepping.outside():  # a traceback shows source lines, which are read from files
            info = info_of(error)
        again_at = self._again_at(error, info)
        if again_at is None:
            return events.Failed(error=info, unread=self.unread())
        started = self.scope.started
        return events.Continued(
            workflow=started.workflow, args=started.args, kwargs=started.kwargs, error=info, retry_at=instant(again_at)
        )

    def _again_at(self, error: BaseException, info: ErrorInfo) -> int | None:
        """When the run is begun again after this error, if it is."""
        started, run = self.scope.started, self.scope.identity
        if started.retry is None or self.state != RUNNING or not self._may_retry(error):
            return None
        at = retry_at(started.retry, info, f"{run.workflow_id}/{run.nonce}", started.attempt, self.loop.now)
        if at is not None and started.expires_at is not None and at >= micros(started.expires_at):
            return None
        return at

    def _may_retry(self, error: BaseException) -> bool:
        try:
            return self._code.may_retry(error)
        except Exception as defect:
            self.scope.log("warning", "retry_if raised, beginning the run again", {"error": repr(defect)})
            return True

    def _continued(self, continuation: Continuation) -> Event:
        self._timeout_seconds = continuation.timeout_seconds
        return events.Continued(
            workflow=continuation.workflow,
            args=Raw(continuation.args),
            kwargs=UNSET if continuation.kwargs is None else Raw(continuation.kwargs),
            version=continuation.version,
        )

    def successor(self, source: str, closing: events.Continued) -> Successor:
        """The run that goes on with the work of this one, which is `continued`."""
        started, again = self.scope.started, closing.error is not None
        return Successor(
            source=source,
            workflow=closing.workflow,
            args=bytes(closing.args),
            kwargs=bytes(closing.kwargs) if isinstance(closing.kwargs, Raw) else None,
            version=started.version if again else closing.version,
            attributes=self.scope.attributes.snapshot(),
            memo=started.memo,
            inherited=self._inheritance(),
            timeout_seconds=self._timeout_seconds or started.timeout_seconds,
            start_at=None if closing.retry_at is None else micros(closing.retry_at),
            expires_at=micros(started.expires_at) if again and started.expires_at is not None else None,
            attempt=started.attempt + 1 if again else 1,
            traceparent=started.traceparent,
        )

    def _inheritance(self) -> Inheritance:
        scope = self.scope
        return Inheritance(
            unread=tuple(unread_of(name, message) for name, message in scope.mailbox.unread()),
            signal_ids=tuple(scope.mailbox.ids()[-INHERITED_IDS:]),
            update_ids=tuple(scope.updates.ids()[-INHERITED_IDS:]),
        )

    def _unretrieved(self, context: dict[str, Any]) -> None:
        self.scope.unretrieved(context)


def _blocked(where: str) -> CannotRun:
    return CannotRun(StallReason(kind="blocked", message=f"the workflow's code does not yield: {where}"))


def _refuse_command() -> None:
    raise NondeterminismError(
        "a query or validator has tried to do something: it leaves no event, so it may only look at the run's state"
    )


_APPLY: dict[type[Event], Callable[..., None]] = {
    events.Started: Program._started,
    events.ActivityStarted: lambda program, event: program.scope.activities.started(event),
    events.ActivityReleased: lambda program, event: program.scope.activities.released(event),
    events.ActivityCompleted: lambda program, event: program.scope.activities.completed(event),
    events.ActivityFailed: lambda program, event: program.scope.activities.failed(event),
    events.ActivityRetried: lambda program, event: program.scope.activities.retried(event),
    events.TimerFired: Program._timer_fired,
    events.SignalReceived: lambda program, event: program.scope.mailbox.received(event),
    events.ChildCompleted: lambda program, event: program.scope.children.completed(event),
    events.ChildFailed: lambda program, event: program.scope.children.failed(event),
    events.RequestAnswered: lambda program, event: program.scope.children.requests.answered(event),
    events.CallbackCompleted: lambda program, event: program.scope.callbacks.completed(event),
    events.CallbackFailed: lambda program, event: program.scope.callbacks.failed(event),
    events.UpdateRequested: Program._update_requested,
    events.CancelRequested: Program._cancel_requested,
    events.Terminated: Program._closed_from_outside,
    events.TimedOut: Program._closed_from_outside,
}
