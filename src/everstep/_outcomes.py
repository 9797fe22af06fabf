"""How the failures of an attempt cross the wire: what its code raised, and what whoever runs it finds wrong. Pure."""

from __future__ import annotations

import msgspec

from everstep._error_infos import info_of, timed_out, type_name
from everstep.definitions import Activity
from everstep.errors import PayloadError
from everstep_schemas.errors import ErrorInfo
from everstep_schemas.wire import ActivityCommand


def failure(activity: Activity[..., object], error: BaseException) -> tuple[ErrorInfo, Exception | None]:
    """What an attempt's code raised; the activity's policy is asked here, where the exception itself is.

    With the error that `retry_if` itself raised, if it did: it is tried again then.
    """
    info = info_of(error, activity.raises)
    if not info.retryable:
        return info, None
    again, defect = _may_be_retried(activity, error)
    return info if again else msgspec.structs.replace(info, retryable=False), defect


def _may_be_retried(activity: Activity[..., object], error: BaseException) -> tuple[bool, Exception | None]:
    retry = activity.retry
    if retry.gives_up_on(error):
        return False, None
    try:
        return retry.retry_if is None or bool(retry.retry_if(error)), None
    except Exception as defect:
        return True, defect


def bad_arguments(name: str, error: Exception) -> ErrorInfo:
    return ErrorInfo(
        type=type_name(PayloadError),
        message=f"the arguments do not fit the activity {name!r}: {str(error) or type(error).__name__}",
        retryable=False,
    )


def too_large(name: str, size: int, limit: int) -> ErrorInfo:
    return ErrorInfo(
        type="PayloadTooLarge",
        message=f"the activity {name!r} returned {size} bytes of JSON; {limit} are allowed"
        " (EVERSTEP_MAX_PAYLOAD_BYTES): store it elsewhere and return where it is",
        retryable=False,
    )


def attempt_timed_out(timeout_seconds: float) -> ErrorInfo:
    return timed_out("attempt", f"the attempt took longer than its timeout of {timeout_seconds:g} s")


def went_silent(heartbeat_timeout_seconds: float) -> ErrorInfo:
    return timed_out("heartbeat", f"no heartbeat came for {heartbeat_timeout_seconds:g} s")


def too_late(command: ActivityCommand, now: float) -> ErrorInfo | None:
    """Why the command is not to be started any more; `now` is in seconds since 1970."""
    if command.deadline is not None and command.deadline.timestamp() <= now:
        return timed_out("total", f"its deadline, {command.deadline}, had passed before a worker could start it")
    if command.start_by is not None and command.start_by.timestamp() <= now:
        return timed_out("queue", f"no worker could start it by {command.start_by}")
    return None
