"""The state rules of a run and of an activity, as tables.

A run is a function from its input events to command events. What it waits for is *pending* under the number of the
event that created it:

* the **run** is born by `Started` and ends in one of six closed states, which accept nothing. A request to cancel is
  heard once; only after it may the code end the run as cancelled, so a `CancelledError` out of nowhere is a failure.
  `CONTINUED` means that another run of the id goes on with its work.
* an **activity** is given to workers (`SCHEDULED`: one attempt, known by its number), checked out by one of them
  (`CHECKED_OUT`), or between two attempts (`BACKING_OFF`). Answers count only while an attempt is under way, and an
  attempt can only begin while it is backing off. This is what makes a repeated, late or forged answer harmless.
* a timer, a wait, a child, a callback, an update and a request to another run have no states: they are pending or they
  are not.

An event moves a state to the one that the table names. **An absent key is the error**: nothing else checks what may
follow what. `FailedAttempt` stands for the one event whose meaning depends on a field: an `ActivityFailed` that names
the instant of the next attempt.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import get_args

from everstep_schemas.events import (
    ActivityCancelled,
    ActivityCompleted,
    ActivityFailed,
    ActivityReleased,
    ActivityRetried,
    ActivityScheduled,
    ActivityStarted,
    Cancelled,
    CancelRequested,
    ChildCancelled,
    CommandEvent,
    Completed,
    Continued,
    Event,
    Failed,
    InputEvent,
    Started,
    Terminated,
    TimedOut,
    UpdateFailed,
)


class FailedAttempt:
    """An `ActivityFailed` with a `retry_at`."""


Trigger = type[Event] | type[FailedAttempt]
Table = Mapping[str, Mapping[Trigger, str]]

NEW, RUNNING, CANCELLING = "new", "running", "cancelling"
COMPLETED, FAILED, CANCELLED, TERMINATED = "completed", "failed", "cancelled", "terminated"
TIMED_OUT, CONTINUED = "timed_out", "continued"
SCHEDULED, CHECKED_OUT, BACKING_OFF = "scheduled", "checked_out", "backing_off"

_ENDING: tuple[Trigger, ...] = (Completed, Failed, Cancelled, Continued, Terminated, TimedOut)
_WORK: tuple[Trigger, ...] = tuple(
    event
    for event in (*get_args(InputEvent), *get_args(CommandEvent))
    if event not in (*_ENDING, Started, CancelRequested)
)
# What is recorded about everything that a run leaves behind when it is closed from outside.
_LETTING_GO: tuple[Trigger, ...] = (ActivityCancelled, ChildCancelled, UpdateFailed)

RUN: Table = {
    NEW: {Started: RUNNING},
    RUNNING: {
        **dict.fromkeys(_WORK, RUNNING),
        CancelRequested: CANCELLING,
        Terminated: TERMINATED,
        TimedOut: TIMED_OUT,
        Completed: COMPLETED,
        Failed: FAILED,
        Continued: CONTINUED,
    },
    CANCELLING: {
        **dict.fromkeys(_WORK, CANCELLING),
        Terminated: TERMINATED,
        TimedOut: TIMED_OUT,
        Completed: COMPLETED,
        Failed: FAILED,
        Cancelled: CANCELLED,
        Continued: CONTINUED,
    },
    COMPLETED: {},
    FAILED: {},
    CANCELLED: {},
    CONTINUED: {},
    TERMINATED: dict.fromkeys(_LETTING_GO, TERMINATED),
    TIMED_OUT: dict.fromkeys(_LETTING_GO, TIMED_OUT),
}

_ANSWERS: Mapping[Trigger, str] = {
    ActivityStarted: CHECKED_OUT,
    ActivityCompleted: COMPLETED,
    FailedAttempt: BACKING_OFF,
    ActivityFailed: FAILED,
    ActivityCancelled: CANCELLED,
}
ACTIVITY: Table = {
    NEW: {ActivityScheduled: SCHEDULED},
    SCHEDULED: _ANSWERS,
    CHECKED_OUT: {**_ANSWERS, ActivityReleased: SCHEDULED},
    BACKING_OFF: {ActivityRetried: SCHEDULED, ActivityCancelled: CANCELLED},
    COMPLETED: {},
    FAILED: {},
    CANCELLED: {},
}
