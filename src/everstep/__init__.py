"""Everstep: durable functions in plain Python, on your own Kafka and PostgreSQL.

What authors of workflows import. Everything else is either in a submodule that says what it is for, or private.
"""

from typing import TYPE_CHECKING, Any

from everstep import activity
from everstep._core.handles import Handle
from everstep.activity import ActivityInfo
from everstep.app import App
from everstep.client import Client, Run
from everstep.context import Context, Log, RunInfo, SignalStream
from everstep.definitions import Activity, AsyncActivity, RunOf, SyncActivity, Workflow
from everstep.durations import Duration, days, hours, minutes, seconds
from everstep.errors import (
    ActivityError,
    ActivityTimeout,
    EverstepError,
    NondeterminismError,
    NonRetryable,
    NotReachable,
    PayloadError,
    RegistrationError,
    Rejected,
    RemoteError,
    RetryAfter,
    RunAlreadyExists,
    RunCancelled,
    RunError,
    RunEvicted,
    RunFailed,
    RunNotFound,
    RunTerminated,
    WaitTimeout,
)
from everstep.providers import Provider, provided
from everstep.retry import Backoff, Retry
from everstep.settings import Settings, SettingsError
from everstep.signals import Signal

if TYPE_CHECKING:
    from everstep.reads import HistoryEvent, RunDescription, RunSummary

__all__ = [
    "Activity",
    "ActivityError",
    "ActivityInfo",
    "ActivityTimeout",
    "App",
    "AsyncActivity",
    "Backoff",
    "Client",
    "Context",
    "Duration",
    "EverstepError",
    "Handle",
    "HistoryEvent",
    "Log",
    "NonRetryable",
    "NondeterminismError",
    "NotReachable",
    "PayloadError",
    "Provider",
    "RegistrationError",
    "Rejected",
    "RemoteError",
    "Retry",
    "RetryAfter",
    "Run",
    "RunAlreadyExists",
    "RunCancelled",
    "RunDescription",
    "RunError",
    "RunEvicted",
    "RunFailed",
    "RunInfo",
    "RunNotFound",
    "RunOf",
    "RunSummary",
    "RunTerminated",
    "Settings",
    "SettingsError",
    "Signal",
    "SignalStream",
    "SyncActivity",
    "WaitTimeout",
    "Workflow",
    "activity",
    "days",
    "hours",
    "minutes",
    "provided",
    "seconds",
]

_READS = ("HistoryEvent", "RunDescription", "RunSummary")


def __getattr__(name: str) -> Any:
    """What describes stored runs comes with the database driver, so it is imported when it is first asked for."""
    if name in _READS:
        from everstep import reads

        return getattr(reads, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
