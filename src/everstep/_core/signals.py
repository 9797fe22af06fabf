"""Signals to a run: buffered by name in order of arrival, handed to waits in the order they began.

A wait that finds a message in the buffer is answered at once and records nothing: on replay it finds it again. Any
other wait is a command, and its end without a message is one, too, so that history shows what a run waited for.

A message is taken when the code has *seen* it, not when it was handed to a handle: a task can be cancelled between the
two, and a cancelled receive puts its message back, where it stood.
"""

from __future__ import annotations

from bisect import insort
from collections import deque
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

from msgspec import Raw

from everstep._core.handles import Handle
from everstep._core.journal import Journal
from everstep._core.timers import Wakeups, instant, micros
from everstep.errors import WaitTimeout
from everstep_schemas.events import SignalAwaited, SignalReceived, WaitCancelled

if TYPE_CHECKING:
    from everstep._core.loop import RunLoop

Decode = Callable[[Raw], Any]
# A message is its place in the order of arrival and its value.
Message = tuple[int, Raw]
NO_DEFAULT = object()


class WaitHandle(Handle[Any]):
    """A wait for one message of a signal."""

    __slots__ = ("_decode", "_default", "_mailbox", "_message", "_seq", "name")

    def __init__(self, mailbox: Mailbox, name: str, decode: Decode, default: object, *, loop: RunLoop) -> None:
        super().__init__(loop=loop)
        self.name = name
        self._mailbox = mailbox
        self._decode = decode
        self._default = default
        self._message: Message | None = None
        self._seq = 0

    def __await__(self) -> Generator[Any, None, Any]:
        try:
            return (yield from super().__await__())
        finally:
            if self.done():
                self._message = None

    __iter__ = __await__

    def result(self) -> Any:
        value = super().result()
        self._message = None
        return value

    def cancel(self, msg: Any | None = None) -> bool:
        if self.done():
            if self._message is not None:
                message, self._message = self._message, None
                self._mailbox.put_back(self.name, message)
            return False
        self._mailbox.cancel(self._seq)
        return super().cancel(msg)

    def answer(self, message: Message) -> None:
        self._message = message
        try:
            value = self._decode(message[1])
        except Exception as error:
            self._message = None
            self.set_exception(error)
        else:
            self.set_result(value)

    def elapse(self) -> None:
        if self._default is NO_DEFAULT:
            self.set_exception(WaitTimeout(f"no signal {self.name!r} came within the wait's timeout"))
        else:
            self.set_result(self._default)


class Mailbox:
    """The run's buffered messages, open waits, and the ids of all signals it has applied."""

    __slots__ = ("_arrived", "_buffers", "_ids", "_journal", "_loop", "_waiting", "_waits", "_wakeups")

    def __init__(self, loop: RunLoop, journal: Journal, wakeups: Wakeups) -> None:
        self._loop = loop
        self._journal = journal
        self._wakeups = wakeups
        self._arrived = 0
        self._ids: set[str] = set()
        self._buffers: dict[str, deque[Message]] = {}
        # Open waits by number, and in order by name; insertion order is the order in which they began.
        self._waits: dict[int, WaitHandle] = {}
        self._waiting: dict[str, dict[int, WaitHandle]] = {}

    def __contains__(self, seq: int) -> bool:
        return seq in self._waits

    def applied(self, signal_id: str) -> bool:
        return signal_id in self._ids

    def pending(self, name: str) -> int:
        """How many messages of that name nobody has received."""
        return len(self._buffers.get(name, ()))

    # ---- from the author's code

    def wait(self, name: str, decode: Decode, deadline: int | None, default: object = NO_DEFAULT) -> WaitHandle:
        """A handle for the next message, recorded as a wait unless one is there already."""
        handle = WaitHandle(self, name, decode, default, loop=self._loop)
        if message := self._take(name):
            handle.answer(message)
        elif deadline is not None and deadline <= self._loop.now:
            handle.elapse()
        else:
            self._await(handle, deadline)
        return handle

    def _await(self, handle: WaitHandle, deadline: int | None) -> None:
        at = None if deadline is None else instant(deadline)
        seq, awaited = self._journal.record(SignalAwaited(name=handle.name, deadline=at))
        handle._seq = seq
        self._waits[seq] = handle
        self._waiting.setdefault(handle.name, {})[seq] = handle
        if awaited.deadline is not None:
            self._wakeups.add(seq, micros(awaited.deadline))

    def cancel(self, seq: int) -> None:
        """Record that nobody waits any more."""
        self._remove(seq)
        self._journal.record(WaitCancelled(ref=seq))

    def put_back(self, name: str, message: Message) -> None:
        """Return a message that was handed out but not seen: to the next wait, else to its place in the buffer."""
        if waiting := self._waiting.get(name):
            self._remove(next(iter(waiting))).answer(message)
        else:
            insort(self._buffers.setdefault(name, deque()), message, key=_arrival)

    def _take(self, name: str) -> Message | None:
        buffer = self._buffers.get(name)
        if not buffer:
            return None
        message = buffer.popleft()
        if not buffer:
            del self._buffers[name]
        return message

    # ---- from input events

    def received(self, event: SignalReceived) -> None:
        self._ids.add(event.signal_id)
        self._arrived += 1
        self.put_back(event.name, (self._arrived, event.value))

    def elapsed(self, seq: int) -> None:
        self._remove(seq).elapse()

    def _remove(self, seq: int) -> WaitHandle:
        handle = self._waits.pop(seq)
        waiting = self._waiting[handle.name]
        del waiting[seq]
        if not waiting:
            del self._waiting[handle.name]
        self._wakeups.discard(seq)
        return handle


def _arrival(message: Message) -> int:
    return message[0]
