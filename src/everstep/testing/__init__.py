"""Tests of workflows, without servers and without waiting: `async with WorkflowEnvironment(app) as env`.

An environment is an installation in memory, with the engine, the messages and the client of production. Time jumps, so
a week of waiting takes a millisecond. Every run is replayed after every event. See docs/testing.md.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from everstep.histories import HistoryEvent, NoHistory
    from everstep.testing._attempt import AttemptRecord, attempt
    from everstep.testing._elsewhere import (
        Difference,
        Elsewhere,
        NotReplayed,
        Recorded,
        replay_elsewhere,
    )
    from everstep.testing._environment import WorkflowEnvironment
    from everstep.testing._fakes import Calls
    from everstep.testing._golden import Replayed, assert_history, replay_file
    from everstep.testing._problems import NothingHappens, ReplayDiffers, RunStalled

# Imported when they are first asked for: pytest imports this package for everybody who has installed it.
_HOMES = {
    "AttemptRecord": "testing._attempt",
    "Calls": "testing._fakes",
    "Difference": "testing._elsewhere",
    "Elsewhere": "testing._elsewhere",
    "HistoryEvent": "histories",
    "NoHistory": "histories",
    "NotReplayed": "testing._elsewhere",
    "NothingHappens": "testing._problems",
    "Recorded": "testing._elsewhere",
    "ReplayDiffers": "testing._problems",
    "Replayed": "testing._golden",
    "RunStalled": "testing._problems",
    "WorkflowEnvironment": "testing._environment",
    "assert_history": "testing._golden",
    "attempt": "testing._attempt",
    "replay_elsewhere": "testing._elsewhere",
    "replay_file": "testing._golden",
}

__all__ = [
    "AttemptRecord",
    "Calls",
    "Difference",
    "Elsewhere",
    "HistoryEvent",
    "NoHistory",
    "NotReplayed",
    "NothingHappens",
    "Recorded",
    "ReplayDiffers",
    "Replayed",
    "RunStalled",
    "WorkflowEnvironment",
    "assert_history",
    "attempt",
    "replay_elsewhere",
    "replay_file",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"everstep.{_HOMES[name]}"), name)
    return value
