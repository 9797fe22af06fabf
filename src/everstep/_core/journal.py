"""The commands that a run's code produces, each with its number.

Live, a command is new. On replay it is compared with the recorded one at the moment it is produced, while the author's
line that produced it is still on the stack, and the recorded one takes its place: what is then pending carries what
history and the workers know, not what changed code would say now.

Kind, name, queue and reference must be the same. A timer is only a timer: its instant follows from arguments. Other
differences (arguments, a result, a text) are counted and do not stop a run, because adding an optional field must not.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TypeVar, cast

from everstep._core.model import StallReason
from everstep_schemas.events import (
    ActivityCancelled,
    ActivityScheduled,
    CommandEvent,
    Completed,
    Event,
    Failed,
    SignalAwaited,
    StatusSet,
    TimerCancelled,
    WaitCancelled,
)

C = TypeVar("C", bound=Event)


class Journal:
    """Numbers events and collects the commands of one activation."""

    __slots__ = ("_recorded", "_refused", "argument_differences", "commands", "mismatch", "next_seq")

    def __init__(self) -> None:
        self.next_seq = 1
        self.commands: list[CommandEvent] = []
        self.mismatch: StallReason | None = None
        self.argument_differences = 0
        self._recorded: Sequence[CommandEvent] | None = None
        self._refused: Callable[[], None] | None = None

    def begin(self, recorded: Sequence[CommandEvent] | None) -> int:
        """Number an input event and begin to collect its commands: new ones, or those in `recorded` again."""
        seq = self.next_seq
        self.next_seq = seq + 1
        self.commands = []
        self._recorded = recorded
        return seq

    def close(self, refused: Callable[[], None]) -> None:
        """From now on recording a command calls `refused`, which raises."""
        self._refused = refused

    @property
    def replaying(self) -> bool:
        return self._recorded is not None

    def follows(self, kind: type[Event]) -> bool:
        """Whether the recorded history goes on with a command of this kind."""
        recorded, at = self._recorded, len(self.commands)
        return recorded is not None and at < len(recorded) and type(recorded[at]) is kind

    def record(self, command: C) -> tuple[int, C]:
        """The command's number, and the command as history holds it."""
        if self._refused is not None:
            self._refused()
        if self._recorded is not None:
            command = self._compared(command, self._recorded)
        seq = self.next_seq
        self.next_seq = seq + 1
        self.commands.append(cast("CommandEvent", command))
        return seq, command

    def finish(self) -> None:
        """After a replayed step: what history holds beyond what the code did is a mismatch, too."""
        recorded, done = self._recorded, len(self.commands)
        if recorded is not None and self.mismatch is None and done < len(recorded):
            self.mismatch = _reason(self.next_seq, _words(recorded[done]), "nothing more")

    def _compared(self, command: C, recorded: Sequence[CommandEvent]) -> C:
        at = len(self.commands)
        if self.mismatch is not None:
            return command
        if at >= len(recorded):
            self.mismatch = _reason(self.next_seq, "nothing more", _words(command) + _author_line())
            return command
        known = recorded[at]
        if _identity(known) != _identity(command):
            self.mismatch = _reason(self.next_seq, _words(known), _words(command) + _author_line())
            return command
        if _arguments(known) != _arguments(command):
            self.argument_differences += 1
        return cast("C", known)


def _identity(event: Event) -> tuple[object, ...]:
    match event:
        case ActivityScheduled():
            return ActivityScheduled, event.name, event.queue
        case SignalAwaited():
            return SignalAwaited, event.name
        case ActivityCancelled() | TimerCancelled() | WaitCancelled():
            return type(event), event.ref
        case _:
            return (type(event),)


def _arguments(event: Event) -> object:
    match event:
        case ActivityScheduled():
            return bytes(event.args), event.kwargs if isinstance(event.kwargs, bytes) else None
        case Completed():
            return bytes(event.value)
        case Failed():
            return event.error.type
        case StatusSet():
            return event.text
        case _:
            return None


def _words(event: Event) -> str:
    match event:
        case ActivityScheduled():
            return f"activity {event.name!r} on queue {event.queue!r}"
        case SignalAwaited():
            return f"a wait for signal {event.name!r}"
        case ActivityCancelled():
            return f"the cancellation of activity {event.ref}"
        case TimerCancelled():
            return f"the cancellation of timer {event.ref}"
        case WaitCancelled():
            return f"the end of wait {event.ref}"
        case StatusSet():
            return f"status {event.text!r}"
        case Failed():
            return f"the run's failure with {event.error.type}: {event.error.message}"
        case _:
            return _PLAIN_WORDS.get(type(event).__name__, type(event).__name__)


_PLAIN_WORDS = {"TimerStarted": "a timer", "Completed": "the run's completion", "Cancelled": "the run's cancellation"}


def _reason(seq: int, expected: str, got: str) -> StallReason:
    message = (
        f"replay differs at event {seq}: history holds {expected}, the code produced {got}. "
        "Deploy code that does what history holds, or give changed code a new version"
    )
    return StallReason(kind="nondeterminism", message=message, expected=expected, got=got, seq=seq)


_MACHINERY = {"everstep", "asyncio", "contextlib", "functools"}


def _author_line() -> str:
    """Where the author's code stands that has just produced a command."""
    frame = sys._getframe(1)
    while frame is not None:
        if str(frame.f_globals.get("__name__", "")).partition(".")[0] not in _MACHINERY:
            return f" (at {frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_qualname})"
        if frame.f_back is None:
            break
        frame = frame.f_back
    return ""
