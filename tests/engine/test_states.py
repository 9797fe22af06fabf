"""The tables of states are complete and closed."""

from __future__ import annotations

from everstep._core import states
from everstep_schemas import events
from everstep_schemas.events import INPUT_TYPES


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
    for state in (states.COMPLETED, states.FAILED, states.CANCELLED):
        assert states.RUN[state] == {}
        assert states.ACTIVITY[state] == {}
    assert set(states.RUN[states.TERMINATED]).isdisjoint(INPUT_TYPES)
