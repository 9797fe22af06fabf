"""The worker's metrics, with the labelled children looked up once."""

from __future__ import annotations

import time
from collections.abc import Callable, Container
from functools import cache

from prometheus_client import Counter, Histogram

from everstep import telemetry
from everstep.telemetry import known
from everstep_worker.dispatch import Line


class Meters:
    """Counts and measures; labels are names that the app registered, whatever a command says."""

    def __init__(self, activities: Container[str]) -> None:
        self._activities = activities
        self._attempts = cache(self._attempts_of)
        self._duration = cache(self._duration_of)
        self._queue = cache(self._queue_of)

    def _attempts_of(self, activity: str, outcome: str) -> Counter:
        return telemetry.ACTIVITY_ATTEMPTS.labels(activity, outcome)

    def _duration_of(self, activity: str) -> Histogram:
        return telemetry.ACTIVITY_DURATION_SECONDS.labels(activity)

    def _queue_of(self, queue: str) -> Histogram:
        return telemetry.ACTIVITY_QUEUE_SECONDS.labels(queue)

    def attempts(self, activity: str, outcome: str) -> None:
        """An attempt was answered, cancelled or refused."""
        self._attempts(known(activity, self._activities), outcome).inc()

    def ran(self, activity: str, seconds: float) -> None:
        """An attempt's code has ended."""
        self._duration(activity).observe(seconds)

    def queued(self, queue: str, timestamp_ms: int) -> None:
        """A command starts whose record has this timestamp."""
        self._queue(queue).observe(max(0.0, time.time() - timestamp_ms / 1000))

    def dead_letter(self, reason: str) -> None:
        telemetry.DEAD_COMMANDS.labels(reason).inc()

    def checked_out(self, activity: str) -> None:
        telemetry.ACTIVITY_CHECKOUTS.labels(known(activity, self._activities)).inc()

    def renewed(self, count: int) -> None:
        """So many holds are renewed."""
        telemetry.LEASES_RENEWED.inc(count)

    def process_died(self, activity: str) -> None:
        """A process ended under an attempt."""
        telemetry.PROCESS_DEATHS.labels(known(activity, self._activities)).inc()

    def watch_holds(self, checked_out: Callable[[], int], processes: Callable[[], int]) -> None:
        """Shows how many attempts are checked out and how many processes there are, whenever somebody asks."""
        telemetry.ACTIVITIES_CHECKED_OUT.set_function(checked_out)
        telemetry.ACTIVITY_PROCESSES.set_function(processes)

    def watch(self, line: Line) -> None:
        """Shows how many attempts of a queue run, whenever somebody asks."""
        telemetry.ACTIVITIES_RUNNING.labels(line.queue).set_function(lambda: line.running)
