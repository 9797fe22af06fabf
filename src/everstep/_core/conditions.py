"""Waits for something about the run's own state to be true. Asked after each step, and again until nothing changes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from everstep._core.handles import Handle
from everstep._core.journal import Journal
from everstep._core.timers import Wakeups, instant, micros
from everstep.errors import WaitTimeout
from everstep_schemas.events import ConditionAwaited, ConditionMet, WaitCancelled

if TYPE_CHECKING:
    from everstep._core.loop import RunLoop

Predicate = Callable[[], bool]


class ConditionHandle(Handle[None]):
    """A wait until a predicate is true."""

    __slots__ = ("_conditions", "_seq", "predicate")

    _conditions: Conditions
    _seq: int
    predicate: Predicate

    def cancel(self, msg: Any | None = None) -> bool:
        if self.done():
            return False
        self._conditions.cancel(self._seq)
        return super().cancel(msg)


class Conditions:
    """The run's open conditions by number, oldest first."""

    __slots__ = ("_journal", "_loop", "_open", "_wakeups")

    def __init__(self, loop: RunLoop, journal: Journal, wakeups: Wakeups) -> None:
        self._loop = loop
        self._journal = journal
        self._wakeups = wakeups
        self._open: dict[int, ConditionHandle] = {}

    def __len__(self) -> int:
        return len(self._open)

    def __contains__(self, seq: int) -> bool:
        return seq in self._open

    def __iter__(self) -> Iterator[int]:
        return iter(self._open)

    def wait(self, predicate: Predicate, deadline: int | None) -> ConditionHandle:
        """A handle that is done when the predicate is; recorded as a wait unless it is true already."""
        handle = ConditionHandle(loop=self._loop)
        handle.predicate = predicate
        if predicate():
            handle.set_result(None)
        elif deadline is not None and deadline <= self._loop.now:
            handle.set_exception(_timeout(predicate))
        else:
            self._await(handle, deadline)
        return handle

    def _await(self, handle: ConditionHandle, deadline: int | None) -> None:
        at = None if deadline is None else instant(deadline)
        seq, awaited = self._journal.record(ConditionAwaited(what=_name(handle.predicate), deadline=at))
        handle._conditions = self
        handle._seq = seq
        self._open[seq] = handle
        if awaited.deadline is not None:
            self._wakeups.add(seq, micros(awaited.deadline))

    def check(self) -> None:
        """End the waits whose predicates are true now; one that raises gives its wait the error."""
        for seq, handle in list(self._open.items()):
            if seq not in self._open:
                continue
            try:
                met = handle.predicate()
            except Exception as error:
                self._met(seq).set_exception(error)
            else:
                if met:
                    self._met(seq).set_result(None)

    def _met(self, seq: int) -> ConditionHandle:
        self._journal.record(ConditionMet(ref=seq))
        return self._remove(seq)

    def cancel(self, seq: int) -> None:
        self._remove(seq)
        self._journal.record(WaitCancelled(ref=seq))

    def elapsed(self, seq: int) -> None:
        handle = self._remove(seq)
        handle.set_exception(_timeout(handle.predicate))

    def _remove(self, seq: int) -> ConditionHandle:
        self._wakeups.discard(seq)
        return self._open.pop(seq)


def _timeout(predicate: Predicate) -> WaitTimeout:
    return WaitTimeout(f"what {_name(predicate)} waits for did not become true within the wait's timeout")


def _name(predicate: Predicate) -> str:
    """Where the code says what it waits for."""
    code = getattr(predicate, "__code__", None)
    if code is None:
        return getattr(predicate, "__qualname__", type(predicate).__qualname__)
    name = code.co_qualname.replace(".<locals>", "").removesuffix(".<lambda>")
    return f"{name} (line {code.co_firstlineno})"
