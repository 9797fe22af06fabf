"""Recorded histories replay for ever, whatever Python runs this, and the same inputs still give the same history."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest
from msgspec.structs import replace as replaced
from tests.engine.golden import DIRECTORY, SCRIPTS, app, load
from tests.engine.kit import replay

from everstep._core.engine import Engine
from everstep_schemas.events import CommandEvent, Event, InputEvent, decode_events
from everstep_schemas.names import Topics

HISTORIES = sorted(DIRECTORY.glob("*.json"))


@pytest.mark.parametrize("path", HISTORIES, ids=lambda path: path.stem)
def test_a_recorded_history_replays(path: Path) -> None:
    identity, rows = load(path)
    run = replay(Engine(app, Topics(), max_payload_bytes=1 << 20), identity, rows)
    assert run.argument_differences == 0
    assert run.closed is not None


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_same_inputs_still_give_the_recorded_history(name: str) -> None:
    _, rows = load(DIRECTORY / f"{name}.json")
    recorded = [event for row in rows for event in decode_events(row.data)]
    assert [plain(event) for event in SCRIPTS[name]().history] == [plain(event) for event in recorded]


def plain(event: Event) -> Any:
    """All but a traceback, whose form is Python's own."""
    error = getattr(event, "error", None)
    return event if error is None else (replaced(event, error=None), error.type, error.message)


def test_every_script_has_its_history() -> None:
    assert {path.stem for path in HISTORIES} == set(SCRIPTS)


def test_every_kind_of_event_has_been_recorded() -> None:
    recorded = {type(event) for path in HISTORIES for row in load(path)[1] for event in decode_events(row.data)}
    assert recorded == {*get_args(InputEvent), *get_args(CommandEvent)}
