"""Attempts without a worker."""

from __future__ import annotations

import contextvars
import itertools
from typing import Any

from msgspec import Raw
from tests.worker import flow
from tests.worker.test_parts import FakeRecord

from everstep_schemas.wire import ActivityCommand, ReplyTo
from everstep_worker.attempts import Attempt
from everstep_worker.deliveries import Delivery, Partition
from everstep_worker.dispatch import Line
from everstep_worker.times import Times

numbers = itertools.count(1)


def attempt_of(
    activity: str = "wait",
    *,
    partition: Partition | None = None,
    shard: int = 0,
    times: Times | None = None,
    **more: Any,
) -> Attempt:
    """One of a command of its own, which lies in `partition`. What its code says is heard by nobody."""
    number = next(numbers)
    command = ActivityCommand(
        workflow_id=f"order-{number}",
        run=1,
        seq=2,
        attempt=1,
        token=f"{shard:x}.{number:x}.2.1.nonce",
        activity=activity,
        idempotency_key=f"order-{number}/1/2",
        reply_to=ReplyTo("inbox", shard),
        args=Raw(b"[]"),
        **more,
    )
    delivery = Delivery(FakeRecord(number), partition or Partition(0))
    line = Line("default", 10)
    code = flow.app.activities[activity]
    context = contextvars.copy_context()
    return Attempt(code, command, ([], {}), delivery, line, context, times or Times(), lambda attempt: None, None)
