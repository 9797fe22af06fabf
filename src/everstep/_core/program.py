"""A run's program: the author's coroutine on its loop. An input event goes in, commands are in the journal after it.

The engine knows a program by `activate`, `close` and what is pending in its scope, so that other kinds of programs can
stand beside the coroutine one day.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import Context as ContextVariables
from typing import Any

from msgspec import Raw

from everstep._core import stepping
from everstep._core.activities import too_large
from everstep._core.loop import Task, new_loop
from everstep._core.model import CannotRun, ClosedStatus, Identity, StallReason
from everstep._core.ports import Guard, LogSink, WorkflowCode
from everstep._core.scope import Scope, evicted
from everstep._core.states import CANCELLED, COMPLETED, FAILED, NEW, RUN, TERMINATED
from everstep._core.timers import Wakeups
from everstep.context import Context
from everstep.errors import PayloadError, info_of
from everstep_schemas import events
from everstep_schemas.events import Event, InputEvent

_CLOSED: dict[str, ClosedStatus] = {
    COMPLETED: "completed",
    FAILED: "failed",
    CANCELLED: "cancelled",
    TERMINATED: "terminated",
}


class Program:
    """The coroutine of one run with everything it waits for."""

    __slots__ = (
        "_cancel_reason",
        "_code",
        "_guard",
        "_limit",
        "_main",
        "_variables",
        "loop",
        "scope",
        "state",
        "wakeups",
    )

    _main: Task[None]

    def __init__(self, identity: Identity, code: WorkflowCode, limit: int, guard: Guard, sink: LogSink) -> None:
        self._code = code
        self._limit = limit
        self._guard = guard
        self._cancel_reason = ""
        self._variables = ContextVariables()
        self.state = NEW
        self.wakeups = Wakeups()
        self.loop = new_loop(identity.nonce, self._unretrieved)
        self.scope = Scope(identity, self.loop, self.wakeups, limit, sink)

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
        if (violation := self.scope.violation) is not None:
            message = f"{violation}. Deploy code without it and the run goes on"
            raise CannotRun(StallReason(kind="nondeterminism", message=message, got=violation))
        if broken is not None:
            raise CannotRun(StallReason(kind="blocked", message=f"the workflow's code does not yield: {broken}"))

    def close(self) -> None:
        """Close all of the author's code; it can record nothing any more. Idempotent."""
        self.scope.journal.close(evicted)
        stepping.evict(self.loop, self._guard)

    # ---- input events

    def _started(self, event: events.Started) -> None:
        self.scope.started_at = self.loop.now
        self._main = self.loop.create_task(self._body(event), name="main", context=self._variables)

    def _activity_completed(self, event: events.ActivityCompleted) -> None:
        self.scope.activities.completed(event)

    def _activity_failed(self, event: events.ActivityFailed) -> None:
        self.scope.activities.failed(event)

    def _activity_retried(self, event: events.ActivityRetried) -> None:
        self.scope.activities.retried(event)

    def _timer_fired(self, event: events.TimerFired) -> None:
        if event.ref in self.scope.timers:
            self.scope.timers.fired(event.ref)
        else:
            self.scope.mailbox.elapsed(event.ref)

    def _signal_received(self, event: events.SignalReceived) -> None:
        self.scope.mailbox.received(event)

    def _cancel_requested(self, event: events.CancelRequested) -> None:
        self._cancel_reason = event.reason
        self._main.cancel(event.reason or None)

    def _terminated(self, event: events.Terminated) -> None:
        self.loop.end()
        self.scope.activities.cancel_all()

    # ---- the author's function, from its first line to the closing event

    async def _body(self, started: events.Started) -> None:
        closing: Event
        try:
            closing = events.Completed(value=Raw(await self._result(started)))
        except BaseException as error:
            if self.loop.is_closed():
                raise
            closing = self._failure(error)
        self.scope.activities.cancel_all()
        self.scope.journal.record(closing)
        self.state = RUN[self.state][type(closing)]
        self.loop.end()

    async def _result(self, started: events.Started) -> bytes:
        kwargs = started.kwargs if isinstance(started.kwargs, Raw) else None
        args, named = self._code.decode_args(bytes(started.args), None if kwargs is None else bytes(kwargs))
        value = await self._code.fn(Context(self.scope, self._code), *args, **named)
        result = self._code.encode_result(value)
        if len(result) > self._limit:
            raise PayloadError("$", too_large("the run's result", len(result), self._limit))
        return result

    def _failure(self, error: BaseException) -> Event:
        if isinstance(error, asyncio.CancelledError) and events.Cancelled in RUN[self.state]:
            return events.Cancelled(reason=self._cancel_reason)
        with stepping.outside():  # a traceback shows source lines, which are read from files
            return events.Failed(error=info_of(error))

    def _unretrieved(self, context: dict[str, Any]) -> None:
        self.scope.unretrieved(context)


_APPLY: dict[type[Event], Callable[..., None]] = {
    events.Started: Program._started,
    events.ActivityCompleted: Program._activity_completed,
    events.ActivityFailed: Program._activity_failed,
    events.ActivityRetried: Program._activity_retried,
    events.TimerFired: Program._timer_fired,
    events.SignalReceived: Program._signal_received,
    events.CancelRequested: Program._cancel_requested,
    events.Terminated: Program._terminated,
}
