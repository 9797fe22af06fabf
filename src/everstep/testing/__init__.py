"""Tests of workflows, without servers and without waiting: `async with WorkflowEnvironment(app) as env`.

An environment is an installation in memory, with the engine, the messages and the client of production. Time jumps, so
a week of waiting takes a millisecond. Every run is replayed after every event. See docs/testing.md.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from everstep.histories import HistoryEvent
    from everstep.testing._attempt import AttemptRecord, attempt
    from everstep.testing._environment import WorkflowEnvironment
    from everstep.testing._fakes import Calls
    from everstep.testing._problems import NothingHappens, ReplayDiffers, RunStalled

# Imported when they are first asked for.
_HOMES = {
    "AttemptRecord": "testing._attempt",
    "Calls": "testing._fakes",
    "HistoryEvent": "histories",
    "NothingHappens": "testing._problems",
    "ReplayDiffers": "testing._problems",
    "RunStalled": "testing._problems",
    "WorkflowEnvironment": "testing._environment",
    "attempt": "testing._attempt",
}

__all__ = [
    "AttemptRecord",
    "Calls",
    "HistoryEvent",
    "NothingHappens",
    "ReplayDiffers",
    "RunStalled",
    "WorkflowEnvironment",
    "attempt",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"everstep.{_HOMES[name]}"), name)
    return value
