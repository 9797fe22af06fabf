"""The commands that a run's code produces, each with its number.

Live, a command is new. On replay it is compared with the recorded one at the moment it is produced, while the author's
line that produced it is still on the stack, and the recorded one takes its place: what is then pending carries what
history and the workers know, not what changed code would say now.

Kind, name, queue and reference must be the same, and the id of a child or of another run. A timer is only a timer: its
instant follows from arguments. Other differences (arguments, a result, a text) are counted and do not stop a run,
because adding an optional field must not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar, cast

from msgspec import Raw

from everstep._core.model import StallReason
from everstep._core.places import frames, package
from everstep_schemas import events
from everstep_schemas.events import CommandEvent, Event

C = TypeVar("C", bound=Event)


class Journal:
    """Numbers events and collects the commands of one activation."""

    __slots__ = (
        "_recorded",
        "_refused",
        "argument_differences",
        "commands",
        "differing",
        "history_bytes",
        "mismatch",
        "next_seq",
    )

    def __init__(self) -> None:
        self.next_seq = 1
        self.history_bytes = 0
        self.commands: list[CommandEvent] = []
        self.mismatch: StallReason | None = None
        self.argument_differences = 0
        # The first of them, in words.
        self.differing: StallReason | None = None
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

    def reopen(self) -> None:
        """Commands are recorded again."""
        self._refused = None

    @property
    def replaying(self) -> bool:
        return self._recorded is not None

    def follows(self, kind: type[Event]) -> bool:
        """Whether the recorded history goes on with a command of this kind."""
        return type(self.recorded_next()) is kind

    def recorded_next(self) -> CommandEvent | None:
        """The command with which the recorded history goes on within this activation."""
        recorded, at = self._recorded, len(self.commands)
        return recorded[at] if recorded is not None and at < len(recorded) else None

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
            self.differing = self.differing or _differing(self.next_seq, known, command)
        return cast("C", known)


def _identity(event: Event) -> tuple[object, ...]:
    match event:
        case events.ActivityScheduled():
            return events.ActivityScheduled, event.name, event.queue
        case events.SignalAwaited() | events.SignalUnreadable():
            return type(event), event.name
        case events.ChildStarted():
            return events.ChildStarted, event.workflow, event.workflow_id
        case events.SignalSent():
            return events.SignalSent, event.workflow_id, event.name
        case events.CancelSent():
            return events.CancelSent, event.workflow_id
        case events.PatchMarked():
            return events.PatchMarked, event.id
        case events.AttributesSet():
            return events.AttributesSet, *event.values
        case events.Continued():
            return events.Continued, event.workflow, event.error is None
        case _:
            return type(event), getattr(event, "ref", None)


def _arguments(event: Event) -> object:
    match event:
        case events.ActivityScheduled() | events.ChildStarted() | events.Continued():
            return bytes(event.args), bytes(event.kwargs) if isinstance(event.kwargs, Raw) else None
        case events.Completed() | events.UpdateCompleted() | events.SignalSent():
            return bytes(event.value)
        case events.Failed() | events.UpdateFailed():
            return event.error.type
        case events.StatusSet() | events.MilestoneReached():
            return event.text
        case events.AttributesSet():
            return event.values
        case _:
            return None


def _words(event: Event) -> str:
    match event:
        case events.ActivityScheduled():
            return f"activity {event.name!r} on queue {event.queue!r}"
        case events.ChildStarted():
            return f"a child run {event.workflow_id!r} of workflow {event.workflow!r}"
        case events.SignalAwaited():
            return f"a wait for signal {event.name!r}"
        case events.ConditionAwaited():
            return f"a wait for a condition in {event.what}"
        case events.SignalUnreadable():
            return f"signal {event.name!r} put aside as unreadable"
        case events.SignalSent():
            return f"signal {event.name!r} to {event.workflow_id!r}"
        case events.CancelSent():
            return f"a request to cancel {event.workflow_id!r}"
        case events.PatchMarked():
            return f"patch {event.id!r}"
        case events.AttributesSet():
            return f"attribute {', '.join(map(repr, event.values))}"
        case events.StatusSet():
            return f"status {event.text!r}"
        case events.MilestoneReached():
            return f"milestone {event.text!r}"
        case events.Failed():
            return f"the run's failure with {event.error.type}: {event.error.message}"
        case events.Continued():
            return f"going on as a new run of {event.workflow!r}"
        case _:
            return _plain_words(event)


def _plain_words(event: Event) -> str:
    words = _PLAIN_WORDS.get(type(event).__name__, type(event).__name__)
    ref = getattr(event, "ref", None)
    return words if ref is None else f"{words} {ref}"


_PLAIN_WORDS = {
    "TimerStarted": "a timer",
    "CallbackCreated": "a callback",
    "SideEffectRecorded": "a side effect",
    "Completed": "the run's completion",
    "Cancelled": "the run's cancellation",
    "ActivityCancelled": "the cancellation of activity",
    "ChildCancelled": "the end of the wait for child",
    "TimerCancelled": "the cancellation of timer",
    "WaitCancelled": "the end of wait",
    "ConditionMet": "the condition of wait",
    "UpdateCompleted": "the answer to update",
    "UpdateFailed": "the failure of update",
}


def _reason(seq: int, expected: str, got: str) -> StallReason:
    message = (
        f"replay differs at event {seq}: history holds {expected}, the code produced {got}. "
        "Deploy code that does what history holds, or give changed code a new version"
    )
    return StallReason(kind="nondeterminism", message=message, expected=expected, got=got, seq=seq)


# How much of a command's arguments is shown where they differ.
MOST_SHOWN = 300


def _differing(seq: int, known: Event, command: Event) -> StallReason:
    expected, got = (f"{_words(one)} with {_shown(_arguments(one))}" for one in (known, command))
    got += _author_line()
    message = f"replay gives other arguments at event {seq}: history holds {expected}, the code produced {got}"
    return StallReason(kind="nondeterminism", message=message, expected=expected, got=got, seq=seq)


def _shown(arguments: object) -> str:
    parts = arguments if isinstance(arguments, tuple) else (arguments,)
    texts = (part.decode() if isinstance(part, bytes) else repr(part) for part in parts if part is not None)
    text = " ".join(texts)
    return text if len(text) <= MOST_SHOWN else f"{text[: MOST_SHOWN - 1]}…"


_MACHINERY = {"everstep", "asyncio", "contextlib", "functools"}


def _author_line() -> str:
    """Where the author's code stands that has just produced a command."""
    for frame in frames():
        if package(frame) not in _MACHINERY:
            return f" (at {frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_qualname})"
    return ""
