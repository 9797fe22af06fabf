"""Messages that belong to no activation: rejections, repeated answers, stalls, and answers to other runs."""

from __future__ import annotations

from typing import Protocol

from msgspec import UNSET, Raw

from everstep._core.timers import instant
from everstep_schemas import cloudevents
from everstep_schemas.errors import ErrorInfo
from everstep_schemas.events import Parent, UpdateCompleted, UpdateFailed
from everstep_schemas.names import Token, Topics
from everstep_schemas.wire import (
    INBOX_TYPES,
    ChildFailed,
    Lifecycle,
    LifecycleType,
    Outgoing,
    RequestAnswered,
    encoder,
)


class Outline(Protocol):
    """A run as others see it: its place, what it runs, and how it is."""

    @property
    def workflow_id(self) -> str: ...
    @property
    def run(self) -> int: ...
    @property
    def workflow(self) -> str: ...
    @property
    def version(self) -> int: ...
    @property
    def source(self) -> str:
        """The identity of what started it."""
        ...

    @property
    def status(self) -> str: ...
    @property
    def started_at(self) -> int: ...
    @property
    def parent(self) -> Parent | None:
        """Who waits for its end."""
        ...

    @property
    def open(self) -> bool: ...


class Notices:
    """Builds the messages of one shard."""

    def __init__(self, topics: Topics, shard: int) -> None:
        self._topics = topics
        self._shard = shard

    # ---- to everyone

    def rejected(self, workflow_id: str, source: str, reason: str, now: int) -> Outgoing:
        """What was asked under the identity `source` has no effect, and why."""
        fact = Lifecycle(workflow_id=workflow_id, run=0, seq=0, at=instant(now), submission_id=source, reason=reason)
        return self._lifecycle(LifecycleType.SUBMISSION_REJECTED, f"{source}/rejected", fact)

    def existing(self, run: Outline, asked_by: str) -> Outgoing:
        """Answers a start with the run that exists. Who drops repetitions by `ce_id` must not drop it."""
        fact = Lifecycle(
            workflow_id=run.workflow_id,
            run=run.run,
            seq=1,
            at=instant(run.started_at),
            workflow=run.workflow,
            version=run.version,
            submission_id=asked_by,
            # Whoever asked may wait for an end that was announced before.
            status=None if run.open else run.status,
        )
        return self._lifecycle(LifecycleType.STARTED, f"{run.workflow_id}/{run.run}/1/{asked_by}", fact)

    def answered_before(self, run: Outline, seq: int, answer: UpdateCompleted | UpdateFailed, now: int) -> Outgoing:
        """The answer to an update that comes again; its event is the number `seq` of the run."""
        completed = isinstance(answer, UpdateCompleted)
        value: Raw | None = answer.value if isinstance(answer, UpdateCompleted) else None
        fact = Lifecycle(
            workflow_id=run.workflow_id,
            run=run.run,
            seq=seq,
            at=instant(now),
            workflow=run.workflow,
            version=run.version,
            submission_id=answer.update_id,
            result=UNSET if value is None else value,
            error=answer.error if isinstance(answer, UpdateFailed) else None,
        )
        type = LifecycleType.UPDATE_COMPLETED if completed else LifecycleType.UPDATE_FAILED
        return self._lifecycle(type, f"{run.workflow_id}/{run.run}/{seq}/again", fact)

    def stalled(self, run: Outline, seq: int, reason: str, now: int) -> Outgoing:
        """The run cannot go on after its event before `seq`."""
        fact = Lifecycle(
            workflow_id=run.workflow_id,
            run=run.run,
            seq=seq,
            at=instant(now),
            workflow=run.workflow,
            version=run.version,
            submission_id=run.source,
            reason=reason,
        )
        return self._lifecycle(LifecycleType.STALLED, f"{run.workflow_id}/{run.run}/{seq}/stalled", fact)

    def _lifecycle(self, type: str, id: str, fact: Lifecycle) -> Outgoing:
        return Outgoing(
            topic=self._topics.lifecycle,
            partition=self._shard,
            key=fact.workflow_id.encode(),
            value=encoder.encode(fact),
            headers=cloudevents.headers(type, id),
        )

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
