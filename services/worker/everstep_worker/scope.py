"""What an activity's code can find out about its attempt, and what every line that it logs says of it."""

from __future__ import annotations

from contextlib import AbstractContextManager

import structlog

from everstep.activity import ActivityInfo, running
from everstep_worker.attempts import Attempt


def of(attempt: Attempt) -> AbstractContextManager[None]:
    """Within, `activity.info()` speaks of `attempt`. To be entered in a context of its own: the log fields stay."""
    command = attempt.command
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
    return running(info, attempt.is_cancelled)
