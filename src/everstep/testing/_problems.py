"""What goes wrong in a test that is not the test's own assertion.

EverstepError
├── NondeterminismError
│   └── ReplayDiffers     a run does something else when its history is replayed: `.expected`, `.got`
├── RunStalled            a run cannot go on: its code is missing, broke a rule or never yields
└── NothingHappens        what is awaited can never come: nobody acts, and no time is waited for
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from everstep._core.engine import Identity, StallReason
from everstep.errors import EverstepError, NondeterminismError


class ReplayDiffers(NondeterminismError):
    """A run does something else when its history is replayed. `expected` is what history holds, `got` what came.

    In production it would stall at its next replay: after a restart, a move to another process, a year of waiting.
    """

    def __init__(self, message: str, *, workflow_id: str, run: int, expected: str | None, got: str | None) -> None:
        super().__init__(message)
        self.workflow_id = workflow_id
        self.run = run
        self.expected = expected
        self.got = got


class RunStalled(EverstepError):
    """A run cannot go on, for the reason in the message; in production it waits for code that can."""

    def __init__(self, message: str, *, workflow_id: str, run: int, reason: StallReason) -> None:
        super().__init__(message)
        self.workflow_id = workflow_id
        self.run = run
        self.kind = reason.kind


class NothingHappens(EverstepError):
    """What is awaited can never come: nothing is left to do, and nothing waits for a time that could be skipped to."""


_WHY = (
    "The workflow decides by something that a replay does not see again: a clock, chance, a global variable, the order "
    "of a set, code that was changed"
)


def named(identity: Identity) -> str:
    """A run as messages name it."""
    return f"run {identity.run} of {identity.workflow_id!r} ({identity.workflow})"


def differs(identity: Identity, reason: StallReason, where: str = "") -> ReplayDiffers:
    """The error for a replay that did not do what history holds; `where` it was, if not here."""
    if reason.kind != "nondeterminism" or reason.seq is None or reason.expected is None:
        what = f"cannot be replayed{where}: {reason.message}"
    else:
        what = (
            f"does something else when its history is replayed{where}. At event {reason.seq} history holds "
            f"{reason.expected}; the replay gives {reason.got}. {_WHY}"
        )
    return ReplayDiffers(
        f"{named(identity)} {what}",
        workflow_id=identity.workflow_id,
        run=identity.run,
        expected=reason.expected,
        got=reason.got,
    )


def stalled(identity: Identity, reason: StallReason) -> RunStalled:
    """The error for a run that cannot go on."""
    message = f"{named(identity)} cannot go on: {reason.message}"
    return RunStalled(message, workflow_id=identity.workflow_id, run=identity.run, reason=reason)


class HasProblem(Protocol):
    """A run that may be unable to go on."""

    @property
    def problem(self) -> BaseException | None: ...


class Problems:
    """What is wrong and has not been raised in the test yet. `tell` gives it to whoever waits, if anybody does."""

    def __init__(self, tell: Callable[[BaseException], bool]) -> None:
        self._tell = tell
        self._unseen: list[BaseException] = []
        self._closed = False

    def close(self) -> None:
        """From now on nothing can be asked any more."""
        self._closed = True

    def add(self, problem: BaseException) -> None:
        """Something is wrong: whoever waits is told, else whoever asks next."""
        if not self._tell(problem):
            self._unseen.append(problem)

    def raise_unseen(self) -> None:
        """Raise what nobody has been told yet; `RuntimeError` once the environment is closed."""
        if self._unseen:
            raise self._unseen.pop(0)
        if self._closed:
            raise RuntimeError("the environment is closed: ask within its `async with`")

    def raise_of(self, run: HasProblem) -> None:
        """Raise what is wrong with a run, again."""
        problem = run.problem
        if problem is not None:
            if problem in self._unseen:
                self._unseen.remove(problem)
            raise problem
