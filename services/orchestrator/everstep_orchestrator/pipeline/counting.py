"""What the pipeline tells Prometheus. Facts about runs are counted when the commit that holds them is durable."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence

from everstep import telemetry
from everstep.telemetry import known
from everstep_orchestrator.pipeline.drafting import Census, Tally
from everstep_orchestrator.pipeline.state import Shard

MICROSECONDS = 1_000_000


class Counting:
    """Counts for one orchestrator; workflows that nobody registered share one label."""

    def __init__(self, workflows: Collection[str], activities: Collection[str]) -> None:
        self._workflows = workflows
        self._activities = activities

    def ignored(self, kind: str) -> None:
        telemetry.INPUTS_IGNORED.labels(kind).inc()

    def owned(self, shards: int) -> None:
        telemetry.SHARDS_OWNED.set(shards)

    def opened(self, microseconds: int) -> None:
        telemetry.SHARD_TAKEOVER_SECONDS.observe(microseconds / MICROSECONDS)

    def committed(self, microseconds: int, activations: int) -> None:
        telemetry.COMMIT_DURATION_SECONDS.observe(microseconds / MICROSECONDS)
        if activations:
            telemetry.COMMIT_ACTIVATIONS.observe(activations)

    def settled(self, tally: Tally) -> None:
        """A shard's commit is durable."""
        for workflow in tally.started:
            telemetry.RUNS_STARTED.labels(known(workflow, self._workflows)).inc()
        for workflow, status, seconds in tally.closed:
            label = known(workflow, self._workflows)
            telemetry.RUNS_CLOSED.labels(label, status).inc()
            telemetry.RUN_DURATION_SECONDS.labels(label).observe(seconds)
        for (activity, outcome), count in tally.activities.items():
            telemetry.ACTIVITIES.labels(known(activity, self._activities), outcome).inc(count)
        for workflow in tally.blocked:
            telemetry.LOOP_BLOCKED.labels(known(workflow, self._workflows)).inc()
        for reason in tally.dead_letters:
            telemetry.DEAD_LETTERS.labels(reason).inc()
        for reason in tally.rejected:
            telemetry.SUBMISSIONS_REJECTED.labels(reason).inc()
        for seconds in tally.lateness_seconds:
            telemetry.TIMER_LATENESS_SECONDS.observe(seconds)

    def replayed(self, workflow: str, events: int, seconds: float, *, differs: bool) -> None:
        """A run was loaded from its history."""
        telemetry.REPLAY_DURATION_SECONDS.observe(seconds)
        telemetry.REPLAY_EVENTS.observe(events)
        if differs:
            telemetry.ARGUMENT_DIFFERENCES.labels(known(workflow, self._workflows)).inc()

    def state(self, shards: Iterable[Shard], now: int) -> None:
        """How things stand; called a few times a second."""
        shards = list(shards)
        telemetry.CACHED_RUNS.set(sum(len(shard.entries) for shard in shards))
        telemetry.OUTBOX_PENDING.set(sum(len(shard.tickets) for shard in shards))
        self._census([shard.census for shard in shards])
        due = [at for shard in shards if (at := shard.wakeups.next()) is not None]
        telemetry.OLDEST_DUE_TIMER_SECONDS.set(max(0.0, (now - min(due)) / MICROSECONDS) if due else 0.0)

    def _census(self, censuses: Sequence[Census]) -> None:
        telemetry.RUNS_STALLED.set(sum(census.stalled for census in censuses))
        telemetry.PARKED_INPUTS.set(sum(census.parked for census in censuses))
        open_runs = Counter(dict.fromkeys((*self._workflows, telemetry.UNKNOWN), 0))
        for census in censuses:
            for workflow, number in census.open.items():
                open_runs[known(workflow, self._workflows)] += number
        for workflow, number in open_runs.items():
            telemetry.RUNS_OPEN.labels(workflow).set(number)
