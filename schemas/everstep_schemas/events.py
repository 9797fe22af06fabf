"""The events of a run's history.

One activation is one input event (something that came from outside the workflow's code) followed by the command events
that the code produced in answer. It is stored as one JSON array; `seq` counts events through the whole history, from 1.
An event that belongs to an earlier one names that one's `seq` as its `ref`.
"""

from __future__ import annotations

from datetime import datetime

import msgspec
from msgspec import UNSET, Raw, UnsetType

from everstep_schemas.errors import ErrorInfo

EMPTY_ARGS = Raw(b"[]")


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


# ---- input events


class Started(Event, frozen=True):
    """The run exists. `source` is the identity of the submission that created it; `nonce` goes into its tokens."""

    workflow: str
    version: int
    nonce: str
    source: str
    python: str
    args: Raw = EMPTY_ARGS
    kwargs: Raw | UnsetType = UNSET
    flags: tuple[int, ...] = ()
    traceparent: str | None = None


class ActivityCompleted(Event, frozen=True):
    ref: int
    value: Raw
    attempt: int = 1
    worker: str | None = None


class ActivityFailed(Event, frozen=True):
    """One attempt failed. With `retry_at` another follows then; without, the activity has failed."""

    ref: int
    error: ErrorInfo
    attempt: int = 1
    retry_at: datetime | None = None
    worker: str | None = None


class ActivityRetried(Event, frozen=True):
    """The time of the next attempt has come: `attempt` is its number."""

    ref: int
    attempt: int


class TimerFired(Event, frozen=True):
    ref: int


class SignalReceived(Event, frozen=True):
    """`signal_id` is the sender's, else the identity of the message that carried the signal."""

    name: str
    value: Raw
    signal_id: str


class CancelRequested(Event, frozen=True):
    reason: str = ""


class Terminated(Event, frozen=True):
    """Closes the run without running its code."""

    reason: str = ""


# ---- command events


class ActivityScheduled(Event, frozen=True):
    name: str
    queue: str
    args: Raw = EMPTY_ARGS
    kwargs: Raw | UnsetType = UNSET
    timeout_seconds: float | None = None
    retry: RetryPolicy | None = None


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


class WaitCancelled(Event, frozen=True):
    ref: int


class StatusSet(Event, frozen=True):
    text: str


class Completed(Event, frozen=True):
    value: Raw


class Failed(Event, frozen=True):
    error: ErrorInfo


class Cancelled(Event, frozen=True):
    reason: str = ""


InputEvent = (
    Started
    | ActivityCompleted
    | ActivityFailed
    | ActivityRetried
    | TimerFired
    | SignalReceived
    | CancelRequested
    | Terminated
)
CommandEvent = (
    ActivityScheduled
    | ActivityCancelled
    | TimerStarted
    | TimerCancelled
    | SignalAwaited
    | WaitCancelled
    | StatusSet
    | Completed
    | Failed
    | Cancelled
)
AnyEvent = InputEvent | CommandEvent

INPUT_TYPES: tuple[type[Event], ...] = (
    Started,
    ActivityCompleted,
    ActivityFailed,
    ActivityRetried,
    TimerFired,
    SignalReceived,
    CancelRequested,
    Terminated,
)

_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[list[AnyEvent]] = msgspec.json.Decoder(list[AnyEvent])
_input_decoder: msgspec.json.Decoder[InputEvent] = msgspec.json.Decoder(InputEvent)


def encode_events(events: list[AnyEvent]) -> bytes:
    """The `data` of a history row."""
    return _encoder.encode(events)


def decode_events(data: bytes) -> list[AnyEvent]:
    """The events of a history row; `msgspec.ValidationError` if it is not one."""
    return _decoder.decode(data)


def encode_input(event: InputEvent) -> bytes:
    return _encoder.encode(event)


def decode_input(data: bytes) -> InputEvent:
    return _input_decoder.decode(data)
