"""The state rules of a run and of an activity, as tables.

A run is a function from its input events to command events. What it waits for is *pending* under the number of the
event that created it:

* the **run** is born by `Started` and ends in one of four closed states, which accept nothing. A request to cancel is
  heard once; only after it may the code end the run as cancelled, so a `CancelledError` out of nowhere is a failure.
* an **activity** is under way (`SCHEDULED`: one attempt, known by its number) or between two attempts (`BACKING_OFF`).
  Answers count only while it is under way, and an attempt can only begin while it is backing off. This is what makes a
  repeated, late or forged answer harmless.
* a timer and a wait for a signal have no states: they are pending or they are not.

An event moves a state to the one that the table names. **An absent key is the error**: nothing else checks what may
follow what. `FailedAttempt` stands for the one event whose meaning depends on a field: an `ActivityFailed` that names
the instant of the next attempt.
"""

from __future__ import annotations

from collections.abc import Mapping

from everstep_schemas.events import (
    ActivityCancelled,
    ActivityCompleted,
    ActivityFailed,
    ActivityRetried,
    ActivityScheduled,
    Cancelled,
    CancelRequested,
    Completed,
    Event,
    Failed,
    SignalAwaited,
    SignalReceived,
    Started,
    StatusSet,
    Terminated,
    TimerCancelled,
    TimerFired,
    TimerStarted,
    WaitCancelled,
)


class FailedAttempt:
    """An `ActivityFailed` with a `retry_at`."""


Trigger = type[Event] | type[FailedAttempt]
Table = Mapping[str, Mapping[Trigger, str]]

NEW, RUNNING, CANCELLING = "new", "running", "cancelling"
COMPLETED, FAILED, CANCELLED, TERMINATED = "completed", "failed", "cancelled", "terminated"
SCHEDULED, BACKING_OFF = "scheduled", "backing_off"

_WORK: tuple[Trigger, ...] = (
    ActivityCompleted,
    ActivityFailed,
    ActivityRetried,
    TimerFired,
    SignalReceived,
    ActivityScheduled,
    ActivityCancelled,
    TimerStarted,
    TimerCancelled,
    SignalAwaited,
    WaitCancelled,
    StatusSet,
)

RUN: Table = {
    NEW: {Started: RUNNING},
    RUNNING: {
        **dict.fromkeys(_WORK, RUNNING),
        CancelRequested: CANCELLING,
        Terminated: TERMINATED,
        Completed: COMPLETED,
        Failed: FAILED,
    },
    CANCELLING: {
        **dict.fromkeys(_WORK, CANCELLING),
        Terminated: TERMINATED,
        Completed: COMPLETED,
        Failed: FAILED,
        Cancelled: CANCELLED,
    },
    COMPLETED: {},
    FAILED: {},
    CANCELLED: {},
    TERMINATED: {ActivityCancelled: TERMINATED},
}

ACTIVITY: Table = {
    NEW: {ActivityScheduled: SCHEDULED},
    SCHEDULED: {
        ActivityCompleted: COMPLETED,
        FailedAttempt: BACKING_OFF,
        ActivityFailed: FAILED,
        ActivityCancelled: CANCELLED,
    },
    BACKING_OFF: {ActivityRetried: SCHEDULED, ActivityCancelled: CANCELLED},
    COMPLETED: {},
    FAILED: {},
    CANCELLED: {},
}
