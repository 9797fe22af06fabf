"""Messages that belong to no activation: rejections, answers, stalls, dead letters, what is handed on. Pure."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec
from msgspec import UNSET

from everstep_orchestrator.pipeline.incoming import Dead, Record
from everstep_schemas import cloudevents
from everstep_schemas.errors import ErrorInfo
from everstep_schemas.events import Parent, UpdateCompleted, UpdateFailed
from everstep_schemas.names import Token, Topics
from everstep_schemas.wire import (
    INBOX_TYPES,
    ChildFailed,
    Forwarded,
    Lifecycle,
    LifecycleType,
    Outgoing,
    RequestAnswered,
    RunSubmission,
    encoder,
)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def instant(microseconds: int) -> datetime:
    """An instant of the pipeline as the wire shows it."""
    return _EPOCH + timedelta(microseconds=microseconds)


class Notices:
    """Builds the messages of one shard."""

    def __init__(self, topics: Topics, shard: int) -> None:
        self._topics = topics
        self._shard = shard

    def rejected(self, submission: RunSubmission, source: str, reason: str, now: int) -> Outgoing:
        """The submission will have no effect, and why."""
        return self.refused(submission.workflow_id, source, reason, now)

    def refused(self, workflow_id: str, source: str, reason: str, now: int) -> Outgoing:
        """What was asked of a run, under the identity `source`, has no effect, and why."""
        fact = Lifecycle(workflow_id=workflow_id, run=0, seq=0, at=instant(now), submission_id=source, reason=reason)
        return self._lifecycle(LifecycleType.SUBMISSION_REJECTED, f"{source}/rejected", fact)

    def answered_before(
        self,
        workflow_id: str,
        run: int,
        workflow: str,
        version: int,
        seq: int,
        answer: UpdateCompleted | UpdateFailed,
        now: int,
    ) -> Outgoing:
        """The answer to an update that comes again; its event is the number `seq` of the run."""
        completed = isinstance(answer, UpdateCompleted)
        fact = Lifecycle(
            workflow_id=workflow_id,
            run=run,
            seq=seq,
            at=instant(now),
            workflow=workflow,
            version=version,
            submission_id=answer.update_id,
            result=answer.value if isinstance(answer, UpdateCompleted) else UNSET,
            error=answer.error if isinstance(answer, UpdateFailed) else None,
        )
        type = LifecycleType.UPDATE_COMPLETED if completed else LifecycleType.UPDATE_FAILED
        return self._lifecycle(type, f"{workflow_id}/{run}/{seq}/again", fact)

    # ---- to runs

    def answered(self, waits: Parent, error: ErrorInfo | None) -> Outgoing:
        """What a run sent to one of this shard has reached it, or could not."""
        message = RequestAnswered(
            workflow_id=waits.workflow_id, run=waits.run, seq=waits.seq, token=waits.token, error=error
        )
        return self._to_run(waits, message)

    def child_refused(self, parent: Parent, error: ErrorInfo) -> Outgoing:
        """A child cannot be started."""
        message = ChildFailed(
            workflow_id=parent.workflow_id,
            run=parent.run,
            seq=parent.seq,
            token=parent.token,
            status="rejected",
            error=error,
        )
        return self._to_run(parent, message)

    def _to_run(self, receiver: Parent, message: RequestAnswered | ChildFailed) -> Outgoing:
        token = Token.parse(receiver.token)
        return Outgoing(
            topic=self._topics.inbox,
            partition=None if token is None else token.shard,
            key=receiver.workflow_id.encode(),
            value=encoder.encode(message),
            headers=cloudevents.headers(INBOX_TYPES[type(message)], receiver.token),
        )

    # ---- to everyone

    def existing(self, fact: Lifecycle) -> Outgoing:
        """Answers a start with the run that exists already. Who drops repetitions by `ce_id` must not drop it."""
        id = f"{fact.workflow_id}/{fact.run}/1/{fact.submission_id}"
        return self._lifecycle(LifecycleType.STARTED, id, fact)

    def stalled(self, fact: Lifecycle) -> Outgoing:
        return self._lifecycle(LifecycleType.STALLED, f"{fact.workflow_id}/{fact.run}/{fact.seq}/stalled", fact)

    def held(self, fact: Lifecycle) -> Outgoing:
        return self._lifecycle(LifecycleType.HELD, f"{fact.workflow_id}/{fact.run}/{fact.seq}/held", fact)

    def resumed(self, fact: Lifecycle) -> Outgoing:
        return self._lifecycle(LifecycleType.RESUMED, f"{fact.workflow_id}/{fact.run}/{fact.seq}/resumed", fact)

    def _lifecycle(self, type: str, id: str, fact: Lifecycle) -> Outgoing:
        return Outgoing(
            topic=self._topics.lifecycle,
            partition=self._shard,
            key=fact.workflow_id.encode(),
            value=encoder.encode(fact),
            headers=cloudevents.headers(type, id),
        )

    def forwarded(self, shard: int, message: Forwarded) -> Outgoing:
        """Hands a submission to the shard that it belongs to."""
        return Outgoing(
            topic=self._topics.inbox,
            partition=shard,
            key=message.workflow_id.encode(),
            value=encoder.encode(message),
            headers=cloudevents.headers("everstep.inbox.forwarded", message.source, message.traceparent),
        )

    def dead(self, record: Record, why: Dead) -> Outgoing:
        """The original bytes, where they stood and why they could not be used."""
        own = {
            "everstep_reason": why.reason,
            "everstep_detail": why.detail,
            "everstep_topic": record.topic,
            "everstep_partition": str(record.partition),
            "everstep_offset": str(record.offset),
        }
        headers = ((name, value.encode(errors="backslashreplace")[:1000]) for name, value in own.items())
        return Outgoing(
            topic=self._topics.dlq,
            key=record.key,
            value=record.value or b"",
            headers=(*headers, *((name, value) for name, value in record.headers if value is not None)),
        )

    def unpublishable(self, message: Outgoing, why: str) -> Outgoing:
        """A message of ours that Kafka refuses, in the same form."""
        own = {"everstep_reason": "unpublishable", "everstep_detail": why, "everstep_topic": message.topic}
        headers = ((name, value.encode(errors="backslashreplace")[:1000]) for name, value in own.items())
        return Outgoing(
            topic=self._topics.dlq, key=message.key, value=message.value, headers=(*headers, *message.headers)
        )


def reason_text(reason: bytes | None) -> str | None:
    """The sentence in a stored stall reason."""
    if reason is None:
        return None
    message = msgspec.json.decode(reason).get("message")
    return str(message)
