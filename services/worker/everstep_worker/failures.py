"""Why an attempt failed, as it crosses the wire. The activity's policy is asked here, where the exception itself is."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import structlog

from everstep import _outcomes
from everstep._error_infos import declared_name
from everstep.definitions import Activity
from everstep_schemas.errors import ErrorInfo

log = structlog.stdlib.get_logger(__name__)

MAX_MESSAGE = 4_096


def failure(activity: Activity[..., Any], error: BaseException) -> ErrorInfo:
    """The error of an attempt, retryable if the policy allows it."""
    info, defect = _outcomes.failure(activity, error)
    if defect is not None:
        log.warning("retry_if raised, trying again", activity=activity.name, exc_info=defect)
    return info


def is_declared(activity: Activity[..., Any], info: ErrorInfo) -> bool:
    """Whether the error is one that the activity is expected to end with now and then."""
    return any(declared_name(cls) == info.type for cls in activity.raises)


# ---- failures that the worker itself finds


def oversize_fields(error: ErrorInfo, limit: int) -> ErrorInfo:
    return ErrorInfo(
        type="PayloadTooLarge",
        message=f"the fields of {error.type} are larger than {limit} bytes (EVERSTEP_MAX_PAYLOAD_BYTES);"
        f" its message: {error.message}"[:MAX_MESSAGE],
        traceback=error.traceback,
        retryable=False,
    )


def refused_by_kafka(reason: str) -> ErrorInfo:
    return ErrorInfo(
        type="PayloadTooLarge",
        message=f"Kafka refused the answer ({reason}): the topic's max.message.bytes is smaller than"
        " EVERSTEP_MAX_PAYLOAD_BYTES needs; raise it with `everstep migrate`, or return less",
        retryable=False,
    )


def not_registered(name: str, registered: Iterable[str], worker: str) -> ErrorInfo:
    known = ", ".join(sorted(registered)) or "none"
    return ErrorInfo(
        type="ActivityNotRegistered",
        message=f"the worker {worker} has no activity {name!r} (it has: {known}). Deploy workers that do, or correct"
        " the name or the queue; the next attempt may find one",
    )


def process_died(name: str, how: str) -> ErrorInfo:
    return ErrorInfo(
        type="ProcessDied",
        message=f"the process that ran the activity {name!r} died: {how}. What the process wrote last stands in the"
        " worker's output; the next attempt has a new one",
    )


def no_process(name: str, why: str) -> ErrorInfo:
    return ErrorInfo(
        type="ProcessNotStarted",
        message=f"no process could be started for the activity {name!r}: {why}",
    )
