"""Breaks author's code that never yields, so that one endless loop does not stop every run of the process.

The engine runs on the main thread and says when a step begins and ends. While steps run, an interval timer of the
operating system sends SIGALRM a few times per limit; the handler sees whether it is still the same step, and when one
lasts longer than the limit it raises `Blocked` into it, again and again until the step ends, since the author's code
may catch it. It raises only where a line of the author's is being executed, never inside Everstep, asyncio or the
standard library, whose state it could break. When no step has run between two ticks the timer is switched off: an idle
process is never woken.

A signal handler of Python runs between two bytecodes of the main thread, so code that stays in C (`sum(range(10**9))`)
is never interrupted; it keeps the interpreter's lock as well, so that no other thread of Python could notice. What can
is a thread in C: faulthandler's. Each tick that sees a new step winds it up again, and when it runs down it writes
where every thread stands to stderr and ends the process. That run is recognised at the next claims, by the rule for
runs that kill their process.
"""

from __future__ import annotations

import faulthandler
import signal
import sys
from types import FrameType
from typing import Any

LIMIT_SECONDS = 5.0
FATAL_SECONDS = 10.0
_STDERR = 2
_TICKS = 4
# The pace once a step is over the limit, so that a tick soon meets a line of the author's.
_HASTE_SECONDS = 0.01
_MACHINERY = sys.stdlib_module_names | {"everstep", "everstep_orchestrator", "everstep_schemas"}


class Blocked(BaseException):
    """Raised by the watchdog into code that does not yield."""


class Watchdog:
    """The engine's guard: breaks a step after `limit_seconds`, ends the process with status 1 after `fatal_seconds`."""

    def __init__(self, limit_seconds: float = LIMIT_SECONDS, fatal_seconds: float = FATAL_SECONDS) -> None:
        self._limit = limit_seconds
        self._fatal = fatal_seconds
        self._step = 0
        self._active = False
        self._broken: str | None = None
        # Seconds between ticks; None: the timer is off.
        self._pace: float | None = None
        self._started = False
        self._previous: Any = None
        # What the handler saw at its last tick, and for how many ticks it has been the same step.
        self._seen = 0
        self._ticks = 0

    def start(self) -> None:
        """Take over SIGALRM, the process's interval timer and faulthandler's. Call it on the main thread."""
        self._previous = signal.signal(signal.SIGALRM, self._tick)
        self._started = True

    def stop(self) -> None:
        """Give them back."""
        self._started = False
        self._arm(None)
        signal.signal(signal.SIGALRM, self._previous)

    # ---- for the engine: on the path of every step, so no clock is read and no system call made

    def enter(self) -> None:
        self._step += 1
        self._broken = None
        self._active = True
        if self._pace is None and self._started:
            faulthandler.dump_traceback_later(self._fatal, exit=True, file=_STDERR)
            self._arm(self._limit / _TICKS)

    def leave(self) -> str | None:
        self._active = False
        return self._broken

    # ---- the handler

    def _tick(self, signum: int, frame: FrameType | None) -> None:
        if self._step != self._seen:
            self._seen, self._ticks = self._step, 0
            faulthandler.dump_traceback_later(self._fatal, exit=True, file=_STDERR)
            self._arm(self._limit / _TICKS)
        elif not self._active:
            self._arm(None)
        else:
            self._ticks += 1
            if self._ticks >= _TICKS:
                self._arm(_HASTE_SECONDS)
                self._break(frame)

    def _break(self, frame: FrameType | None) -> None:
        if frame is not None and _is_authors(frame):
            self._broken = f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_qualname}"
            raise Blocked(f"this code has run for {self._limit:g} s without an await")

    def _arm(self, pace: float | None) -> None:
        if pace != self._pace:
            self._pace = pace
            signal.setitimer(signal.ITIMER_REAL, pace or 0.0, pace or 0.0)
            if pace is None:
                faulthandler.cancel_dump_traceback_later()


def _is_authors(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0] not in _MACHINERY
