"""What a worker says about an attempt, as records. Pure.

Every answer echoes the command's ids and token, so that it can only ever meet the attempt it belongs to; `ce_id` is the
token, the same however often an answer is sent. The size limits hold here, before Kafka could refuse a record.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from msgspec import UNSET, Raw

from everstep.errors import PayloadError, type_name
from everstep_schemas import cloudevents
from everstep_schemas.errors import ErrorInfo
from everstep_schemas.wire import ActivityCommand, ActivityCompleted, ActivityFailed, Outgoing, encoder
from everstep_worker.deliveries import Record

COMPLETED, FAILED = "everstep.activity.completed", "everstep.activity.failed"
TIMEOUT = "ActivityTimeout"
MAX_MESSAGE = 4_096


@dataclass(frozen=True, slots=True)
class Answers:
    """Builds the answers of one worker, which signs them with its name."""

    worker: str
    max_payload_bytes: int

    def completed(self, command: ActivityCommand, value: bytes, traceparent: str | None = None) -> Outgoing:
        """The attempt's result, or a failure that says that it is too large."""
        if len(value) > self.max_payload_bytes:
            return self.failed(command, too_large(command, len(value), self.max_payload_bytes), traceparent)
        body = ActivityCompleted(
            workflow_id=command.workflow_id,
            run=command.run,
            seq=command.seq,
            attempt=command.attempt,
            token=command.token,
            value=Raw(value),
            worker=self.worker,
        )
        return _outgoing(command, COMPLETED, encoder.encode(body), traceparent)

    def failed(self, command: ActivityCommand, error: ErrorInfo, traceparent: str | None = None) -> Outgoing:
        """Why the attempt failed. Declared fields that are too large are left out, and the error is final."""
        if error.fields is not UNSET and len(bytes(error.fields)) > self.max_payload_bytes:
            error = oversize_fields(error, self.max_payload_bytes)
        body = ActivityFailed(
            workflow_id=command.workflow_id,
            run=command.run,
            seq=command.seq,
            attempt=command.attempt,
            token=command.token,
            error=error,
            worker=self.worker,
        )
        return _outgoing(command, FAILED, encoder.encode(body), traceparent)


def _outgoing(command: ActivityCommand, type: str, value: bytes, traceparent: str | None) -> Outgoing:
    return Outgoing(
        topic=command.reply_to.topic,
        partition=command.reply_to.partition,
        key=command.workflow_id.encode(),
        value=value,
        headers=cloudevents.headers(type, command.token, traceparent),
    )


# ---- failures that the worker itself finds


def too_large(command: ActivityCommand, size: int, limit: int) -> ErrorInfo:
    return ErrorInfo(
        type="PayloadTooLarge",
        message=f"the activity {command.activity!r} returned {size} bytes of JSON; {limit} are allowed"
        " (EVERSTEP_MAX_PAYLOAD_BYTES): store it elsewhere and return where it is",
        retryable=False,
    )


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


def bad_arguments(name: str, why: str) -> ErrorInfo:
    return ErrorInfo(
        type=type_name(PayloadError),
        message=f"the arguments do not fit the activity {name!r}: {why}",
        retryable=False,
    )


def attempt_timed_out(timeout_seconds: float) -> ErrorInfo:
    return ErrorInfo(
        type=TIMEOUT,
        message=f"the attempt took longer than its timeout of {timeout_seconds:g} s",
        fields=Raw(b'{"which":"attempt"}'),
    )


def past_deadline(command: ActivityCommand) -> ErrorInfo:
    return ErrorInfo(
        type=TIMEOUT,
        message=f"its deadline, {command.deadline}, had passed before a worker could start it",
        retryable=False,
        fields=Raw(b'{"which":"total"}'),
    )


# ---- what is no command at all


def dead_letter(topic: str, record: Record, reason: str, detail: str) -> Outgoing:
    """The original bytes, where they stood, and why they could not be used."""
    own = {
        "everstep_reason": reason,
        "everstep_detail": detail,
        "everstep_topic": record.topic,
        "everstep_partition": str(record.partition),
        "everstep_offset": str(record.offset),
    }
    headers = ((name, text.encode(errors="backslashreplace")[:1000]) for name, text in own.items())
    original = ((name, value) for name, value in record.headers if value is not None)
    return Outgoing(topic=topic, partition=0, key=record.key, value=record.value or b"", headers=(*headers, *original))
