"""Everstep: durable functions in plain Python, on your own Kafka and PostgreSQL.

What authors of workflows import. Everything else is either in a submodule that says what it is for, or private.
"""

from typing import TYPE_CHECKING, Any

from everstep import activity
from everstep._core.attributes import AttributeValue
from everstep._core.callbacks import Callback
from everstep._core.children import ChildHandle
from everstep._core.handles import Handle
from everstep._core.signals import UnreadableSignal
from everstep._fanout import Failures, MapHandle, MapItem, MapProgress, MapResult
from everstep._saga import Saga
from everstep.activity import ActivityInfo
from everstep.app import App
from everstep.client import CallbackClient, Client, Run
from everstep.context import Context, External, Log, RunInfo, SignalStream
from everstep.definitions import Activity, AsyncActivity, SyncActivity
from everstep.durations import Duration, days, hours, minutes, seconds
from everstep.errors import (
    ActivityError,
    ActivityTimeout,
    CallbackClosed,
    CallbackError,
    ChildError,
    CompensationError,
    EverstepError,
    MapError,
    NondeterminismError,
    NonRetryable,
    NotReachable,
    PayloadError,
    QueryError,
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
    RunTimedOut,
    UpdateFailed,
    UpdateRejected,
    WaitTimeout,
    WorkerLost,
)
from everstep.providers import Provider, provided
from everstep.queries import Query, Update
from everstep.retry import Backoff, Retry
from everstep.settings import Settings, SettingsError
from everstep.signals import Signal
from everstep.workflows import Workflow

if TYPE_CHECKING:
    from everstep.reads import HistoryEvent, RunDescription, RunSummary

__all__ = [
    "Activity",
    "ActivityError",
    "ActivityInfo",
    "ActivityTimeout",
    "App",
    "AsyncActivity",
    "AttributeValue",
    "Backoff",
    "Callback",
    "CallbackClient",
    "CallbackClosed",
    "CallbackError",
    "ChildError",
    "ChildHandle",
    "Client",
    "CompensationError",
    "Context",
    "Duration",
    "EverstepError",
    "External",
    "Failures",
    "Handle",
    "HistoryEvent",
    "Log",
    "MapError",
    "MapHandle",
    "MapItem",
    "MapProgress",
    "MapResult",
    "NonRetryable",
    "NondeterminismError",
    "NotReachable",
    "PayloadError",
    "Provider",
    "Query",
    "QueryError",
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
    "RunSummary",
    "RunTerminated",
    "RunTimedOut",
    "Saga",
    "Settings",
    "SettingsError",
    "Signal",
    "SignalStream",
    "SyncActivity",
    "UnreadableSignal",
    "Update",
    "UpdateFailed",
    "UpdateRejected",
    "WaitTimeout",
    "WorkerLost",
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
