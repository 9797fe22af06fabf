"""Signals to a run: buffered by name in order of arrival, handed to waits in the order they began.

A wait that finds a message in the buffer is answered at once and records nothing: on replay it finds it again. Any
other wait is a command, and its end without a message is one, too, so that history shows what a run waited for.

A message is taken when the code has *seen* it, not when it was handed to a handle: a task can be cancelled between the
two, and a cancelled receive puts its message back, where it stood. Where the code has a handler for a signal, its
messages go there, in order, and to no wait.

A message that does not fit the type that the code declares is put aside, which is a command too; the wait goes on.
Anybody who may write to Kafka can send one, so it must not end the run.
"""

from __future__ import annotations

from bisect import insort
from collections import deque
from collections.abc import Awaitable, Callable, Generator, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
from msgspec import Raw

from everstep._core.handles import Handle
from everstep._core.journal import Journal
from everstep._core.timers import Wakeups, instant, micros
from everstep._error_infos import message_of
from everstep.errors import PayloadError, WaitTimeout
from everstep_schemas.events import Inheritance, SignalAwaited, SignalReceived, SignalUnreadable, Unread, WaitCancelled

if TYPE_CHECKING:
    from everstep._core.loop import RunLoop

Decode = Callable[[Raw], Any]
Handler = Callable[[Any], Awaitable[None] | None]
NO_DEFAULT = object()


class Message(NamedTuple):
    """A signal with its place in the order of arrival."""

    arrival: int
    value: Raw
    signal_id: str


class UnreadableSignal(NamedTuple):
    """A signal that did not fit: its `value` as plain JSON values, and the `error` with the path of the field."""

    name: str
    value: Any
    error: PayloadError


class WaitHandle(Handle[Any]):
    """A wait for one message of a signal."""

    __slots__ = ("_default", "_mailbox", "_message", "_seq", "decode", "name")

    def __init__(self, mailbox: Mailbox, name: str, decode: Decode, default: object, *, loop: RunLoop) -> None:
        super().__init__(loop=loop)
        self.name = name
        self.decode = decode
        self._mailbox = mailbox
        self._default = default
        self._message: Message | None = None
        self._seq = 0

    def __await__(self) -> Generator[Any, None, Any]:
        try:
            return (yield from super().__await__())
        finally:
            if self.done():
                self._see()

    __iter__ = __await__

    def result(self) -> Any:
        value = super().result()
        self._see()
        return value

    def _see(self) -> None:
        """The code has its message now. To look at it in a query is not to receive it."""
        if self._message is not None and self._mailbox.is_open:
            self._mailbox.seen(self._message)
            self._message = None

    def cancel(self, msg: Any | None = None) -> bool:
        if self.done():
            if self._message is not None:
                self._mailbox.return_unseen(self.name, self._message)
                self._message = None
            return False
        self._mailbox.cancel(self._seq)
        return super().cancel(msg)

    def answer(self, message: Message, value: Any) -> None:
        self._message = message
        self.set_result(value)

    def elapse(self) -> None:
        if self._default is NO_DEFAULT:
            self.set_exception(WaitTimeout(f"no signal {self.name!r} came within the wait's timeout"))
        else:
            self.set_result(self._default)


class Mailbox:
    """The run's buffered messages, open waits and handlers, and the ids of all signals it has applied.

    `run` starts a handler's work; `aside` hears of a message that was put aside.
    """

    __slots__ = (
        "_arrived",
        "_aside",
        "_buffers",
        "_handlers",
        "_ids",
        "_journal",
        "_loop",
        "_run",
        "_unseen",
        "_waiting",
        "_waits",
        "_wakeups",
    )

    def __init__(
        self,
        loop: RunLoop,
        journal: Journal,
        wakeups: Wakeups,
        run: Callable[[Handler, Any, Message], None],
        aside: Callable[[UnreadableSignal], None],
    ) -> None:
        self._loop = loop
        self._journal = journal
        self._wakeups = wakeups
        self._run = run
        self._aside = aside
        self._arrived = 0
        self._ids: dict[str, None] = {}
        self._buffers: dict[str, deque[Message]] = {}
        # By arrival, what was handed to a wait or a handler, and the code has not seen yet.
        self._unseen: dict[int, tuple[str, Message]] = {}
        self._handlers: dict[str, tuple[Decode, Handler]] = {}
        # Open waits by number, and in order by name; insertion order is the order in which they began.
        self._waits: dict[int, WaitHandle] = {}
        self._waiting: dict[str, dict[int, WaitHandle]] = {}

    def __len__(self) -> int:
        return len(self._waits)

    def __contains__(self, seq: int) -> bool:
        return seq in self._waits

    def applied(self, signal_id: str) -> bool:
        return signal_id in self._ids

    def ids(self) -> list[str]:
        """The ids of all signals that were applied, oldest first."""
        return list(self._ids)

    def waits(self) -> dict[int, str]:
        """The names of the signals that are waited for, by the number of the wait."""
        return {seq: handle.name for seq, handle in self._waits.items()}

    def pending(self, name: str) -> int:
        """How many messages of that name nobody has received."""
        return len(self._buffers.get(name, ()))

    def unread(self) -> Iterator[tuple[str, Message]]:
        """The messages that the code has not seen, in order of arrival."""
        messages = [(name, message) for name, buffer in self._buffers.items() for message in buffer]
        yield from sorted([*messages, *self._unseen.values()], key=lambda one: one[1].arrival)

    def inherit(self, inherited: Inheritance) -> None:
        """What the run before had applied, and what it left unread, comes first."""
        self._ids |= dict.fromkeys(inherited.signal_ids)
        for one in inherited.unread:
            self._ids[one.signal_id] = None
            self._deliver(one.name, one.value, one.signal_id)

    # ---- from the author's code

    def wait(self, name: str, decode: Decode, deadline: int | None, default: object = NO_DEFAULT) -> WaitHandle:
        """A handle for the next message, recorded as a wait unless one is there already."""
        handle = WaitHandle(self, name, decode, default, loop=self._loop)
        while message := self._take(name):
            if self._answer(handle, message):
                return handle
        if deadline is not None and deadline <= self._loop.now:
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

    def handle(self, name: str, decode: Decode, handler: Handler) -> None:
        """From now on messages of that name go to `handler`, those that have come before first."""
        self._handlers[name] = (decode, handler)
        while message := self._take(name):
            self.put_back(name, message)

    def cancel(self, seq: int) -> None:
        """Record that nobody waits any more."""
        self._journal.record(WaitCancelled(ref=seq))
        self._remove(seq)

    def return_unseen(self, name: str, message: Message) -> None:
        """Take back what was handed to a wait that is cancelled."""
        self._journal.must_be_open()
        self.seen(message)
        self.put_back(name, message)

    def seen(self, message: Message) -> None:
        """Whoever was handed the message has it now."""
        self._unseen.pop(message.arrival, None)

    @property
    def is_open(self) -> bool:
        return self._journal.is_open

    def put_back(self, name: str, message: Message) -> None:
        """Return a message that nobody has seen: to the handler, to the next wait, else to its place in the buffer."""
        if (found := self._handlers.get(name)) is not None:
            decode, handler = found
            readable, value = self._decoded(name, message, decode)
            if readable:
                self._unseen[message.arrival] = (name, message)
                self._run(handler, value, message)
            return
        if waiting := self._waiting.get(name):
            seq, handle = next(iter(waiting.items()))
            if self._answer(handle, message):
                self._remove(seq)
            return
        insort(self._buffers.setdefault(name, deque()), message, key=_arrival)

    def _answer(self, handle: WaitHandle, message: Message) -> bool:
        readable, value = self._decoded(handle.name, message, handle.decode)
        if readable:
            self._unseen[message.arrival] = (handle.name, message)
            handle.answer(message, value)
        return readable

    def _decoded(self, name: str, message: Message, decode: Decode) -> tuple[bool, Any]:
        """Whether the message fits, and its value; one that does not is put aside."""
        try:
            return True, decode(message.value)
        except BaseException as raised:  # also what the author's class raises, whatever that is
            error = raised if isinstance(raised, PayloadError) else PayloadError("$", message_of(raised))
            self._journal.record(SignalUnreadable(name=name, signal_id=message.signal_id, reason=message_of(error)))
            self._aside(UnreadableSignal(name, _plain(message.value), error))
            return False, None

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
        self._ids[event.signal_id] = None
        self._deliver(event.name, event.value, event.signal_id)

    def _deliver(self, name: str, value: Raw, signal_id: str) -> None:
        self._arrived += 1
        self.put_back(name, Message(self._arrived, value, signal_id))

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


def _plain(value: Raw) -> Any:
    """The value as plain JSON values, or as text if not even that can be made of it."""
    try:
        return msgspec.json.decode(value)
    except Exception:
        return bytes(value).decode(errors="replace")


def _arrival(message: Message) -> int:
    return message.arrival


def unread_of(name: str, message: Message) -> Unread:
    return Unread(name=name, value=message.value, signal_id=message.signal_id)
