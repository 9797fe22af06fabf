"""What holds at every point of every golden history: evict the run there, cancel it there, let time pass there."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import pytest
from tests.engine.golden import SCRIPTS
from tests.engine.kit import Case, replay, state
from tests.engine.seen import restore
from tests.engine.test_property import balanced

from everstep._core.engine import HistoryRow, LiveRun
from everstep_schemas import events
from everstep_schemas.errors import ErrorInfo
from everstep_schemas.events import INPUT_TYPES, InputEvent, decode_events

SMALL = [name for name in SCRIPTS if name != "split_rows"]
BROKEN = ErrorInfo(type="Boom", message="no", retryable=False)


@cache
def recorded(name: str) -> Case:
    return SCRIPTS[name]()


def activations(rows: list[HistoryRow]) -> Iterator[tuple[int, InputEvent]]:
    """For each activation, how many rows come before it, and its input."""
    for number, row in enumerate(rows):
        first = decode_events(row.data)[0]
        if isinstance(first, INPUT_TYPES):
            yield number, first  # type: ignore[misc]  # INPUT_TYPES = InputEvent


@pytest.mark.parametrize("name", SMALL)
def test_with_an_eviction_before_every_input_each_step_is_the_same_byte_for_byte(name: str) -> None:
    case = recorded(name)
    messages = []
    for number, event in activations(case.rows):
        again = replay(case.engine, case.identity, case.rows[:number])
        activation = again.apply(event, case.rows[number].at)
        assert activation.rows == case.rows[number : number + len(activation.rows)]
        messages += activation.messages
        again.evict()
    assert messages == case.messages


def resumed(case: Case, number: int) -> Case:
    """The same run after so many rows, as another process goes on with it."""
    other = Case.__new__(Case)
    vars(other).update(vars(case))
    other.rows = case.rows[:number]
    other.messages = []
    other.now = other.rows[-1].at
    other._check = False
    other._twin = None
    other.run = other.replayed()
    return other


def driven(case: Case) -> None:
    """Answer whatever the run waits for, as badly as possible, until it has ended."""
    for _ in range(300):
        if case.run.closed is not None:
            return
        case.apply(following(case))
    raise AssertionError(f"it does not end: {state(case.run)}")


def following(case: Case) -> InputEvent:
    scope = case.run._program.scope
    for seq, pending in scope.activities._pending.items():
        if pending.state != "backing_off":
            return events.ActivityFailed(ref=seq, error=BROKEN, attempt=pending.attempt)
    for seq in scope.children:
        return events.ChildFailed(ref=seq, status="terminated")
    for seq in scope.children.requests:
        return events.RequestAnswered(ref=seq, error=BROKEN)
    at = case.run.wakeup_at()
    if at is not None:
        case.now = max(case.now, at)
        event = case.run.due(case.now)
        assert event is not None
        return event
    for seq in scope.callbacks:
        return events.CallbackFailed(ref=seq, error=BROKEN, source="s")
    return events.Terminated(reason="nothing is left to wait for")


@pytest.mark.parametrize("name", SMALL)
def test_a_run_that_is_cancelled_anywhere_ends_and_replays(name: str) -> None:
    case = recorded(name)
    for number in range(1, len(case.rows)):
        here = resumed(case, number)
        if events.CancelRequested in {type(event) for event in here.history}:
            continue
        here.apply(events.CancelRequested(reason="here"))
        driven(here)
        ended(here)


@pytest.mark.parametrize("name", SMALL)
def test_a_run_whose_world_breaks_anywhere_ends_and_replays(name: str) -> None:
    case = recorded(name)
    for number in range(1, len(case.rows)):
        here = resumed(case, number)
        driven(here)
        ended(here)


def ended(case: Case) -> None:
    again: LiveRun = case.replayed()
    restore(again, case.run)
    assert state(again) == state(case.run)
    balanced(case)
