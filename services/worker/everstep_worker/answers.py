"""What a worker says about attempts, as records. Pure.

Every answer echoes the command's ids and token, so that it can only ever meet the attempt it belongs to; `ce_id` is the
token, the same however often an answer is sent. The size limits hold here, before Kafka could refuse a record.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from msgspec import UNSET, Raw, UnsetType

from everstep._outcomes import too_large
from everstep_schemas import cloudevents
from everstep_schemas.errors import ErrorInfo
from everstep_schemas.wire import (
    INBOX_TYPES,
    ActivitiesRenewed,
    ActivityCommand,
    ActivityCompleted,
    ActivityFailed,
    ActivityStarted,
    Heartbeat,
    Outgoing,
    ReplyTo,
    encoder,
)
from everstep_worker.deliveries import Record
from everstep_worker.failures import oversize_fields


@dataclass(frozen=True, slots=True)
class Answers:
    """Builds the answers of one worker, which signs them with its name."""

    worker: str
    max_payload_bytes: int

    def completed(self, command: ActivityCommand, value: bytes, traceparent: str | None = None) -> Outgoing:
        """The attempt's result, or a failure that says that it is too large."""
        if len(value) > self.max_payload_bytes:
            return self.failed(command, too_large(command.activity, len(value), self.max_payload_bytes), traceparent)
        body = ActivityCompleted(
            workflow_id=command.workflow_id,
            run=command.run,
            seq=command.seq,
            attempt=command.attempt,
            token=command.token,
            value=Raw(value),
            worker=self.worker,
        )
        return _answer(command, body, command.token, traceparent)

    def failed(
        self,
        command: ActivityCommand,
        error: ErrorInfo,
        traceparent: str | None = None,
        details: Raw | UnsetType = UNSET,
    ) -> Outgoing:
        """Why the attempt failed, and how far it was. Too large fields are left out, and the error is final."""
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
            details=details,
        )
        return _answer(command, body, command.token, traceparent)

    # ---- of an attempt that goes on

    def started(
        self, command: ActivityCommand, lease_seconds: float, traceparent: str | None = None, *, again: bool = False
    ) -> Outgoing:
        """The attempt is checked out, or still is when nobody else knew."""
        body = ActivityStarted(
            workflow_id=command.workflow_id,
            run=command.run,
            seq=command.seq,
            attempt=command.attempt,
            token=command.token,
            lease_seconds=lease_seconds,
            worker=self.worker,
            again=again,
        )
        return _answer(command, body, f"{command.token}/started", traceparent)

    def renewed(
        self,
        reply_to: ReplyTo,
        id: str,
        tokens: Iterable[str],
        heartbeats: Iterable[Heartbeat] = (),
        released: Iterable[str] = (),
    ) -> Outgoing:
        """How attempts get on that all answer to one partition; `id` is of this message alone."""
        body = ActivitiesRenewed(
            tokens=tuple(tokens), heartbeats=tuple(heartbeats), worker=self.worker, released=tuple(released)
        )
        headers = cloudevents.headers(INBOX_TYPES[ActivitiesRenewed], id)
        return Outgoing(reply_to.topic, encoder.encode(body), reply_to.partition, headers=headers)


def _answer(
    command: ActivityCommand,
    body: ActivityStarted | ActivityCompleted | ActivityFailed,
    id: str,
    traceparent: str | None,
) -> Outgoing:
    return Outgoing(
        topic=command.reply_to.topic,
        partition=command.reply_to.partition,
        key=command.workflow_id.encode(),
        value=encoder.encode(body),
        headers=cloudevents.headers(INBOX_TYPES[type(body)], id, traceparent),
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
