"""When time passes: only when nothing can happen without it, and only while somebody waits.

Whatever may have become idle calls `look`. Before anything is concluded from idleness, the test's own tasks get a few
turns of the loop: one of them may be about to send a signal. Then, in this order: who waits for idleness alone is told;
time jumps to the next thing that is due, if somebody waits for that; else whoever waits is told that it is in vain.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import copy_context
from dataclasses import dataclass
from typing import Any, TypeVar

from everstep.testing._clock import ENDS_A_WAIT, Clock
from everstep.testing._problems import NothingHappens

T = TypeVar("T")

# Enough for a task that was woken, and one that waits for it, to say what comes next.
_TURNS = 6
# A run that tries or sleeps for ever would otherwise be followed until the end of the calendar.
MOST_JUMPS = 10_000
_FOR_EVER = 1 << 63


@dataclass(eq=False, slots=True)
class _Waiter:
    """Somebody waits. Time may jump as far as `until` for it; None: as far as time goes by itself."""

    future: asyncio.Future[Any]
    what: str
    until: int | None
    for_idleness: bool = False
    jumps: int = 0


class Pacer:
    """Lets time pass. `busy` tells whether something can happen without it, `state` what the open runs wait for."""

    def __init__(self, clock: Clock, *, auto_skip: bool, busy: Callable[[], bool], state: Callable[[], str]) -> None:
        self._loop = asyncio.get_running_loop()
        self._context = copy_context()
        self._clock = clock
        self._auto_skip = auto_skip
        self._busy = busy
        self._state = state
        self._waiters: list[_Waiter] = []
        self._turns: int | None = None

    # ---- waiting

    async def wait(self, future: asyncio.Future[T], what: str) -> T:
        """Await something that happens in the installation. Raises `NothingHappens`, about `what`, once it cannot."""
        waiter = _Waiter(future, what, None)
        self._waiters.append(waiter)
        self.look()
        try:
            return await future
        finally:
            self._waiters.remove(waiter)

    async def skip(self, by: int) -> None:
        """Let so much time pass, and with it everything that is due until then, in order."""
        until = self._clock.now + by
        waiter = _Waiter(self._loop.create_future(), "", until)
        alarm = self._clock.set(until, lambda: _tell(waiter), ENDS_A_WAIT)
        try:
            await self._join(waiter)
        finally:
            alarm.cancel()

    async def settle(self) -> None:
        """Return when nothing is left to do without time passing."""
        await self._join(_Waiter(self._loop.create_future(), "", self._clock.now, for_idleness=True))

    async def _join(self, waiter: _Waiter) -> None:
        self._waiters.append(waiter)
        self.look()
        try:
            await waiter.future
        finally:
            self._waiters.remove(waiter)

    def fail(self, error: BaseException) -> bool:
        """Tell everybody who waits; whether anybody does."""
        waiting = self._waiting()
        for waiter in waiting:
            waiter.future.set_exception(error)
        return bool(waiting)

    def _waiting(self) -> list[_Waiter]:
        return [one for one in self._waiters if not one.future.done()]

    # ---- idleness

    def look(self) -> None:
        """Something has changed: see, some turns of the loop from now, whether nothing is left to do."""
        if self._turns is None:
            self._loop.call_soon(self._turn, context=self._context)
        self._turns = 0

    def _turn(self) -> None:
        waiting, turns = self._waiting(), self._turns or 0
        if not waiting or self._busy():
            self._turns = None
        elif turns < _TURNS:
            self._turns = turns + 1
            self._loop.call_soon(self._turn, context=self._context)
        else:
            self._turns = None
            self._idle(waiting)

    def _idle(self, waiting: list[_Waiter]) -> None:
        for_idleness = [one for one in waiting if one.for_idleness]
        if for_idleness:
            for waiter in for_idleness:
                _tell(waiter)
            self.look()
        elif (at := self._clock.next_at()) is not None and at <= max(map(self._until, waiting)):
            self._jump(waiting)
        else:
            self._in_vain(waiting)

    def _until(self, waiter: _Waiter) -> int:
        if waiter.until is None:
            return _FOR_EVER if self._auto_skip else self._clock.now
        return waiter.until

    def _jump(self, waiting: list[_Waiter]) -> None:
        for alarm in self._clock.advance():
            alarm.ring()
        for waiter in waiting:
            waiter.jumps += 1
            if waiter.jumps > MOST_JUMPS and not waiter.future.done():
                waiter.future.set_exception(self._endless(waiter))
        self.look()

    def _in_vain(self, waiting: list[_Waiter]) -> None:
        for waiter in waiting:
            waiter.future.set_exception(NothingHappens(f"{waiter.what} can never come: {self._why()}"))

    def _why(self) -> str:
        if self._clock.next_at() is None:
            return f"nothing is left to do, and nobody waits for a time.{self._state()}"
        return (
            "nothing is left to do without time passing, and this environment does not skip time by itself: call "
            f"`await env.skip(…)`.{self._state()}"
        )

    def _endless(self, waiter: _Waiter) -> NothingHappens:
        return NothingHappens(
            f"{waiter.what or 'skip()'} does not come: time has jumped {MOST_JUMPS:,} times, and things go on and on. "
            f"An activity that always fails and has no max_attempts, or a loop?{self._state()}"
        )


def _tell(waiter: _Waiter) -> None:
    if not waiter.future.done():
        waiter.future.set_result(None)
