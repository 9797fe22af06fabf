"""The tables of states are complete and closed."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
from tests.engine.golden import load
from tests.engine.test_golden import HISTORIES

from everstep._core import states
from everstep_schemas import events
from everstep_schemas.events import INPUT_TYPES, decode_events


def test_every_state_that_is_reached_has_its_row() -> None:
    for table in (states.RUN, states.ACTIVITY):
        reached = {state for row in table.values() for state in row.values()}
        assert reached | {states.NEW} == set(table)


def test_a_run_that_has_not_closed_takes_every_input_but_a_second_start() -> None:
    inputs = set(INPUT_TYPES) - {events.Started}
    assert inputs <= set(states.RUN[states.RUNNING])
    assert set(states.RUN[states.CANCELLING]) >= inputs - {events.CancelRequested}
    assert events.CancelRequested not in states.RUN[states.CANCELLING]
    assert events.Cancelled not in states.RUN[states.RUNNING], "only a request may end a run as cancelled"


def test_closed_states_take_nothing() -> None:
    for state in (states.COMPLETED, states.FAILED, states.CANCELLED, states.CONTINUED):
        assert states.RUN[state] == {}
    for state in (states.COMPLETED, states.FAILED, states.CANCELLED):
        assert states.ACTIVITY[state] == {}


def test_a_run_that_is_closed_from_outside_only_lets_go() -> None:
    letting_go = {events.ActivityCancelled, events.ChildCancelled, events.UpdateFailed}
    for state in (states.TERMINATED, states.TIMED_OUT):
        assert states.RUN[state] == dict.fromkeys(letting_go, state)


def test_every_event_has_its_place() -> None:
    every = {*INPUT_TYPES, *get_args(events.CommandEvent)}
    placed = {event for row in states.RUN.values() for event in row}
    assert placed == every
    assert {event for row in states.ACTIVITY.values() for event in row} - {states.FailedAttempt} == {
        event for event in every if event.__name__.startswith("Activity")
    }


def test_an_attempt_begins_only_while_backing_off_and_is_answered_only_while_under_way() -> None:
    under_way = {state for state, row in states.ACTIVITY.items() if events.ActivityCompleted in row}
    assert under_way == {states.SCHEDULED, states.CHECKED_OUT}
    assert {state for state, row in states.ACTIVITY.items() if events.ActivityRetried in row} == {states.BACKING_OFF}
    assert {state for state, row in states.ACTIVITY.items() if events.ActivityReleased in row} == {states.CHECKED_OUT}
    for state in under_way | {states.BACKING_OFF}:
        assert states.ACTIVITY[state][events.ActivityCancelled] == states.CANCELLED, "whatever is open can be let go"


@pytest.mark.parametrize("path", HISTORIES, ids=lambda path: path.stem)
def test_every_recorded_history_keeps_to_the_tables(path: Path) -> None:
    """Also the commands, which the engine does not look up one by one."""
    state, activities = states.NEW, dict[int, str]()
    _, rows = load(path)
    for seq, event in enumerate((event for row in rows for event in decode_events(row.data)), 1):
        state = states.RUN[state][type(event)]
        if isinstance(event, events.ActivityScheduled):
            activities[seq] = states.ACTIVITY[states.NEW][events.ActivityScheduled]
        elif type(event).__name__.startswith("Activity"):
            retried = isinstance(event, events.ActivityFailed) and event.retry_at is not None
            kind = states.FailedAttempt if retried else type(event)
            ref: int = event.ref  # type: ignore[union-attr]  # all that is said of an activity refers to it
            activities[ref] = states.ACTIVITY[activities[ref]][kind]
    assert states.ACTIVITY.keys() >= set(activities.values())
    assert all(states.ACTIVITY[one] == {} for one in activities.values()), "a run that has closed leaves none open"
