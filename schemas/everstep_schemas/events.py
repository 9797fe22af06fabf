"""The events of a run's history.

One activation is one input event (something that came from outside the workflow's code) followed by the command events
that the code produced in answer. It is stored as one JSON array; `seq` counts events through the whole history, from 1.
An event that belongs to an earlier one names that one's `seq` as its `ref`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import datetime
from typing import Literal, TypeVar, get_args

import msgspec
from msgspec import UNSET, Raw, UnsetType

from everstep_schemas.errors import ErrorInfo

EMPTY_ARGS = Raw(b"[]")
NULL = Raw(b"null")
# The answer to an update whose handler had not ended when its run did.
RUN_ENDED = ErrorInfo(type="RunEnded", message="the run ended before the update's handler had", retryable=False)

OnParentClose = Literal["terminate", "cancel", "abandon"]
EndedStatus = Literal["failed", "cancelled", "terminated", "timed_out", "rejected"]
AttributeValue = str | int | float | bool | list[str]
T = TypeVar("T")


def _tag(name: str) -> str:
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in name).lstrip("_")


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="kind", tag=_tag):
    """A fact in a run's history."""


class RetryPolicy(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How often and when a failed attempt is repeated; without one, the defaults below."""

    max_attempts: int | None = None
    initial_seconds: float = 1.0
    factor: float = 2.0
    maximum_seconds: float = 100.0
    jitter: float = 0.1
    give_up_on: tuple[str, ...] = ()


class Parent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Who waits for the end of a run: the event `seq` of another run. `depth` counts the ancestors."""

    workflow_id: str
    run: int
    seq: int
    token: str
    depth: int = 1


class Unread(msgspec.Struct, frozen=True, kw_only=True):
    """A signal that a run had received and its code had not, when the next run of the id took over."""

    name: str
    value: Raw
    signal_id: str


class Inheritance(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a run takes over from the one before: the ids of what that had applied lately, and what it left unread."""

    unread: tuple[Unread, ...] = ()
    signal_ids: tuple[str, ...] = ()
    update_ids: tuple[str, ...] = ()


# ---- input events


class Started(Event, frozen=True):
    """The run exists. `source` is the identity of the submission that created it; `nonce` goes into its tokens.

    Its code begins at `start_at`, else at once, and may run until `expires_at`. `attempt` counts the runs that `retry`
    has made of one start; `inherited` is what the run before left, if this one goes on with its work.
    """

    workflow: str
    version: int
    nonce: str
    source: str
    python: str
    args: Raw = EMPTY_ARGS
    kwargs: Raw | UnsetType = UNSET
    flags: tuple[int, ...] = ()
    traceparent: str | None = None
    parent: Parent | None = None
    attributes: dict[str, AttributeValue] = {}
    memo: dict[str, Raw] = {}
    start_at: datetime | None = None
    timeout_seconds: float | None = None
    expires_at: datetime | None = None
    retry: RetryPolicy | None = None
    attempt: int = 1
    inherited: Inheritance | None = None


class ActivityStarted(Event, frozen=True):
    """A worker has checked the attempt out: as long as it renews its lease, nobody else is to run it.

    `again`: it has run it all along, and was only not heard of for so long that its lease ran out.
    """

    ref: int
    attempt: int
    lease_seconds: float
    worker: str | None = None
    again: bool = False


class ActivityReleased(Event, frozen=True):
    """The attempt is given to workers again, with what it last said of its progress.

    Its lease has run out, or its worker has stopped it and given it back.
    """

    ref: int
    attempt: int
    details: Raw | UnsetType = UNSET
    given_back: bool = False


class ActivityCompleted(Event, frozen=True):
    ref: int
    value: Raw
    attempt: int = 1
    worker: str | None = None


class ActivityFailed(Event, frozen=True):
    """One attempt failed. With `retry_at` another follows then; without, the activity has failed.

    `details` is what the attempt last said of its progress. `unanswered`: no worker said this, a time ran out.
    """

    ref: int
    error: ErrorInfo
    attempt: int = 1
    retry_at: datetime | None = None
    worker: str | None = None
    details: Raw | UnsetType = UNSET
    unanswered: bool = False


class ActivityRetried(Event, frozen=True):
    """The time of the next attempt has come: `attempt` is its number, `details` what the one before had reached."""

    ref: int
    attempt: int
    details: Raw | UnsetType = UNSET


class TimerFired(Event, frozen=True):
    """The time that event `ref` waited for has come; `heartbeat`: that of its next heartbeat."""

    ref: int
    heartbeat: bool = False


class SignalReceived(Event, frozen=True):
    """`signal_id` is the sender's, else the identity of the message that carried the signal."""

    name: str
    value: Raw
    signal_id: str


class ChildCompleted(Event, frozen=True):
    """The child returned `value`; `run` is the number of the run that did."""

    ref: int
    value: Raw
    run: int = 1


class ChildFailed(Event, frozen=True):
    """The child ended without a result, or (`rejected`) was never started."""

    ref: int
    status: EndedStatus
    error: ErrorInfo | None = None
    reason: str = ""
    run: int = 0


class RequestAnswered(Event, frozen=True):
    """What this run sent to another one has reached it, or could not, for the `error` given."""

    ref: int
    error: ErrorInfo | None = None


class CallbackCompleted(Event, frozen=True):
    """`source` is the identity of the message that brought the `value`."""

    ref: int
    value: Raw
    source: str


class CallbackFailed(Event, frozen=True):
    ref: int
    error: ErrorInfo
    source: str


class UpdateRequested(Event, frozen=True):
    """A request that the code has found valid; its handler begins."""

    name: str
    value: Raw
    update_id: str


class CancelRequested(Event, frozen=True):
    reason: str = ""


class Terminated(Event, frozen=True):
    """Closes the run without running its code."""

    reason: str = ""


class TimedOut(Event, frozen=True):
    """The run has reached its timeout, which closes it without running its code."""


# ---- command events


class ActivityScheduled(Event, frozen=True):
    """All attempts together have until `expires_at`; each may wait `queue_timeout_seconds` for a worker."""

    name: str
    queue: str
    args: Raw = EMPTY_ARGS
    kwargs: Raw | UnsetType = UNSET
    timeout_seconds: float | None = None
    retry: RetryPolicy | None = None
    expires_at: datetime | None = None
    queue_timeout_seconds: float | None = None
    heartbeat_timeout_seconds: float | None = None


class ActivityCancelled(Event, frozen=True):
    """The code no longer wants the answer; `attempt` is the one under way."""

    ref: int
    attempt: int = 1


class TimerStarted(Event, frozen=True):
    fire_at: datetime


class TimerCancelled(Event, frozen=True):
    ref: int


class SignalAwaited(Event, frozen=True):
    """The code waits for a signal; `TimerFired` with this event's `seq` ends the wait at its `deadline`."""

    name: str
    deadline: datetime | None = None


class ConditionAwaited(Event, frozen=True):
    """The code waits until something about its own state is true; `what` names where it says so, for people."""

    what: str
    deadline: datetime | None = None


class ConditionMet(Event, frozen=True):
    ref: int


class WaitCancelled(Event, frozen=True):
    """The code no longer waits for what event `ref` stands for."""

    ref: int


class SignalUnreadable(Event, frozen=True):
    """A received signal did not fit the type that the code declares for it, and was put aside."""

    name: str
    signal_id: str
    reason: str


class ChildStarted(Event, frozen=True):
    workflow: str
    workflow_id: str
    args: Raw = EMPTY_ARGS
    kwargs: Raw | UnsetType = UNSET
    version: int | None = None
    timeout_seconds: float | None = None
    on_parent_close: OnParentClose = "terminate"


class ChildCancelled(Event, frozen=True):
    """The code no longer waits for the child, which is cancelled, terminated or left alone."""

    ref: int
    workflow_id: str
    how: OnParentClose = "cancel"


class SignalSent(Event, frozen=True):
    """A signal to another run."""

    workflow_id: str
    name: str
    value: Raw
    signal_id: str


class CancelSent(Event, frozen=True):
    """A request to another run to end."""

    workflow_id: str
    reason: str = ""


class CallbackCreated(Event, frozen=True):
    """Whoever has the `token` may complete this once, at `url` for example, and before its `deadline`."""

    token: str
    url: str
    deadline: datetime | None = None
    heartbeat_timeout_seconds: float | None = None


class UpdateCompleted(Event, frozen=True):
    ref: int
    update_id: str
    value: Raw


class UpdateFailed(Event, frozen=True):
    ref: int
    update_id: str
    error: ErrorInfo


class StatusSet(Event, frozen=True):
    text: str


class MilestoneReached(Event, frozen=True):
    text: str


class AttributesSet(Event, frozen=True):
    """Attributes that have changed; null: it is gone."""

    values: dict[str, AttributeValue | None]


class PatchMarked(Event, frozen=True):
    """From here on the run takes the way that the code names by `id`."""

    id: str


class SideEffectRecorded(Event, frozen=True):
    """What a side effect gave, or the `error` that it raised."""

    value: Raw = NULL
    error: ErrorInfo | None = None


class Completed(Event, frozen=True):
    """`unread` counts, by name, the signals that the code never received; also below."""

    value: Raw
    unread: dict[str, int] = {}


class Failed(Event, frozen=True):
    error: ErrorInfo
    unread: dict[str, int] = {}


class Cancelled(Event, frozen=True):
    reason: str = ""
    unread: dict[str, int] = {}


class Continued(Event, frozen=True):
    """The next run of the id goes on with the work: with new arguments, or again after the `error`, at `retry_at`."""

    workflow: str
    args: Raw = EMPTY_ARGS
    kwargs: Raw | UnsetType = UNSET
    version: int | None = None
    error: ErrorInfo | None = None
    retry_at: datetime | None = None


InputEvent = (
    Started
    | ActivityStarted
    | ActivityReleased
    | ActivityCompleted
    | ActivityFailed
    | ActivityRetried
    | TimerFired
    | SignalReceived
    | ChildCompleted
    | ChildFailed
    | RequestAnswered
    | CallbackCompleted
    | CallbackFailed
    | UpdateRequested
    | CancelRequested
    | Terminated
    | TimedOut
)
CommandEvent = (
    ActivityScheduled
    | ActivityCancelled
    | TimerStarted
    | TimerCancelled
    | SignalAwaited
    | ConditionAwaited
    | ConditionMet
    | WaitCancelled
    | SignalUnreadable
    | ChildStarted
    | ChildCancelled
    | SignalSent
    | CancelSent
    | CallbackCreated
    | UpdateCompleted
    | UpdateFailed
    | StatusSet
    | MilestoneReached
    | AttributesSet
    | PatchMarked
    | SideEffectRecorded
    | Completed
    | Failed
    | Cancelled
    | Continued
)
AnyEvent = InputEvent | CommandEvent

INPUT_TYPES: tuple[type[Event], ...] = get_args(InputEvent)

_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[list[AnyEvent]] = msgspec.json.Decoder(list[AnyEvent])
_input_decoder: msgspec.json.Decoder[InputEvent] = msgspec.json.Decoder(InputEvent)


def encode_events(events: list[AnyEvent]) -> bytes:
    """The `data` of a history row."""
    return _encoder.encode(events)


def decode_events(data: bytes) -> list[AnyEvent]:
    """The events of a history row; `msgspec.ValidationError` if it is not one."""
    return with_headroom(_decoder.decode, data)


# More than a row and its events add to the nesting of a value, and a loader to the stack.
_HEADROOM = 1_000


def with_headroom(decode: Callable[[bytes], T], data: bytes) -> T:
    """Decode what is stored. A value that was just not too deep to come in lies deeper there, and must not be lost."""
    try:
        return decode(data)
    except RecursionError:
        limit = sys.getrecursionlimit()
        sys.setrecursionlimit(limit + _HEADROOM)
        try:
            return decode(data)
        finally:
            sys.setrecursionlimit(limit)


def encode_input(event: InputEvent) -> bytes:
    return _encoder.encode(event)


def decode_input(data: bytes) -> InputEvent:
    return _input_decoder.decode(data)
