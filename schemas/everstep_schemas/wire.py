"""The bodies of Kafka messages. Headers (CloudEvents in binary mode) are made in `everstep_schemas.cloudevents`."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import msgspec
from msgspec import UNSET, Raw, UnsetType

from everstep_schemas import events
from everstep_schemas.errors import ErrorInfo
from everstep_schemas.events import EMPTY_ARGS

OnDuplicate = Literal["reject", "return_existing", "terminate_existing", "allow_closed"]
NULL = Raw(b"null")

# ---- submissions: public, so unknown fields are refused rather than dropped


class Submission(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="kind", forbid_unknown_fields=True
):
    """What a client may ask of the orchestrator over the submissions topic."""

    workflow_id: str


class Start(Submission, frozen=True, tag="start"):
    """Starts a run. `submission_id` makes it idempotent; without one the record's position in the topic does."""

    workflow: str
    args: Raw = EMPTY_ARGS
    kwargs: Raw | UnsetType = UNSET
    version: int | None = None
    on_duplicate: OnDuplicate = "reject"
    submission_id: str | None = None


class Signal(Submission, frozen=True, tag="signal"):
    name: str
    value: Raw = NULL
    signal_id: str | None = None


class Cancel(Submission, frozen=True, tag="cancel"):
    reason: str = ""


class Terminate(Submission, frozen=True, tag="terminate"):
    reason: str = ""


AnySubmission = Start | Signal | Cancel | Terminate

# ---- inbox: internal


class ActivityCompleted(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="kind", tag="activity_completed"
):
    workflow_id: str
    run: int
    seq: int
    attempt: int
    token: str
    value: Raw = NULL
    worker: str | None = None


class ActivityFailed(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="kind", tag="activity_failed"
):
    workflow_id: str
    run: int
    seq: int
    attempt: int
    token: str
    error: ErrorInfo
    worker: str | None = None


class Forwarded(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="kind", tag="forwarded"):
    """A submission that some partitioner had put elsewhere. `source` is the identity it had there."""

    workflow_id: str
    source: str
    submission: Raw
    traceparent: str | None = None


InboxMessage = ActivityCompleted | ActivityFailed | Forwarded
ActivityResult = ActivityCompleted | ActivityFailed

# ---- what a run that cannot run now is owed: a start, answers, and requests whose ids are filled in

ParkedInput = events.Started | ActivityCompleted | ActivityFailed | Signal | Cancel | Terminate

# ---- commands


class ReplyTo(msgspec.Struct, frozen=True):
    topic: str
    partition: int


class ActivityCommand(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One attempt of an activity. Answers go to `reply_to` with the same ids and `token`."""

    workflow_id: str
    run: int
    seq: int
    attempt: int
    token: str
    activity: str
    idempotency_key: str
    reply_to: ReplyTo
    workflow: str = ""
    args: Raw = EMPTY_ARGS
    kwargs: Raw | UnsetType = UNSET
    timeout_seconds: float | None = None
    deadline: datetime | None = None


class Control(msgspec.Struct, frozen=True, kw_only=True):
    """`cancel`: stop the attempt if it runs here, skip it if it comes later. `drop`: skip it."""

    kind: Literal["cancel", "drop"]
    token: str


# ---- lifecycle


class Lifecycle(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A business-visible fact, typed by `ce_type`. Across a fail-over readers keep the highest `(run, seq)`."""

    workflow_id: str
    run: int
    seq: int
    at: datetime
    workflow: str = ""
    version: int = 0
    submission_id: str | None = None
    result: Raw | UnsetType = UNSET
    error: ErrorInfo | None = None
    reason: str | None = None
    status: str | None = None
    activity: str | None = None
    attempt: int | None = None
    retry_at: datetime | None = None


class LifecycleType:
    """The `ce_type` of a lifecycle record."""

    STARTED = "everstep.run.started"
    COMPLETED = "everstep.run.completed"
    FAILED = "everstep.run.failed"
    CANCELLED = "everstep.run.cancelled"
    TERMINATED = "everstep.run.terminated"
    STALLED = "everstep.run.stalled"
    HELD = "everstep.run.held"
    RESUMED = "everstep.run.resumed"
    STATUS_CHANGED = "everstep.run.status_changed"
    ACTIVITY_FAILED = "everstep.activity.failed"
    SUBMISSION_REJECTED = "everstep.submission.rejected"


encoder = msgspec.json.Encoder()
submission_decoder = msgspec.json.Decoder(AnySubmission)
inbox_decoder = msgspec.json.Decoder(InboxMessage)
command_decoder = msgspec.json.Decoder(ActivityCommand)
control_decoder = msgspec.json.Decoder(Control)
parked_decoder: msgspec.json.Decoder[ParkedInput] = msgspec.json.Decoder(ParkedInput)
lifecycle_decoder = msgspec.json.Decoder(Lifecycle)


class Outgoing(msgspec.Struct, frozen=True, gc=False):
    """A Kafka record to publish. `partition` None leaves the choice to the publisher."""

    topic: str
    value: bytes
    partition: int | None = None
    key: bytes | None = None
    headers: tuple[tuple[str, bytes], ...] = ()
