"""What the author's code can reach of the run it belongs to. It finds its run through the running loop."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any, NoReturn

from msgspec import Raw

from everstep._core.activities import Activities
from everstep._core.attributes import Attributes
from everstep._core.callbacks import Callback, Callbacks
from everstep._core.calls import ActivityCall, ChildCall
from everstep._core.children import ChildHandle, Children
from everstep._core.conditions import Conditions
from everstep._core.handlers import Queries, Updates
from everstep._core.handles import Handle
from everstep._core.journal import Journal
from everstep._core.loop import DeadLoop, RunLoop
from everstep._core.model import Identity
from everstep._core.payloads import codec_for
from everstep._core.ports import LogSink
from everstep._core.signals import NO_DEFAULT, Handler, Mailbox, UnreadableSignal
from everstep._core.stepping import outside
from everstep._core.timers import Timers, Wakeups
from everstep.errors import NondeterminismError, RunEvicted
from everstep_schemas.events import MilestoneReached, PatchMarked, SideEffectRecorded, Started, StatusSet

_get_running_loop = asyncio._get_running_loop
MAX_TEXT_BYTES = 4_096
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
        "callbacks",
        "children",
        "conditions",
        "custom_status",
        "fail",
        "identity",
        "journal",
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
        fail: Callable[[BaseException], None],
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
        self.updates = Updates(loop, journal)
        self.attributes = Attributes(journal, {})
        self.maps: list[Any] = []  # how far each fan-out is
        self.custom_status: str | None = None
        self.started_at = 0
        self.fail = fail
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

    # ---- signals that go to a handler, or to nobody

    def _handle_signal(self, handler: Handler, value: Any) -> None:
        self.loop.create_task(self._handled(handler, value), name="signal")

    async def _handled(self, handler: Handler, value: Any) -> None:
        """An error in a handler is an error of the run, as if its function had raised it."""
        try:
            outcome = handler(value)
            if inspect.isawaitable(outcome):
                await outcome
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            if self.loop.is_closed():
                raise
            self.fail(error)

    def _put_aside(self, signal: UnreadableSignal) -> None:
        fields: dict[str, object] = {"name": signal.name, "error": str(signal.error)}
        self.log("warning", "a signal does not fit its type and was put aside", fields)
        if self.on_unreadable is not None:
            self._handle_signal(self.on_unreadable, signal)

    # ---- saying

    def set_status(self, text: str) -> None:
        """Record the text unless it is the status already. Raises `ValueError` for text that cannot be stored."""
        if text != self.custom_status:
            if problem := _why_bad_text(text):
                raise ValueError(f"ctx.set_status: the text {problem}")
            _, recorded = self.journal.record(StatusSet(text=text))
            self.custom_status = recorded.text

    def milestone(self, text: str) -> None:
        """Record the text. Raises `ValueError` for text that cannot be stored."""
        if problem := _why_bad_text(text):
            raise ValueError(f"ctx.milestone: the text {problem}")
        self.journal.record(MilestoneReached(text=text))

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

    # ---- deciding once

    def patched(self, id: str) -> bool:
        """Whether the run takes the new way: one that is new here does, one that has passed here before does not."""
        known = self._patches.get(id)
        if known is None:
            known = self._patches[id] = not self.journal.replaying or self._is_marked(id)
            if known:
                self.journal.record(PatchMarked(id=id))
        return known

    def retire_patch(self, id: str) -> None:
        """Accept the mark in histories that have it; new ones get none."""
        if id not in self._patches and self._is_marked(id):
            self._patches[id] = True
            self.journal.record(PatchMarked(id=id))

    def _is_marked(self, id: str) -> bool:
        following = self.journal.recorded_next()
        return isinstance(following, PatchMarked) and following.id == id

    def side_effect(self, fn: Callable[[], Any], codec: Any) -> Any:
        """What `fn` returns, called once: replays get what was recorded. Raises `PayloadError`."""
        if self.journal.replaying:
            value = Raw(b"null")
        else:
            with outside():
                value = Raw(codec.encode(fn()))
        _, recorded = self.journal.record(SideEffectRecorded(value=value))
        return codec.decode(recorded.value)


def _elapse(handle: TimerHandle) -> None:
    if not handle.done():
        handle.elapse()


def _why_bad_text(text: str) -> str | None:
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        return "is not valid Unicode (it holds half of a surrogate pair)"
    if size > MAX_TEXT_BYTES:
        return f"has {size} bytes; {MAX_TEXT_BYTES} are allowed"
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
