"""From a Kafka record to what it asks for. Pure: bytes in, one of the five kinds out, never an exception.

Whatever cannot be understood becomes `Dead` with the reason; a submission that lies in another shard's partition, where
its sender's partitioner put it, becomes `Elsewhere`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import msgspec

from everstep_schemas import cloudevents
from everstep_schemas.names import Token, shard_of, shard_of_key, why_bad_name
from everstep_schemas.wire import (
    ActivityResult,
    AnySubmission,
    Forwarded,
    Signal,
    Start,
    inbox_decoder,
    submission_decoder,
)


class Record(Protocol):
    """The parts of a consumed Kafka record that matter here."""

    @property
    def topic(self) -> str: ...
    @property
    def partition(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> cloudevents.Headers: ...


@dataclass(frozen=True, slots=True)
class Request:
    """A submission for a run of this shard. `source` is its identity, the same however often it arrives."""

    submission: AnySubmission
    source: str
    traceparent: str | None


@dataclass(frozen=True, slots=True)
class Result:
    """An answer to an attempt of an activity."""

    message: ActivityResult
    token: Token


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """A submission that belongs to another shard."""

    shard: int
    message: Forwarded


@dataclass(frozen=True, slots=True)
class Refused:
    """A submission that was understood but asks for something impossible."""

    submission: AnySubmission
    source: str
    reason: str


@dataclass(frozen=True, slots=True)
class Dead:
    """What could not be understood; `reason` is a short word for metrics, `detail` a sentence for people."""

    reason: str
    detail: str


Incoming = Request | Result | Elsewhere | Refused | Dead


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads the records of one installation."""

    shards: int
    max_payload_bytes: int

    def submission(self, record: Record) -> Incoming:
        """What a record of the submissions topic asks for."""
        return _guarded(lambda: self._submission(record))

    def inbox(self, record: Record) -> Incoming:
        """What a record of the inbox topic says."""
        return _guarded(lambda: self._inbox(record))

    def _submission(self, record: Record) -> Incoming:
        body, traceparent = cloudevents.body(_text(record.value), record.headers)
        submission = submission_decoder.decode(body)
        chosen = _identity(submission)
        source = f"{record.topic}/{record.partition}/{record.offset}" if chosen is None else chosen
        if why := why_bad_name(submission.workflow_id):
            return Dead("invalid", f"workflow_id {why}")
        shard = shard_of(submission.workflow_id, self.shards)
        if shard == record.partition:
            return self._request(submission, source, traceparent)
        raw = msgspec.Raw(body)
        return Elsewhere(
            shard,
            Forwarded(workflow_id=submission.workflow_id, source=source, submission=raw, traceparent=traceparent),
        )

    def _inbox(self, record: Record) -> Incoming:
        message = inbox_decoder.decode(_text(record.value))
        if isinstance(message, Forwarded):
            return self._forwarded(message, record.partition)
        token = Token.parse(message.token)
        if token is None or not token.shard == shard_of_key(token.run_key) == record.partition:
            return Dead("invalid", f"token {message.token[:100]!r} is none that Everstep gave out for this partition")
        return Result(message, token)

    def _forwarded(self, message: Forwarded, partition: int) -> Incoming:
        submission = submission_decoder.decode(message.submission)
        if why := why_bad_name(submission.workflow_id):
            return Dead("invalid", f"workflow_id {why}")
        if shard_of(submission.workflow_id, self.shards) != partition:
            return Dead("misplaced", f"workflow_id {submission.workflow_id[:100]!r} belongs to another partition")
        return self._request(submission, message.source, message.traceparent)

    def _request(self, submission: AnySubmission, source: str, traceparent: str | None) -> Request | Refused:
        why = self._why_impossible(submission) or _why("its identity", source)
        return Refused(submission, source, why) if why else Request(submission, source, traceparent)

    def _why_impossible(self, submission: AnySubmission) -> str | None:
        match submission:
            case Start():
                return self._why_bad_start(submission)
            case Signal():
                return _why("name", submission.name) or self._why_too_large("value", submission.value)
            case _:
                return None

    def _why_bad_start(self, start: Start) -> str | None:
        if not bytes(start.args).lstrip().startswith(b"["):
            return "args must be a JSON array"
        if start.kwargs is not msgspec.UNSET and not bytes(start.kwargs).lstrip().startswith(b"{"):
            return "kwargs must be a JSON object"
        if start.version is not None and not 1 <= start.version < 1 << 31:
            return f"version is {start.version}; versions count from 1"
        kwargs = b"" if start.kwargs is msgspec.UNSET else start.kwargs
        return _why("workflow", start.workflow) or self._why_too_large("args and kwargs", start.args, kwargs)

    def _why_too_large(self, what: str, *parts: bytes | msgspec.Raw) -> str | None:
        size = sum(len(bytes(part)) for part in parts)
        if size <= self.max_payload_bytes:
            return None
        return f"{what} have {size} bytes; {self.max_payload_bytes} are allowed (EVERSTEP_MAX_PAYLOAD_BYTES)"


def _guarded(read: Callable[[], Incoming]) -> Incoming:
    try:
        return read()
    except msgspec.ValidationError as error:
        return Dead("invalid", str(error))
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return Dead("not_json", str(error))
    except RecursionError:
        return Dead("too_deep", "the JSON is nested too deep")


def _text(value: bytes | None) -> bytes:
    """The bytes, known to be UTF-8: raw parts of them are stored undecoded and must be readable as text later."""
    if not value:
        raise msgspec.DecodeError("the record is empty")
    value.decode()
    return value


def _why(field: str, name: str) -> str | None:
    why = why_bad_name(name)
    return f"{field} {why}" if why else None


def _identity(submission: AnySubmission) -> str | None:
    match submission:
        case Start():
            return submission.submission_id
        case Signal():
            return submission.signal_id
        case _:
            return None
