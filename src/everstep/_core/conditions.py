"""Waits for something about the run's own state to be true. Asked after each step, and again until nothing changes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextvars import Context, copy_context
from typing import TYPE_CHECKING, Any

from everstep._core.handles import Handle, dropped, fail
from everstep._core.journal import Journal
from everstep._core.timers import Wakeups, instant, micros
from everstep.errors import WaitTimeout
from everstep_schemas.events import ConditionAwaited, ConditionMet, WaitCancelled

if TYPE_CHECKING:
    from everstep._core.loop import RunLoop

Predicate = Callable[[], bool]


class ConditionHandle(Handle[None]):
    """A wait until a predicate is true. It is asked in the context of the code that waits."""

    __slots__ = ("_conditions", "_seq", "context", "predicate", "what")

    _conditions: Conditions
    _seq: int
    context: Context
    predicate: Predicate
    what: str

    def cancel(self, msg: Any | None = None) -> bool:
        if self.done():
            return False
        self._conditions.cancel(self._seq)
        return super().cancel(msg)


class Conditions:
    """The run's open conditions by number, oldest first."""

    __slots__ = ("_journal", "_loop", "_wakeups", "open")

    def __init__(self, loop: RunLoop, journal: Journal, wakeups: Wakeups) -> None:
        self._loop = loop
        self._journal = journal
        self._wakeups = wakeups
        self.open: dict[int, ConditionHandle] = {}

    def __len__(self) -> int:
        return len(self.open)

    def __contains__(self, seq: int) -> bool:
        return seq in self.open

    def __iter__(self) -> Iterator[int]:
        return iter(self.open)

    def wait(self, predicate: Predicate, deadline: int | None, what: str | None = None) -> ConditionHandle:
        """A handle that is done when the predicate is; recorded as a wait, for `what`, unless it is true already.

        Raises what the predicate raises, and `TypeError` if it is none.
        """
        if not callable(predicate):
            raise TypeError(f"ctx.wait_until needs a function that tells whether something is true, not {predicate!r}")
        handle = ConditionHandle(loop=self._loop)
        handle.predicate, handle.what = predicate, what or _name(predicate)
        if _is_true(predicate):
            handle.set_result(None)
        elif deadline is not None and deadline <= self._loop.now:
            handle.set_exception(_timeout(handle.what))
        else:
            self._await(handle, deadline)
        return handle

    def _await(self, handle: ConditionHandle, deadline: int | None) -> None:
        at = None if deadline is None else instant(deadline)
        seq, awaited = self._journal.record(ConditionAwaited(what=handle.what, deadline=at))
        handle.context = copy_context()
        handle._conditions = self
        handle._seq = seq
        self.open[seq] = handle
        if awaited.deadline is not None:
            self._wakeups.add(seq, micros(awaited.deadline))

    def check(self) -> None:
        """End the waits whose predicates are true now; one that raises gives its wait the error."""
        for seq, handle in list(self.open.items()):
            if seq in self.open:
                self._ask(seq, handle)

    def _ask(self, seq: int, handle: ConditionHandle) -> None:
        error: BaseException | None = None
        try:
            met = handle.context.run(_is_true, handle.predicate)
        except BaseException as raised:
            met, error = True, raised
        if not met or seq not in self.open:
            return
        self._journal.record(ConditionMet(ref=seq))
        self._remove(seq)
        if error is None:
            handle.set_result(None)
        else:
            fail(handle, error)

    def cancel(self, seq: int) -> None:
        self._journal.record(WaitCancelled(ref=seq))
        self._remove(seq)

    def elapsed(self, seq: int) -> None:
        handle = self._remove(seq)
        handle.set_exception(_timeout(handle.what))

    def _remove(self, seq: int) -> ConditionHandle:
        self._wakeups.discard(seq)
        return self.open.pop(seq)


def _is_true(predicate: Predicate) -> bool:
    answer: object = predicate()
    if type(answer) is bool:
        return answer
    if dropped(answer):
        raise TypeError(
            f"ctx.wait_until: {_name(predicate)} awaits something; it only looks at what the run knows. To call an "
            "activity again and again there is ctx.poll"
        )
    return bool(answer)


def _timeout(what: str) -> WaitTimeout:
    return WaitTimeout(f"what {what} waits for did not become true within the wait's timeout")


def _name(predicate: Predicate) -> str:
    """Where the code says what it waits for."""
    code = getattr(predicate, "__code__", None)
    if code is None:
        return type(predicate).__qualname__
    name = code.co_qualname.replace(".<locals>", "").removesuffix(".<lambda>")
    return f"{name} (line {code.co_firstlineno})"
