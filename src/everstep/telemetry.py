"""All metrics, each declared once: name, kind, labels, meaning, buckets, and the one kind of process that exports it.

A metric belongs to exactly one registry, so that a sum over all processes counts everything once. Labels never carry
ids, and names that come from outside pass through `known`, so that nobody can fill the memory with label values.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

PREFIX = "everstep_"
UNKNOWN = "_unknown"

ORCHESTRATOR = CollectorRegistry()
WORKER = CollectorRegistry()

Process = Literal["orchestrator", "worker"]
Kind = Literal["counter", "gauge", "histogram"]
_REGISTRIES: dict[Process, CollectorRegistry] = {"orchestrator": ORCHESTRATOR, "worker": WORKER}


@dataclass(frozen=True, slots=True)
class Metric:
    """A declared metric; `name` is as Prometheus shows it."""

    name: str
    kind: Kind
    process: Process
    help: str
    labels: tuple[str, ...]
    buckets: tuple[float, ...] = ()


METRICS: list[Metric] = []

# Seconds: of one database round trip or Kafka hop; of an activity; of a whole run.
SHORT = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
MEDIUM = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)
LONG = (0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 60.0, 300.0, 1800.0, 3600.0, 21_600.0, 86_400.0, 604_800.0, 2_592_000.0)
COUNTS = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0, 10_000.0)


def known(name: str, registered: Container[str]) -> str:
    """`name` as a label value if somebody registered it, else one value for all others."""
    return name if name in registered else UNKNOWN


def _counter(name: str, process: Process, help: str, *labels: str) -> Counter:
    METRICS.append(Metric(f"{PREFIX}{name}_total", "counter", process, help, labels))
    return Counter(PREFIX + name, help, labels, registry=_REGISTRIES[process])


def _gauge(name: str, process: Process, help: str, *labels: str) -> Gauge:
    METRICS.append(Metric(PREFIX + name, "gauge", process, help, labels))
    return Gauge(PREFIX + name, help, labels, registry=_REGISTRIES[process])


def _histogram(name: str, process: Process, help: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
    METRICS.append(Metric(PREFIX + name, "histogram", process, help, labels, buckets))
    return Histogram(PREFIX + name, help, labels, buckets=buckets, registry=_REGISTRIES[process])


# ---- runs
RUNS_STARTED = _counter("runs_started", "orchestrator", "Runs that began.", "workflow")
RUNS_CLOSED = _counter("runs_closed", "orchestrator", "Runs that ended, by how.", "workflow", "status")
RUNS_OPEN = _gauge("runs_open", "orchestrator", "Runs of owned shards that have not ended.", "workflow")
RUNS_STALLED = _gauge("runs_stalled", "orchestrator", "Runs of owned shards that cannot go on until somebody acts.")
RUN_DURATION_SECONDS = _histogram(
    "run_duration_seconds", "orchestrator", "From start to end of a run.", LONG, "workflow"
)

# ---- activities
ACTIVITIES = _counter(
    "activities",
    "orchestrator",
    "Answers applied to runs: completed, retried (a failed attempt that another follows), failed (for good).",
    "activity",
    "outcome",
)
INPUTS_IGNORED = _counter(
    "inputs_ignored",
    "orchestrator",
    "Messages that no longer meet anything: stale, repeated, for a closed run.",
    "kind",
)
SUBMISSIONS_REJECTED = _counter(
    "submissions_rejected", "orchestrator", "Submissions answered with a rejection.", "reason"
)
ACTIVITY_ATTEMPTS = _counter(
    "activity_attempts",
    "worker",
    "Attempts that ended here: completed, failed, timed_out, cancelled, refused (not started, and why was answered).",
    "activity",
    "outcome",
)
ACTIVITY_DURATION_SECONDS = _histogram(
    "activity_duration_seconds", "worker", "One attempt, from its first line to its end.", MEDIUM, "activity"
)
ACTIVITY_QUEUE_SECONDS = _histogram(
    "activity_queue_seconds",
    "worker",
    "From the command's record in Kafka to the start of the attempt.",
    MEDIUM,
    "queue",
)
ACTIVITIES_RUNNING = _gauge("activities_running", "worker", "Attempts that run now.", "queue")
ACTIVITY_CHECKOUTS = _counter(
    "activity_checkouts",
    "worker",
    "Attempts that were checked out: they last, run on through a rebalance, or may have begun elsewhere before.",
    "activity",
)
ACTIVITIES_CHECKED_OUT = _gauge("activities_checked_out", "worker", "Attempts that run now and are checked out.")
LEASES_RENEWED = _counter("leases_renewed", "worker", "Renewals of attempts that are checked out, each counted.")
ACTIVITY_PROCESSES = _gauge("activity_processes", "worker", "Child processes for activities, idle ones included.")
PROCESS_DEATHS = _counter("process_deaths", "worker", "Child processes that died under an attempt.", "activity")
QUEUE_BACKLOG = _gauge("queue_backlog", "orchestrator", "Commands that no worker has finished with yet.", "queue")

# ---- timers
TIMER_LATENESS_SECONDS = _histogram(
    "timer_lateness_seconds", "orchestrator", "From the instant a timer was due to its commit.", SHORT
)
OLDEST_DUE_TIMER_SECONDS = _gauge(
    "oldest_due_timer_seconds", "orchestrator", "For how long the oldest timer that is due has waited."
)

# ---- the engine
COMMIT_DURATION_SECONDS = _histogram("commit_duration_seconds", "orchestrator", "One commit of a batch.", SHORT)
COMMIT_ACTIVATIONS = _histogram("commit_activations", "orchestrator", "Activations in one commit.", COUNTS)
REPLAY_DURATION_SECONDS = _histogram(
    "replay_duration_seconds", "orchestrator", "One run loaded from its history.", SHORT
)
REPLAY_EVENTS = _histogram("replay_events", "orchestrator", "Events replayed to load one run.", COUNTS)
ARGUMENT_DIFFERENCES = _counter(
    "argument_differences", "orchestrator", "Runs whose replay gave other arguments than recorded.", "workflow"
)
CACHED_RUNS = _gauge("cached_runs", "orchestrator", "Runs in memory.")
LOOP_BLOCKED = _counter(
    "loop_blocked", "orchestrator", "Workflow code that did not yield and was broken off.", "workflow"
)

# ---- shards and Kafka
SHARDS_OWNED = _gauge("shards_owned", "orchestrator", "Shards that this process owns.")
SHARD_TAKEOVER_SECONDS = _histogram(
    "shard_takeover_seconds", "orchestrator", "From the claim of a shard to its first input.", SHORT
)
CONSUMER_LAG = _gauge(
    "consumer_lag", "orchestrator", "Records of an owned shard that are not applied yet.", "topic", "partition"
)
DEAD_LETTERS = _counter("dead_letters", "orchestrator", "Records that could not be understood or published.", "reason")
DEAD_COMMANDS = _counter(
    "dead_commands", "worker", "Commands that could not be understood or had nowhere to be answered.", "reason"
)
OUTBOX_PENDING = _gauge("outbox_pending", "orchestrator", "Commits whose messages Kafka has not acknowledged yet.")
PARKED_INPUTS = _gauge("parked_inputs", "orchestrator", "Inputs kept for runs that cannot run now.")
