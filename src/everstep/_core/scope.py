"""What the author's code can reach of the run it belongs to. It finds its run through the running loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, NoReturn

from msgspec import Raw

from everstep._core.activities import Activities
from everstep._core.calls import ActivityCall
from everstep._core.handles import Handle
from everstep._core.journal import Journal
from everstep._core.loop import DeadLoop, RunLoop
from everstep._core.model import Identity
from everstep._core.ports import LogSink
from everstep._core.signals import NO_DEFAULT, Mailbox
from everstep._core.stepping import outside
from everstep._core.timers import Timers, Wakeups
from everstep.errors import NondeterminismError, RunEvicted
from everstep_schemas.events import StatusSet

_get_running_loop = asyncio._get_running_loop
MAX_STATUS_BYTES = 4_096


class TimerHandle(Handle[None]):
    """A sleep; cancelling it is a command."""

    __slots__ = ("_seq", "_timers")

    _seq: int
    _timers: Timers

    def cancel(self, msg: Any | None = None) -> bool:
        if self.done():
            return False
        self._timers.cancel(self._seq)
        return super().cancel(msg)

    def elapse(self) -> None:
        self.set_result(None)


class Scope:
    """A run, seen from within."""

    __slots__ = (
        "_sink",
        "activities",
        "custom_status",
        "identity",
        "journal",
        "loop",
        "mailbox",
        "started_at",
        "timers",
        "violation",
    )

    def __init__(self, identity: Identity, loop: RunLoop, wakeups: Wakeups, limit: int, sink: LogSink) -> None:
        self.identity = identity
        self.loop = loop
        self.journal = Journal()
        self.activities = Activities(loop, self.journal, wakeups, limit)
        self.timers = Timers(self.journal, wakeups)
        self.mailbox = Mailbox(loop, self.journal, wakeups)
        self.custom_status: str | None = None
        self.started_at = 0
        # What the code has done that replay cannot repeat: nothing of this step may be recorded.
        self.violation: str | None = None
        self._sink = sink
        loop.scope = self
        loop.timers = self.timers

    def schedule_activity(self, call: ActivityCall) -> Handle[Any]:
        """Record the call and return its handle. Raises `PayloadError` if the arguments are too large."""
        return self.activities.schedule(call)

    def sleep_until(self, at: int) -> Handle[None]:
        """A handle that is done at `at`, or at the next turn of the loop if that has passed."""
        handle = TimerHandle(loop=self.loop)
        handle._timers = self.timers
        if at > self.loop.now:
            handle._seq = self.timers.start(at, handle.elapse)
        else:
            handle._seq = 0
            self.loop.call_soon(_elapse, handle)
        return handle

    def wait_for_signal(
        self, name: str, decode: Callable[[Raw], Any], deadline: int | None, default: object = NO_DEFAULT
    ) -> Handle[Any]:
        return self.mailbox.wait(name, decode, deadline, default)

    def set_status(self, text: str) -> None:
        """Record the text unless it is the status already. Raises `ValueError` for text that cannot be stored."""
        if text != self.custom_status:
            if problem := _why_bad_status(text):
                raise ValueError(f"ctx.set_status: the text {problem}")
            _, recorded = self.journal.record(StatusSet(text=text))
            self.custom_status = recorded.text

    def log(self, level: str, event: str, fields: dict[str, object]) -> None:
        """Write to the sink; silent on replay, when it has been written before."""
        if not self.journal.replaying:
            run = self.identity
            with outside():
                sink = self._sink.bind(workflow_id=run.workflow_id, run=run.run, workflow=run.workflow)
                getattr(sink, level)(event, **fields)

    def violate(self, message: str) -> NoReturn:
        """The code did what replay cannot repeat: the run is stalled, even if the code catches what this raises."""
        self.violation = self.violation or message
        self.loop.end()
        raise NondeterminismError(message)

    def unretrieved(self, context: dict[str, Any]) -> None:
        """An exception that no code of the run has looked at."""
        error = context.get("exception")
        self.log("warning", str(context.get("message")), {"error": repr(error)} if error else {})


def _elapse(handle: TimerHandle) -> None:
    if not handle.done():
        handle.elapse()


def _why_bad_status(text: str) -> str | None:
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        return "is not valid Unicode (it holds half of a surrogate pair)"
    if size > MAX_STATUS_BYTES:
        return f"has {size} bytes; {MAX_STATUS_BYTES} are allowed"
    return "holds a NUL character, which PostgreSQL cannot store" if "\0" in text else None


def current() -> Scope | None:
    """The run whose code is being stepped, or None outside of workflows. Raises `RunEvicted` while one is evicted."""
    loop = _get_running_loop()
    if type(loop) is RunLoop:
        return loop.scope
    if type(loop) is DeadLoop:
        evicted()
    return None


def evicted() -> NoReturn:
    raise RunEvicted("the run has left this process's memory: its code can only let go now")
