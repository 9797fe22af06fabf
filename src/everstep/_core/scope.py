"""What the author's code can reach of the run it belongs to. It finds its run through the running loop."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NoReturn

from msgspec import Raw

from everstep._core.activities import Activities, too_large
from everstep._core.attributes import Attributes
from everstep._core.callbacks import Callback, Callbacks
from everstep._core.calls import ActivityCall, ChildCall, Continuation, GoOn
from everstep._core.chance import Chance
from everstep._core.children import ChildHandle, Children
from everstep._core.conditions import Conditions
from everstep._core.handlers import Handlers, Queries, Updates
from everstep._core.handles import Handle, dropped
from everstep._core.journal import Journal
from everstep._core.loop import DeadLoop, RunLoop
from everstep._core.model import Identity
from everstep._core.payloads import codec_for
from everstep._core.ports import LogSink
from everstep._core.signals import NO_DEFAULT, Handler, Mailbox, Message, UnreadableSignal
from everstep._core.stepping import outside
from everstep._core.texts import check_name, check_text
from everstep._core.timers import Timers, Wakeups
from everstep._error_infos import exception_of, info_of
from everstep.errors import NondeterminismError, PayloadError, RunEvicted
from everstep_schemas.events import (
    Continued,
    Event,
    MilestoneReached,
    PatchMarked,
    SideEffectRecorded,
    Started,
    StatusSet,
)

_get_running_loop = asyncio._get_running_loop
_ANY = codec_for(Any)


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
        "_patches",
        "_sink",
        "activities",
        "attributes",
        "break_off",
        "callbacks",
        "chance",
        "children",
        "conditions",
        "custom_status",
        "handlers",
        "identity",
        "journal",
        "limit",
        "looked_at",
        "loop",
        "mailbox",
        "maps",
        "on_unreadable",
        "queries",
        "started",
        "started_at",
        "timers",
        "updates",
        "violation",
    )

    started: Started

    def __init__(
        self,
        identity: Identity,
        loop: RunLoop,
        wakeups: Wakeups,
        limit: int,
        sink: LogSink,
        url: str,
        break_off: Callable[[BaseException], None],
    ) -> None:
        self.identity = identity
        self.loop = loop
        self.journal = journal = Journal()
        self.activities = Activities(loop, journal, wakeups, limit, identity.nonce)
        self.timers = Timers(journal, wakeups)
        self.mailbox = Mailbox(loop, journal, wakeups, self._handle_signal, self._put_aside)
        self.children = Children(identity, loop, journal, limit)
        self.callbacks = Callbacks(identity, loop, journal, wakeups, url)
        self.conditions = Conditions(loop, journal, wakeups)
        self.queries = Queries()
        self.handlers = Handlers(loop)
        self.updates = Updates(self.handlers, journal, limit)
        self.attributes = Attributes(journal, {})
        self.chance = Chance(identity.nonce)
        self.maps: list[Any] = []  # how far each fan-out is
        self.custom_status: str | None = None
        self.started_at = 0
        self.break_off = break_off
        self.limit = limit
        # Between two steps, a query or a validator is being asked.
        self.looked_at = False
        self.on_unreadable: Callable[[UnreadableSignal], Any] | None = None
        # What the code has done that replay cannot repeat: nothing of this step may be recorded.
        self.violation: str | None = None
        self._sink = sink
        self._patches: dict[str, bool] = {}
        loop.scope = self
        loop.timers = self.timers

    def begin(self, started: Started) -> None:
        """What the run was started with."""
        self.started = started
        self.started_at = self.loop.now
        self.attributes = Attributes(self.journal, started.attributes)
        if started.inherited is not None:
            self.mailbox.inherit(started.inherited)
            self.updates.inherited = dict.fromkeys(started.inherited.update_ids)

    def waits_for(self) -> int:
        """How many things the code waits for."""
        told = len(self.activities) + len(self.children) + len(self.callbacks)
        return told + len(self.timers) + len(self.mailbox) + len(self.conditions)

    # ---- doing and waiting

    def schedule_activity(self, call: ActivityCall) -> Handle[Any]:
        """Record the call and return its handle. Raises `PayloadError` if the arguments are too large."""
        return self.activities.schedule(call)

    def start_child(self, call: ChildCall) -> ChildHandle[Any]:
        """Record the call and return its handle. Raises `PayloadError` if the arguments are too large."""
        return self.children.start(call)

    def create_callback(
        self, decode: Callable[[Raw], Any], deadline: int | None, heartbeat_seconds: float | None
    ) -> Callback[Any]:
        return self.callbacks.create(decode, deadline, heartbeat_seconds)

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

    def wait_until(self, predicate: Callable[[], bool], deadline: int | None) -> Handle[None]:
        return self.conditions.wait(predicate, deadline)

    def handlers_done(self, deadline: int | None) -> Handle[None]:
        """A handle that is done when no handler is at work. Raises `RuntimeError` if one of them asks."""
        if self.handlers.running(asyncio.current_task()):
            raise RuntimeError("ctx.handlers_done: a handler would wait for itself; await it in the run's function")
        return self.conditions.wait(self.handlers.idle, deadline, what="ctx.handlers_done")

    # ---- signals that go to a handler, or to nobody

    def _handle_signal(self, handler: Handler, value: Any, message: Message | None = None) -> None:
        self.handlers.start(self._handled(handler, value, message), "signal")

    async def _handled(self, handler: Handler, value: Any, message: Message | None) -> None:
        """An error in a handler is an error of the run, as if its function had raised it."""
        if message is not None:
            self.mailbox.seen(message)
        try:
            outcome = handler(value)
            if inspect.isawaitable(outcome):
                await outcome
        except BaseException as error:
            if not self.journal.is_open or _is_wanted(error):
                raise
            self.break_off(error)

    def _put_aside(self, signal: UnreadableSignal) -> None:
        fields: dict[str, object] = {"name": signal.name, "error": str(signal.error)}
        self.log("warning", "a signal does not fit its type and was put aside", fields)
        if self.on_unreadable is not None:
            self._handle_signal(self.on_unreadable, signal)

    # ---- saying

    def set_status(self, text: str) -> None:
        """Record the text unless it is the status already. Raises `ValueError` for text that cannot be stored."""
        check_text("ctx.set_status: the text", text)
        if text != self.custom_status:
            _, recorded = self.journal.record(StatusSet(text=text))
            self.custom_status = recorded.text

    def milestone(self, text: str) -> None:
        """Record the text. Raises `ValueError` for text that cannot be stored."""
        check_text("ctx.milestone: the text", text)
        self.journal.record(MilestoneReached(text=text))

    def log(self, level: str, event: str, fields: dict[str, object]) -> None:
        """Write to the sink; silent on replay, when it has been written before."""
        if not self.journal.replaying:
            run = self.identity
            with outside(), suppress(Exception):  # a line that cannot be written is none on replay either
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

    # ---- deciding once

    def patched(self, id: str) -> bool:
        """Whether the run takes the new way: one that is new here does, one that has passed here before does not."""
        known = self._patches.get(id)
        if known is None:
            check_name("ctx.patched: the change", id)
            known = not self.journal.replaying or self._is_marked(id)
            if known:
                self.journal.record(PatchMarked(id=id))
            self._patches[id] = known
        return known

    def retire_patch(self, id: str) -> None:
        """Accept the mark in histories that have it; new ones get none."""
        if id not in self._patches:
            check_name("ctx.retire_patch: the change", id)
            if self._is_marked(id):
                self.journal.record(PatchMarked(id=id))
                self._patches[id] = True

    def _is_marked(self, id: str) -> bool:
        following = self.journal.recorded_next()
        return isinstance(following, PatchMarked) and following.id == id

    def side_effect(self, fn: Callable[[], Any], codec: Any) -> Any:
        """What `fn` returns, called once: replays get what was recorded. An error is a result, too: a `RemoteError`."""
        effect = SideEffectRecorded() if self.journal.replaying else self._effect(fn, codec)
        _, recorded = self.journal.record(effect)
        if recorded.error is not None:
            raise exception_of(recorded.error)
        return codec.decode(recorded.value)

    def _effect(self, fn: Callable[[], Any], codec: Any) -> SideEffectRecorded:
        self.journal.must_be_open()
        with outside():
            try:
                value = fn()
                if dropped(value):
                    raise TypeError("ctx.side_effect: the function awaits something; what takes time is an activity")
                data = codec.encode(value)
                if len(data) > self.limit:
                    raise PayloadError("$", too_large("the side effect's value", len(data), self.limit))
            except BaseException as error:
                return SideEffectRecorded(error=info_of(error))
        return SideEffectRecorded(value=Raw(data))

    # ---- going on

    def go_on(self, continuation: Continuation) -> NoReturn:
        """Break the function off wherever it is, also from a task beside it. Raises `PayloadError`."""
        size = continuation.size
        if size > self.limit and not self.journal.ends_with(Continued):
            what = f"the arguments of workflow {continuation.workflow!r}"
            raise PayloadError("$", too_large(what, size, self.limit))
        going = GoOn(continuation)
        self.break_off(going)
        raise going


def _is_wanted(error: BaseException) -> bool:
    """Whether the task was cancelled, rather than having come upon a cancellation of something else."""
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() > 0


def _elapse(handle: TimerHandle) -> None:
    if not handle.done():
        handle.elapse()


def current() -> Scope | None:
    """The run whose code is being stepped, or None outside of workflows. Raises `RunEvicted` while one is evicted."""
    loop = _get_running_loop()
    if type(loop) is RunLoop:
        return loop.scope
    if type(loop) is DeadLoop:
        evicted()
    return None


def evicted(command: Event | None = None) -> NoReturn:
    raise RunEvicted("the run has left this process's memory: its code can only let go now")
