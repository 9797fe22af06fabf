"""A run's program: the author's coroutine on its loop. An input event goes in, commands are in the journal after it.

The engine knows a program by `activate`, `close` and what is pending in its scope, so that other kinds of programs can
stand beside the coroutine one day.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import Context as ContextVariables
from typing import Any, NoReturn, TypeVar

from msgspec import UNSET, Raw

from everstep._core import stepping
from everstep._core.activities import too_large
from everstep._core.calls import Continuation, GoOn
from everstep._core.chance import Chance
from everstep._core.journal import in_words, outside_of_a_step
from everstep._core.loop import RunLoop, Task, new_loop
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
from everstep._error_infos import info_of
from everstep.context import Context
from everstep.errors import NondeterminismError, PayloadError
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
        "_broken_off",
        "_cancel_reason",
        "_code",
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
        self._broken_off: BaseException | None = None
        self._timeout_seconds: float | None = None
        self._variables = ContextVariables()
        self.state = NEW
        self.wakeups = Wakeups()
        self.loop = new_loop(identity.nonce, self._unretrieved)
        self.scope = Scope(identity, self.loop, self.wakeups, limit, sink, url, self._break_off)

    @property
    def closed(self) -> ClosedStatus | None:
        return _CLOSED.get(self.state)

    @property
    def why_silent(self) -> str | None:
        """Why nothing of the code can answer yet: it has not begun."""
        if self._begun or self.scope.started.start_at is None:
            return None
        if self.closed is not None:
            return "the run ended before its code had begun"
        return f"the run has not begun: its code starts at {self.scope.started.start_at.isoformat()}"

    def activate(self, event: InputEvent, at: int) -> None:
        """Apply one event and run the code until nothing is ready.

        Raises `CannotRun` if the code never yields, and if it did what replay cannot repeat.
        """
        if self.loop.ready:
            raise CannotRun(StallReason(kind="nondeterminism", message=_WOKEN))
        kind = type(event)
        self.state = RUN[self.state][kind]
        self.loop.now = at
        broken = stepping.step(self.loop, self._guard, self._variables, _APPLY[kind], self, event)
        self.scope.journal.refuse = outside_of_a_step
        if self.scope.violation is not None:
            self._check_violation()
        if broken is not None:
            raise _blocked(broken)
        if self._begun and self._main.done() and self.state not in _CLOSED:
            # The last line of defence: such a run would take inputs for ever and do nothing.
            problem = "it was cancelled" if self._main.cancelled() else repr(self._main.exception())
            raise RuntimeError(f"the run's code is over, and the run has not closed: {problem}")

    def ask(self, question: Callable[[], T]) -> T:
        """Ask the author's code something between two steps. It only looks: replay does not know that it was asked.

        Raises `CannotRun` if it does not yield, and if it has changed what the run does next.
        """
        if self.loop.is_closed():
            raise LookupError("the run has left memory: replay it, so that it stays, and ask then")
        if self.closed is not None:
            self.loop.take_ready()  # what its end has left undone is nothing that the question does
        scope, looking = self.scope, _Looking(self.loop, self.scope.chance)
        scope.looked_at = True
        scope.journal.refuse = looking.refuse
        try:
            return stepping.ask(self.loop, self._guard, self._variables, question)
        except stepping.Broken as error:
            raise _blocked(str(error)) from error
        finally:
            scope.looked_at = False
            scope.journal.refuse = outside_of_a_step
            self._check_violation()
            if looking.has_changed_something():
                raise CannotRun(StallReason(kind="nondeterminism", message=_CHANGED))

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
        self.scope.journal.refuse = evicted
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
        if self._broken_off is not None:
            return  # it is cleaning up already
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
            closing = self._completed(value) if self._broken_off is None else self._ended_by(self._broken_off)
        except BaseException as error:
            if not self.scope.journal.is_open:
                raise
            closing = self._ended_by(error if self._broken_off is None else self._broken_off)
        self._let_go()
        self._end(closing)

    def _completed(self, value: Raw) -> Event:
        return events.Completed(value=value, unread=self.unread())

    def _ended_by(self, error: BaseException) -> Event:
        return self._continued(error.continuation) if isinstance(error, GoOn) else self._failure(error)

    async def _result(self, started: events.Started) -> bytes:
        kwargs = started.kwargs if isinstance(started.kwargs, Raw) else None
        args, named = self._code.decode_args(bytes(started.args), None if kwargs is None else bytes(kwargs))
        value = await self._code.fn(Context(self.scope, self._code), *args, **named)
        result = self._code.encode_result(value)
        if len(result) > self._limit and not self.scope.journal.ends_with(events.Completed):
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

    def _break_off(self, error: BaseException) -> None:
        """Code beside the function, such as a signal's handler, has raised: the function is cancelled, once."""
        if self._broken_off is None and asyncio.current_task() is not self._main:
            self._broken_off = error
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
        except BaseException as defect:
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
        own_timeout = started.timeout_seconds if closing.workflow == started.workflow else None
        return Successor(
            source=source,
            workflow=closing.workflow,
            args=bytes(closing.args),
            kwargs=bytes(closing.kwargs) if isinstance(closing.kwargs, Raw) else None,
            version=started.version if again else closing.version,
            attributes=self.scope.attributes.snapshot(),
            memo=started.memo,
            inherited=self._inheritance(),
            timeout_seconds=self._timeout_seconds or own_timeout,
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


_WOKEN = (
    "code outside of the run has woken it: an Event, a Future or a Queue is shared with another run or with the "
    "process, and a replay would not see that. Deploy code in which runs send each other signals, and the run goes on"
)
_CHANGED = (
    "a query or a validator has changed what the run does next. It leaves no event, so a replay does not know of it: "
    "it may only look at the run. Deploy code in which it does, and the run goes on"
)


class _Looking:
    """Sees to it that nothing is different after the author's code has looked at its run."""

    def __init__(self, loop: RunLoop, chance: Chance) -> None:
        self._loop = loop
        self._chance = chance
        self._before = (loop.number(), chance.state())
        self._disturbed = False

    def refuse(self, command: Event | None) -> NoReturn:
        # What cancels something has told its task already.
        self._disturbed = self._disturbed or hasattr(command, "ref")
        what = "" if command is None else f" ({in_words(command)})"
        raise NondeterminismError(
            f"a query or a validator has tried to do something{what}: it leaves no event, so it may only look at the "
            "run"
        )

    def has_changed_something(self) -> bool:
        """Whether it could not be prevented, or undone."""
        number, chance = self._before
        self._loop.set_number(number)
        self._chance.restore(chance)
        return self._loop.take_ready() or self._disturbed


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
