"""What an activity's code can find out and say about its attempt, and what every line that it logs says of it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import structlog
from msgspec import Raw

from everstep.activity import ActivityInfo, running
from everstep_schemas.wire import ActivityCommand


def of(
    command: ActivityCommand,
    is_cancelled: Callable[[], bool],
    heartbeat: Callable[[Any, bytes | None], None],
    most_bytes: int,
) -> AbstractContextManager[None]:
    """Within, `everstep.activity` speaks of this attempt. To be entered in a context of its own: log fields stay."""
    structlog.contextvars.bind_contextvars(
        workflow_id=command.workflow_id, run=command.run, activity=command.activity, attempt=command.attempt
    )
    info = ActivityInfo(
        workflow_id=command.workflow_id,
        run=command.run,
        seq=command.seq,
        attempt=command.attempt,
        idempotency_key=command.idempotency_key,
        deadline=command.deadline,
    )
    last = command.heartbeat if isinstance(command.heartbeat, Raw) else None
    return running(info, is_cancelled, heartbeat=heartbeat, last_heartbeat=last, most_bytes=most_bytes)
