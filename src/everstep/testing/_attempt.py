"""One attempt of an activity without a workflow, for a test of the activity alone."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from everstep import activity
from everstep._core.payloads import codec_for
from everstep._tasks import noting
from everstep.activity import ActivityInfo


class AttemptRecord:
    """What an attempt said, and a way to end it."""

    def __init__(self, tasks: set[asyncio.Task[Any]]) -> None:
        self.heartbeats: list[Any] = []
        """The details of its heartbeats, in order."""
        self._tasks = tasks
        self._cancelled: list[asyncio.Task[Any]] = []
        self._is_cancelled = False

    def cancel(self) -> None:
        """As if nobody waited any more: `activity.is_cancelled()` is true, and `async` code that runs is cancelled."""
        self._is_cancelled = True
        for task in self._tasks:
            task.cancel()
            self._cancelled.append(task)

    def _heard(self, details: Any, encoded: bytes | None) -> None:
        self.heartbeats.append(details)


@contextmanager
def attempt(*, number: int = 1, idempotency_key: str = "test", last_heartbeat: Any = None) -> Iterator[AttemptRecord]:
    """Within, an activity that is called here is the attempt with this `number`.

    `activity.info()` has the `idempotency_key`, `activity.last_heartbeat()` gives what an attempt before is to have
    said; heartbeats are kept in the record.
    """
    info = ActivityInfo(workflow_id="test", run=1, seq=1, attempt=number, idempotency_key=idempotency_key)
    last = None if last_heartbeat is None else codec_for(Any).encode(last_heartbeat)
    with noting() as tasks:
        record = AttemptRecord(tasks)
        with activity.running(info, lambda: record._is_cancelled, heartbeat=record._heard, last_heartbeat=last):
            try:
                yield record
            finally:
                for task in record._cancelled:
                    task.uncancel()
