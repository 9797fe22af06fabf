"""One attempt of an activity, from its start to its end."""

from __future__ import annotations

import asyncio
import contextvars
from typing import Any, Literal

from everstep.definitions import Activity
from everstep_schemas.wire import ActivityCommand
from everstep_worker.deliveries import Delivery
from everstep_worker.dispatch import Line

Stopped = Literal["timed_out", "cancelled", "shut_down"]


class Attempt:
    """An attempt that holds a slot.

    Once `stopped` is set, whatever the code still does is of no interest; the slot is free only when it ends.
    """

    __slots__ = (
        "activity",
        "args",
        "command",
        "context",
        "deliveries",
        "kwargs",
        "line",
        "started",
        "stopped",
        "task",
        "timeout_seconds",
        "traceparent",
    )

    def __init__(
        self,
        activity: Activity[..., Any],
        command: ActivityCommand,
        arguments: tuple[list[Any], dict[str, Any]],
        delivery: Delivery,
        line: Line,
        context: contextvars.Context,
        timeout_seconds: float,
        traceparent: str | None,
    ) -> None:
        self.activity = activity
        self.command = command
        self.args, self.kwargs = arguments
        self.deliveries = [delivery]  # more when the same command comes again while it runs
        self.line = line
        self.context = context
        self.timeout_seconds = timeout_seconds
        self.traceparent = traceparent
        self.started: float | None = None  # monotonic, at the first line of the author's code
        self.stopped: Stopped | None = None
        self.task: asyncio.Task[None] | None = None

    def is_cancelled(self) -> bool:
        """What the author's code sees of it."""
        return self.stopped is not None

    def stop(self, why: Stopped) -> None:
        """Asks the code to end. What has not begun never will: a task cancelled before its first step runs nothing."""
        self.stopped = why
        if self.task is not None and self.started is not None:
            self.task.cancel()
