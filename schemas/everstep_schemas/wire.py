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
    """Starts a run of `workflow` under an id that no other run has.

    The same `submission_id` starts one run however often it is sent; without one the record's position in the topic
    identifies the submission. `on_duplicate` says what happens if the id has a run of another submission: `reject`,
    answer with that run (`return_existing`), or start the next one, after ending an open one (`terminate_existing`) or
    only if none is open (`allow_closed`). `args` are the positional arguments, `kwargs` the named ones. Without a
    `version` the newest runs.
    """

    workflow: str
    args: Raw = EMPTY_ARGS
    kwargs: Raw | UnsetType = UNSET
    version: int | None = None
    on_duplicate: OnDuplicate = "reject"
    submission_id: str | None = None


class Signal(Submission, frozen=True, tag="signal"):
    """Gives the open run of the id one `value` under a `name`.

    A run applies a `signal_id` once however often it is sent; without one the record's position in the topic
    identifies the signal. One that arrives before its run waits for it a while.
    """

    name: str
    value: Raw = NULL
    signal_id: str | None = None


class Cancel(Submission, frozen=True, tag="cancel"):
    """Asks the open run of the id to end: its code sees a cancellation and may clean up first."""

    reason: str = ""


class Terminate(Submission, frozen=True, tag="terminate"):
    """Ends the open run of the id at once, without running its code."""

    reason: str = ""


AnySubmission = Start | Signal | Cancel | Terminate

# ---- inbox: internal


class ActivityCompleted(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="kind", tag="activity_completed"
):
    """The result of an attempt. All ids and the `token` are the command's; `worker` names who answers, for people.

    The first answer of an attempt counts; later ones are ignored, and so is one that nobody waits for any more.
    """

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
    """Why an attempt failed; ids, `token` and `worker` as in a completed one.

    Another attempt follows if the error is `retryable` and the activity's retry policy allows one.
    """

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
    """Where the answers to a command go, exactly there whatever their key."""

    topic: str
    partition: int


class ActivityCommand(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One attempt of an activity. Answers go to `reply_to` with the same ids and `token`.

    `idempotency_key` is the same for all attempts of one activity and never the same for two: it goes to the systems
    that the activity changes. `timeout_seconds` bounds the attempt from its first line on; without it the activity's
    own timeout does. After the `deadline` it is not to be started.
    """

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
    """Said to all workers about the attempt with the `token`.

    `cancel`: stop it if it runs here, skip it if it comes later. `drop`: skip it. Neither is answered.
    """

    kind: Literal["cancel", "drop"]
    token: str


# ---- lifecycle


class Lifecycle(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A business-visible fact, typed by the header `ce_type`, which decides which fields appear.

    `run` counts the runs of an id from 1, `seq` the events of a run. A fact may come more than once, under the same
    `ce_id`, and across a fail-over an older one may follow a newer: readers keep the highest `(run, seq)`.
    """

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
