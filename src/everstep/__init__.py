"""Everstep: durable functions in plain Python, on your own Kafka and PostgreSQL.

What authors of workflows import. Everything else is either in a submodule that says what it is for, or private.
"""

from everstep import activity
from everstep._core.handles import Handle
from everstep.activity import ActivityInfo
from everstep.app import App
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
from everstep.signals import Signal

__all__ = [
    "Activity",
    "ActivityError",
    "ActivityInfo",
    "ActivityTimeout",
    "App",
    "AsyncActivity",
    "Backoff",
    "Context",
    "Duration",
    "EverstepError",
    "Handle",
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
    "RunAlreadyExists",
    "RunCancelled",
    "RunError",
    "RunEvicted",
    "RunFailed",
    "RunInfo",
    "RunNotFound",
    "RunOf",
    "RunTerminated",
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
