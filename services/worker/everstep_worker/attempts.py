"""One attempt of an activity, from its start to its end."""

from __future__ import annotations

import asyncio
import contextvars
import math
import time
from collections.abc import Callable
from typing import Any, Literal

from msgspec import UNSET, Raw, UnsetType

from everstep.definitions import Activity
from everstep_schemas.wire import ActivityCommand
from everstep_worker.deliveries import Delivery, Record
from everstep_worker.dispatch import Line
from everstep_worker.times import Times

Stopped = Literal["timed_out", "cancelled", "shut_down", "elsewhere"]
Overdue = Literal["attempt", "heartbeat", "check_out"]
Lane = tuple[str, int]  # a partition of the inbox


class Attempt:
    """An attempt that holds a slot.

    Once `stopped` is set, whatever the code still does is of no interest; the slot is free only when it ends.
    """

    __slots__ = (
        "_halt",
        "_hear",
        "_times",
        "activity",
        "args",
        "beat_at",
        "command",
        "context",
        "deliveries",
        "details",
        "ended",
        "heartbeat_timeout_seconds",
        "kwargs",
        "launched",
        "lease",
        "line",
        "record",
        "said",
        "said_at",
        "started",
        "stopped",
        "suspect",
        "task",
        "timeout_seconds",
        "traceparent",
        "unsaid",
    )

    def __init__(
        self,
        activity: Activity[..., Any],
        command: ActivityCommand,
        arguments: tuple[list[Any], dict[str, Any]],
        delivery: Delivery,
        line: Line,
        context: contextvars.Context,
        times: Times,
        hear: Callable[[Attempt], None],
        traceparent: str | None,
    ) -> None:
        self.activity = activity
        self.command = command
        self.args, self.kwargs = arguments
        self.record: Record = delivery.record
        self.deliveries = [delivery]  # those that wait for its end: more when the same command comes again
        self.line = line
        self.context = context
        self.traceparent = traceparent
        self.timeout_seconds = command.timeout_seconds or activity.timeout.total_seconds()
        self.heartbeat_timeout_seconds = _heartbeat_timeout(activity, command)
        self._times = times
        self._hear = hear
        self._halt: Callable[[], object] | None = None
        self.task: asyncio.Task[None] | None = None
        self.started: float | None = None  # monotonic, at the first line of the author's code
        self.launched = False  # a process has it, and may begin at any moment
        self.stopped: Stopped | None = None
        self.ended = False
        self.suspect = delivery.suspect or command.suspect  # another worker may have begun it
        self.lease: asyncio.Future[None] | None = None  # it is checked out: done once Kafka has that
        self.beat_at = -math.inf
        self.said_at = -math.inf
        self.said = False  # the code has given details of its own
        self.unsaid = False  # a heartbeat has not been reported yet
        self.details: bytes | Raw | None = command.heartbeat if isinstance(command.heartbeat, Raw) else None

    @property
    def lane(self) -> Lane:
        return self.command.reply_to.topic, self.command.reply_to.partition

    @property
    def is_over(self) -> bool:
        """Whether its outcome is decided."""
        return self.ended or self.stopped is not None

    @property
    def has_begun(self) -> bool:
        """Whether its code runs, as far as can be known."""
        return self.started is not None or self.launched

    @property
    def is_certain(self) -> bool:
        """Whether it may begin as it is, now that its turn has come."""
        if self.is_over or self.suspect or self.lease is not None or self.line.held:
            return False
        return bool(self.deliveries) and self.deliveries[0].partition.assigned

    @property
    def is_here(self) -> bool:
        """Whether a partition that holds the command is still this worker's."""
        return any(delivery.partition.assigned for delivery in self.deliveries)

    # ---- time

    def due(self, now: float) -> float:
        """When to look at it again, on the monotonic clock; while it has not begun, as if it began now."""
        started = now if self.started is None else self.started
        due = started + self.timeout_seconds
        if self.lease is None:
            due = min(due, started + self._times.check_out_seconds)
        if self.heartbeat_timeout_seconds is not None:
            due = min(due, max(started, self.beat_at) + self.heartbeat_timeout_seconds)
        return due

    def overdue(self, now: float) -> Overdue | None:
        """What its time has come for."""
        started, silence = self.started, self.heartbeat_timeout_seconds
        if started is None:
            return None
        if started + self.timeout_seconds <= now:
            return "attempt"
        if silence is not None and max(started, self.beat_at) + silence <= now:
            return "heartbeat"
        return "check_out" if self.lease is None and started + self._times.check_out_seconds <= now else None

    # ---- what its code says, from any thread

    def is_cancelled(self) -> bool:
        """What the author's code sees of it."""
        return self.stopped is not None

    def beat(self, details: Any, encoded: bytes | None) -> None:
        """The code has made a heartbeat. The latest is what is reported."""
        self.beat_at = time.monotonic()
        if encoded is not None:
            self.details = encoded
            self.said = True
        if not self.unsaid:  # else whoever will report it has not looked yet
            self.unsaid = True
            self._hear(self)

    def take(self) -> bytes | Raw | None:
        """The details to report with the latest heartbeat."""
        self.unsaid = False  # first: a heartbeat that is made meanwhile is reported too
        self.said_at = time.monotonic()
        return self.details

    @property
    def own_details(self) -> Raw | UnsetType:
        """What its code has said last, for the next attempt."""
        return Raw(bytes(self.details)) if self.said and self.details is not None else UNSET

    @property
    def say_at(self) -> float:
        """From when on a heartbeat may be reported."""
        return self.said_at + self._times.pause_seconds(self.heartbeat_timeout_seconds)

    # ---- its end

    def halts_by(self, halt: Callable[[], object] | None) -> None:
        """How its code, or what it waits for before it begins, is asked to end."""
        self._halt = halt

    def stop(self, why: Stopped) -> None:
        """Asks the code to end."""
        self.stopped = why
        if self._halt is not None:
            self._halt()


def _heartbeat_timeout(activity: Activity[..., Any], command: ActivityCommand) -> float | None:
    if command.heartbeat_timeout_seconds is not None or activity.heartbeat_timeout is None:
        return command.heartbeat_timeout_seconds
    return activity.heartbeat_timeout.total_seconds()
