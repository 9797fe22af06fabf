"""The bodies of Kafka messages. Headers (CloudEvents in binary mode) are made in `everstep_schemas.cloudevents`."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import msgspec
from msgspec import UNSET, Raw, UnsetType

from everstep_schemas import events
from everstep_schemas.errors import ErrorInfo
from everstep_schemas.events import EMPTY_ARGS, AttributeValue

OnDuplicate = Literal["reject", "return_existing", "terminate_existing", "allow_closed"]
NULL = Raw(b"null")

# ---- submissions: public, so unknown fields are refused rather than dropped


class Submission(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="kind", forbid_unknown_fields=True
):
    """What a client may ask of the orchestrator over the submissions topic."""


class ToRun(Submission, frozen=True, kw_only=True):
    """A submission about a run of `workflow_id`."""

    workflow_id: str


class FirstSignal(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """A signal that comes with a start; without a `signal_id` the start's identity gives it one."""

    name: str
    value: Raw = NULL
    signal_id: str | None = None


class Start(ToRun, frozen=True, tag="start"):
    """Starts a run of `workflow` under an id that no other run has.

    The same `submission_id` starts one run however often it is sent; without one the record's position in the topic
    identifies the submission. `on_duplicate` says what happens if the id has a run of another submission: `reject`,
    answer with that run (`return_existing`), or start the next one, after ending an open one (`terminate_existing`) or
    only if none is open (`allow_closed`). `args` are the positional arguments, `kwargs` the named ones. Without a
    `version` the newest runs.

    The code begins at `start_at`, or at once, and may run for `timeout_seconds`. `attributes` can be searched for, the
    `memo` is only kept. The signal in `with_signal` reaches the run that answers the start, whether new or open before.
    """

    workflow: str
    args: Raw = EMPTY_ARGS
    kwargs: Raw | UnsetType = UNSET
    version: int | None = None
    on_duplicate: OnDuplicate = "reject"
    submission_id: str | None = None
    attributes: dict[str, AttributeValue] = {}
    memo: dict[str, Raw] = {}
    start_at: datetime | None = None
    timeout_seconds: float | None = None
    with_signal: FirstSignal | None = None


class Signal(ToRun, frozen=True, tag="signal"):
    """Gives the open run of the id one `value` under a `name`.

    A run applies a `signal_id` once however often it is sent; without one the record's position in the topic
    identifies the signal. One that arrives before its run waits for it a while.
    """

    name: str
    value: Raw = NULL
    signal_id: str | None = None


class Update(ToRun, frozen=True, tag="update"):
    """Asks the open run of the id to do something and to answer; the `value` is validated by the run's code first.

    The answer is a lifecycle record with the `update_id` as its `submission_id`: completed, failed or rejected. A run
    does what one `update_id` asks for once, and answers the same again however often it is sent; without one the
    record's position in the topic identifies the update.
    """

    name: str
    value: Raw = NULL
    update_id: str | None = None


class Cancel(ToRun, frozen=True, tag="cancel"):
    """Asks the open run of the id to end: its code sees a cancellation and may clean up first."""

    reason: str = ""


class Terminate(ToRun, frozen=True, tag="terminate"):
    """Ends the open run of the id at once, without running its code."""

    reason: str = ""


class CompleteCallback(Submission, frozen=True, tag="complete_callback"):
    """Gives the callback with this `token` its `value`. It counts once; a second completion is rejected.

    The same `submission_id` is applied once however often it is sent; without one the record's position in the topic
    identifies the submission.
    """

    token: str
    value: Raw = NULL
    submission_id: str | None = None


class CallbackProblem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Why a callback failed."""

    message: str
    type: str = "CallbackFailed"


class FailCallback(Submission, frozen=True, tag="fail_callback"):
    """Fails the callback with this `token`: its run sees the `error`. Counts as a completion does."""

    token: str
    error: CallbackProblem
    submission_id: str | None = None


class HeartbeatCallback(Submission, frozen=True, tag="heartbeat_callback"):
    """Says that whoever has the `token` still works on it. Not answered."""

    token: str
    details: Raw = NULL


RunSubmission = Start | Signal | Update | Cancel | Terminate
CallbackSubmission = CompleteCallback | FailCallback | HeartbeatCallback
AnySubmission = Start | Signal | Update | Cancel | Terminate | CompleteCallback | FailCallback | HeartbeatCallback

# ---- inbox: internal


class Inbox(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="kind"):
    """What workers, orchestrators and runs say to a run. `workflow_id` is the receiver's."""


class ActivityStarted(Inbox, frozen=True, tag="activity_started"):
    """A worker checks an attempt out: for `lease_seconds`, and as long as it renews them, nobody else is to run it.

    All ids and the `token` are the command's; once Kafka has this, the command's offset may pass. `again`: the worker
    has run it all along, and was given the same command because its lease had run out meanwhile.
    """

    workflow_id: str
    run: int
    seq: int
    attempt: int
    token: str
    lease_seconds: float
    worker: str | None = None
    again: bool = False


class Heartbeat(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The code of the attempt with the `token` has said that it gets on.

    `details` are the last ones that it, or an attempt before it, has given; they go to the next attempt if this fails.
    """

    token: str
    details: Raw = NULL


class ActivitiesRenewed(Inbox, frozen=True, tag="activities_renewed"):
    """A worker still runs the attempts with these `tokens`, all of runs of the partition that this is sent to.

    `heartbeats` are those that their code has made since the last time. The `released` ones, which are not among the
    `tokens`, the worker gives back: it has stopped them, so the same attempt may begin elsewhere at once, and is not
    counted as lost.
    """

    tokens: tuple[str, ...]
    heartbeats: tuple[Heartbeat, ...] = ()
    worker: str | None = None
    released: tuple[str, ...] = ()


class ActivityCompleted(Inbox, frozen=True, tag="activity_completed"):
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


class ActivityFailed(Inbox, frozen=True, tag="activity_failed"):
    """Why an attempt failed; ids, `token` and `worker` as in a completed one.

    Another attempt follows if the error is `retryable` and the activity's retry policy allows one; it is given the
    `details` of the last heartbeat. Without any, what was known of the progress before holds.
    """

    workflow_id: str
    run: int
    seq: int
    attempt: int
    token: str
    error: ErrorInfo
    worker: str | None = None
    details: Raw | UnsetType = UNSET


class Forwarded(Inbox, frozen=True, kw_only=True, tag="forwarded"):
    """A submission that some partitioner had put elsewhere, or that a run makes. `source` is its identity.

    A run that makes one is told at `reply_to` whether it reached the other.
    """

    workflow_id: str = ""
    source: str
    submission: Raw
    traceparent: str | None = None
    reply_to: events.Parent | None = None


class ChildStart(Inbox, frozen=True, tag="child_start"):
    """Starts a run of `workflow` under `workflow_id` for its `parent`, whose token is the identity of the start."""

    workflow_id: str
    parent: events.Parent
    workflow: str
    args: Raw = EMPTY_ARGS
    kwargs: Raw | UnsetType = UNSET
    version: int | None = None
    timeout_seconds: float | None = None


class ChildEnd(Inbox, frozen=True, tag="child_end"):
    """Asks the run that was started for the parent with this `token` to end: it is cancelled or terminated."""

    workflow_id: str
    token: str
    how: Literal["cancel", "terminate"]
    reason: str = ""


class ChildCompleted(Inbox, frozen=True, tag="child_completed"):
    """A child returned `value`. The ids and the `token` are the parent's; `child_run` is the number of its run."""

    workflow_id: str
    run: int
    seq: int
    token: str
    value: Raw = NULL
    child_run: int = 1


class ChildFailed(Inbox, frozen=True, tag="child_failed"):
    """A child ended without a result, or was never started (`rejected`); ids as in a completed one."""

    workflow_id: str
    run: int
    seq: int
    token: str
    status: events.EndedStatus
    error: ErrorInfo | None = None
    reason: str = ""
    child_run: int = 0


class RequestAnswered(Inbox, frozen=True, tag="request_answered"):
    """What a run sent to another one has reached it, or could not for the `error` given. The ids are the sender's."""

    workflow_id: str
    run: int
    seq: int
    token: str
    error: ErrorInfo | None = None


# The `ce_type` of each.
INBOX_TYPES: dict[type[Inbox], str] = {
    ActivityStarted: "everstep.activity.started",
    ActivitiesRenewed: "everstep.activities.renewed",
    ActivityCompleted: "everstep.activity.completed",
    ActivityFailed: "everstep.activity.failed",
    Forwarded: "everstep.inbox.forwarded",
    ChildStart: "everstep.child.start",
    ChildEnd: "everstep.child.end",
    ChildCompleted: "everstep.child.completed",
    ChildFailed: "everstep.child.failed",
    RequestAnswered: "everstep.request.answered",
}

ActivityResult = ActivityStarted | ActivityCompleted | ActivityFailed
RunResult = ChildCompleted | ChildFailed | RequestAnswered
InboxMessage = (
    ActivityStarted
    | ActivitiesRenewed
    | ActivityCompleted
    | ActivityFailed
    | Forwarded
    | ChildStart
    | ChildEnd
    | ChildCompleted
    | ChildFailed
    | RequestAnswered
)

# ---- what a run that cannot run now is owed: a start, answers, and requests whose ids are filled in

ParkedInput = (
    events.Started
    | ActivityStarted
    | ActivityCompleted
    | ActivityFailed
    | ChildCompleted
    | ChildFailed
    | RequestAnswered
    | Signal
    | Update
    | Cancel
    | Terminate
    | CompleteCallback
    | FailCallback
)

# ---- commands


class ReplyTo(msgspec.Struct, frozen=True):
    """Where the answers to a command go, exactly there whatever their key."""

    topic: str
    partition: int


class ActivityCommand(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One attempt of an activity. Answers go to `reply_to` with the same ids and `token`.

    `idempotency_key` is the same for all attempts of one activity and never the same for two: it goes to the systems
    that the activity changes. `timeout_seconds` bounds the attempt from its first line on; without it the activity's
    own timeout does. After the `deadline` of all attempts, or after `start_by`, it is not to be started.

    An attempt that says nothing of its progress for `heartbeat_timeout_seconds` has failed. `heartbeat` is what an
    attempt before this one said last. `suspect`: a worker has begun this very attempt and was lost, so the next one
    checks it out before it begins.
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
    start_by: datetime | None = None
    heartbeat_timeout_seconds: float | None = None
    heartbeat: Raw | UnsetType = UNSET
    suspect: bool = False


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
    name: str | None = None
    unread: dict[str, int] = {}
    parent: events.Parent | None = None


class LifecycleType:
    """The `ce_type` of a lifecycle record."""

    STARTED = "everstep.run.started"
    COMPLETED = "everstep.run.completed"
    FAILED = "everstep.run.failed"
    CANCELLED = "everstep.run.cancelled"
    TERMINATED = "everstep.run.terminated"
    TIMED_OUT = "everstep.run.timed_out"
    CONTINUED = "everstep.run.continued"
    STALLED = "everstep.run.stalled"
    HELD = "everstep.run.held"
    RESUMED = "everstep.run.resumed"
    STATUS_CHANGED = "everstep.run.status_changed"
    MILESTONE = "everstep.run.milestone"
    ACTIVITY_FAILED = "everstep.activity.failed"
    SIGNAL_UNREADABLE = "everstep.signal.unreadable"
    UPDATE_COMPLETED = "everstep.update.completed"
    UPDATE_FAILED = "everstep.update.failed"
    CALLBACK_COMPLETED = "everstep.callback.completed"
    CALLBACK_FAILED = "everstep.callback.failed"
    SUBMISSION_REJECTED = "everstep.submission.rejected"


encoder = msgspec.json.Encoder()
submission_decoder = msgspec.json.Decoder(AnySubmission)
inbox_decoder = msgspec.json.Decoder(InboxMessage)
command_decoder = msgspec.json.Decoder(ActivityCommand)
control_decoder = msgspec.json.Decoder(Control)
parked_decoder: msgspec.json.Decoder[ParkedInput] = msgspec.json.Decoder(ParkedInput)
lifecycle_decoder = msgspec.json.Decoder(Lifecycle)


class Outgoing(msgspec.Struct, frozen=True, gc=False):
    """A Kafka record to publish. Without a `partition` its key decides; without that, the publisher."""

    topic: str
    value: bytes
    partition: int | None = None
    key: bytes | None = None
    headers: tuple[tuple[str, bytes], ...] = ()
