"""From a Kafka record to what it asks for. Pure: bytes in, one of a few kinds out, never an exception.

Whatever cannot be understood becomes `Dead` with the reason; a submission that lies in another shard's partition, where
its sender's partitioner put it, becomes `Elsewhere`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import msgspec

from everstep._core.reception import Request, identity_of, why_impossible, why_too_large
from everstep_schemas import cloudevents
from everstep_schemas.events import Parent
from everstep_schemas.names import Token, shard_of, shard_of_key, why_bad_name
from everstep_schemas.wire import (
    ActivitiesRenewed,
    ActivityResult,
    AnySubmission,
    CallbackSubmission,
    ChildEnd,
    ChildStart,
    Forwarded,
    RunResult,
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
class Result:
    """An answer to what a run of this shard waits for, which its token names."""

    message: ActivityResult | RunResult
    token: Token


@dataclass(frozen=True, slots=True)
class Renewal:
    """A worker still runs attempts of runs of this shard."""

    message: ActivitiesRenewed


@dataclass(frozen=True, slots=True)
class Callback:
    """What an outside system says about a callback of a run of this shard. `source` is its identity."""

    submission: CallbackSubmission
    token: Token
    source: str


@dataclass(frozen=True, slots=True)
class Child:
    """What a run asks of a run of this shard that is its child, or is to be."""

    message: ChildStart | ChildEnd


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """A submission that belongs to another shard."""

    shard: int
    message: Forwarded


@dataclass(frozen=True, slots=True)
class Refused:
    """A submission that was understood but asks for something impossible."""

    request: Request
    reason: str


@dataclass(frozen=True, slots=True)
class Dead:
    """What could not be understood; `reason` is a short word for metrics, `detail` a sentence for people."""

    reason: str
    detail: str


Incoming = Request | Result | Renewal | Callback | Child | Elsewhere | Refused | Dead


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

    # ---- submissions

    def _submission(self, record: Record) -> Incoming:
        body, traceparent = cloudevents.body(_text(record.value), record.headers)
        submission = submission_decoder.decode(body)
        chosen = identity_of(submission)
        source = f"{record.topic}/{record.partition}/{record.offset}" if chosen is None else chosen
        shard = self._shard_of(submission)
        if isinstance(shard, Dead):
            return shard
        if shard == record.partition:
            return self._here(submission, source, traceparent)
        raw = msgspec.Raw(body)
        key = submission.token if isinstance(submission, CallbackSubmission) else submission.workflow_id
        return Elsewhere(shard, Forwarded(workflow_id=key, source=source, submission=raw, traceparent=traceparent))

    def _forwarded(self, message: Forwarded, partition: int) -> Incoming:
        submission = submission_decoder.decode(message.submission)
        shard = self._shard_of(submission)
        if isinstance(shard, Dead):
            return shard
        if shard != partition:
            return Dead("misplaced", "the submission that is handed on belongs to another partition")
        return self._here(submission, message.source, message.traceparent, message.reply_to)

    def _shard_of(self, submission: AnySubmission) -> int | Dead:
        if isinstance(submission, CallbackSubmission):
            token = Token.parse(submission.token)
            if token is None or token.shard != shard_of_key(token.run_key) or not token.shard < self.shards:
                return Dead("invalid", f"token {submission.token[:100]!r} is none that Everstep gave out")
            return token.shard
        if why := why_bad_name(submission.workflow_id):
            return Dead("invalid", f"workflow_id {why}")
        return shard_of(submission.workflow_id, self.shards)

    def _here(
        self, submission: AnySubmission, source: str, traceparent: str | None, reply_to: Parent | None = None
    ) -> Incoming:
        if isinstance(submission, CallbackSubmission):
            return self._callback(submission, source)
        request = Request(submission, source, traceparent, reply_to)
        why = why_impossible(submission, source, self.max_payload_bytes)
        return request if why is None else Refused(request, why)

    def _callback(self, submission: CallbackSubmission, source: str) -> Incoming:
        token = Token.parse(submission.token)
        why = why_too_large(submission, self.max_payload_bytes) or why_bad_name(source)
        if token is None or why is not None:
            return Dead("invalid", f"callback: {why}")
        return Callback(submission, token, source)

    # ---- inbox

    def _inbox(self, record: Record) -> Incoming:
        message = inbox_decoder.decode(_text(record.value))
        match message:
            case Forwarded():
                return self._forwarded(message, record.partition)
            case ChildStart() | ChildEnd():
                return self._child(message, record.partition)
            case ActivitiesRenewed():
                return Renewal(message)
        token = Token.parse(message.token)
        if token is None or not token.shard == shard_of_key(token.run_key) == record.partition:
            return Dead("invalid", f"token {message.token[:100]!r} is none that Everstep gave out for this partition")
        return Result(message, token)

    def _child(self, message: ChildStart | ChildEnd, partition: int) -> Incoming:
        if why := why_bad_name(message.workflow_id):
            return Dead("invalid", f"workflow_id {why}")
        if shard_of(message.workflow_id, self.shards) != partition:
            return Dead("misplaced", f"workflow_id {message.workflow_id[:100]!r} belongs to another partition")
        return Child(message)


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
