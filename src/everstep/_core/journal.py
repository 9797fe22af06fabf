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
from operator import attrgetter
from typing import Any, NoReturn, TypeVar, cast, get_args

from msgspec import UNSET, Raw

from everstep._core.model import StallReason
from everstep._core.places import frames, package
from everstep.errors import NondeterminismError
from everstep_schemas import events
from everstep_schemas.events import CommandEvent, Event

C = TypeVar("C", bound=Event)
Refuse = Callable[[Event | None], NoReturn]


def outside_of_a_step(command: Event | None) -> NoReturn:
    raise NondeterminismError(
        "something of a run was used while its code is not being run, by another run's for example: what belongs to a "
        "run is only for the code of its own workflow function"
    )


class Journal:
    """Numbers events and collects the commands of one activation. Between two of them it refuses commands."""

    __slots__ = (
        "_recorded",
        "argument_differences",
        "commands",
        "differing",
        "history_bytes",
        "mismatch",
        "next_seq",
        "refuse",
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
        # Between two activations, what whoever would record something is told.
        self.refuse: Refuse | None = outside_of_a_step

    def begin(self, recorded: Sequence[CommandEvent] | None) -> int:
        """Number an input event and begin to collect its commands: new ones, or those in `recorded` again."""
        seq = self.next_seq
        self.next_seq = seq + 1
        self.commands = []
        self._recorded = recorded
        self.refuse = None
        return seq

    @property
    def is_open(self) -> bool:
        """Whether the code is being run, rather than looked at."""
        return self.refuse is None

    def must_be_open(self) -> None:
        """For what leaves no command and yet changes the run: refused like one."""
        if self.refuse is not None:
            self.refuse(None)

    @property
    def replaying(self) -> bool:
        return self._recorded is not None

    def follows(self, kind: type[Event]) -> bool:
        """Whether the recorded history goes on with a command of this kind."""
        return type(self.recorded_next()) is kind

    def ends_with(self, kind: type[Event]) -> bool:
        """Whether the recorded history closes this activation with an event of this kind."""
        return bool(self._recorded) and type((self._recorded or ())[-1]) is kind

    def recorded_next(self) -> CommandEvent | None:
        """The command with which the recorded history goes on within this activation."""
        recorded, at = self._recorded, len(self.commands)
        return recorded[at] if recorded is not None and at < len(recorded) else None

    def record(self, command: C) -> tuple[int, C]:
        """The command's number, and the command as history holds it."""
        if self.refuse is not None:
            self.refuse(command)
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
            self.mismatch = _reason(self.next_seq, in_words(recorded[done]), "nothing more")

    def _compared(self, command: C, recorded: Sequence[CommandEvent]) -> C:
        at = len(self.commands)
        if self.mismatch is not None:
            return command
        if at >= len(recorded):
            self.mismatch = _reason(self.next_seq, "nothing more", in_words(command) + _author_line())
            return command
        known = recorded[at]
        if not _is_same(known, command):
            self.mismatch = _reason(self.next_seq, in_words(known), in_words(command) + _author_line())
            return command
        if _differ(known, command):
            self.argument_differences += 1
            self.differing = self.differing or _differing(self.next_seq, known, command)
        return cast("C", known)


# What must be the same in a command of each kind; `ref` in those that have one.
_IDENTITY: dict[type[Event], Callable[[Any], object]] = {
    **{kind: attrgetter("ref") for kind in get_args(CommandEvent) if "ref" in kind.__struct_fields__},
    events.ActivityScheduled: attrgetter("name", "queue"),
    events.SignalAwaited: attrgetter("name"),
    events.SignalUnreadable: attrgetter("name"),
    events.ChildStarted: attrgetter("workflow", "workflow_id"),
    events.SignalSent: attrgetter("workflow_id", "name"),
    events.CancelSent: attrgetter("workflow_id"),
    events.PatchMarked: attrgetter("id"),
    events.AttributesSet: lambda event: tuple(event.values),
    events.Continued: lambda event: (event.workflow, event.error is None),
}
# What may differ and is counted.
_ARGUMENTS: dict[type[Event], Callable[[Any], object]] = {
    events.ActivityScheduled: attrgetter("args", "kwargs"),
    events.ChildStarted: attrgetter("args", "kwargs"),
    events.Continued: attrgetter("args", "kwargs"),
    events.Completed: attrgetter("value"),
    events.UpdateCompleted: attrgetter("value"),
    events.SignalSent: attrgetter("value"),
    events.Failed: attrgetter("error.type"),
    events.UpdateFailed: attrgetter("error.type"),
    events.StatusSet: attrgetter("text"),
    events.MilestoneReached: attrgetter("text"),
    events.AttributesSet: attrgetter("values"),
}


def _is_same(one: Event, other: Event) -> bool:
    """Whether both are the same command, their arguments aside."""
    kind = type(one)
    identity = _IDENTITY.get(kind)
    return type(other) is kind and (identity is None or identity(one) == identity(other))


def _differ(one: Event, other: Event) -> bool:
    """Whether the same command has other arguments."""
    arguments = _ARGUMENTS.get(type(one))
    return arguments is not None and arguments(one) != arguments(other)


def in_words(event: Event) -> str:
    """A command as messages name it."""
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
    arguments = _ARGUMENTS[type(known)]
    expected, got = (f"{in_words(one)} with {_shown(arguments(one))}" for one in (known, command))
    got += _author_line()
    message = f"replay gives other arguments at event {seq}: history holds {expected}, the code produced {got}"
    return StallReason(kind="nondeterminism", message=message, expected=expected, got=got, seq=seq)


def _shown(arguments: object) -> str:
    parts = arguments if isinstance(arguments, tuple) else (arguments,)
    texts = (bytes(part).decode() if isinstance(part, Raw) else repr(part) for part in parts if part is not UNSET)
    text = " ".join(texts)
    return text if len(text) <= MOST_SHOWN else f"{text[: MOST_SHOWN - 1]}…"


_MACHINERY = {"everstep", "asyncio", "contextlib", "functools"}


def _author_line() -> str:
    """Where the author's code stands that has just produced a command."""
    for frame in frames():
        if package(frame) not in _MACHINERY:
            return f" (at {frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_qualname})"
    return ""
