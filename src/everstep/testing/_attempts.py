"""One attempt of an activity in an environment: what runs it, and the times that bound it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import ContextVar
from datetime import timedelta
from typing import Any

from msgspec import Raw

from everstep.activity import ActivityInfo
from everstep.definitions import Activity
from everstep.testing._clock import Alarm, Clock
from everstep.testing._fakes import Replacement
from everstep_schemas.wire import ActivityCommand

SECOND = 1_000_000
# As long as workers keep an attempt to themselves before they check it out.
CHECK_OUT_SECONDS = 3.0
current: ContextVar[Attempt] = ContextVar("everstep_attempt")


class Attempt:
    """A command that is being carried out. It *runs* unless it waits for the environment's time.

    Once it is `stopped`, whatever its code still does is of no interest.
    """

    def __init__(
        self, command: ActivityCommand, definition: Activity[..., Any] | None, fake: Replacement | None
    ) -> None:
        self.command = command
        self.definition = definition
        self.replacement = fake
        self.info = ActivityInfo(
            workflow_id=command.workflow_id,
            run=command.run,
            seq=command.seq,
            attempt=command.attempt,
            idempotency_key=command.idempotency_key,
            deadline=command.deadline,
        )
        self.task: asyncio.Task[None] | None = None
        self.running = True
        self.stopped = False
        self.checked_out = False
        self.in_thread = False
        self.told_to_fail = False
        # What its heartbeats, or those of an attempt before it, have said last.
        self.details: Raw | None = command.heartbeat if isinstance(command.heartbeat, Raw) else None
        self.alarms: dict[str, Alarm] = {}

    @property
    def name(self) -> str:
        return self.command.activity

    def is_cancelled(self) -> bool:
        """What the author's code sees of it."""
        return self.stopped

    def stop(self) -> None:
        """Ask the code to end; nobody waits for it any more."""
        self.stopped = True
        self.disarm()
        if self.task is not None and not self.in_thread:
            self.task.cancel()

    def disarm(self) -> None:
        for alarm in self.alarms.values():
            alarm.cancel()
        self.alarms.clear()

    def arm(self, what: str, clock: Clock, seconds: float, fire: Callable[[], None]) -> None:
        """Have `fire` called if the attempt still goes on so many seconds from now."""
        if (before := self.alarms.get(what)) is not None:
            before.cancel()
        self.alarms[what] = clock.set(clock.now + round(seconds * SECOND), fire)

    def timeout_seconds(self) -> float | None:
        """How long it may take."""
        if self.command.timeout_seconds is not None or self.definition is None:
            return self.command.timeout_seconds
        return self.definition.timeout.total_seconds()

    def check_out_seconds(self) -> float:
        """When the run hears that the attempt has begun: before it concludes that no worker takes it."""
        return CHECK_OUT_SECONDS if self.command.start_by is None else 0.0

    def __repr__(self) -> str:
        run = f"run {self.command.run} of {self.command.workflow_id!r}"
        return f"activity {self.name!r}, attempt {self.command.attempt}, of {run}"


def microseconds(length: timedelta) -> int:
    return length // timedelta(microseconds=1)
