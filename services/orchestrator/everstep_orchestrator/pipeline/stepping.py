"""Steps runs: the first step, messages, timers, and what was parked, each in the order in which it came."""

from __future__ import annotations

import msgspec

from everstep._core.engine import CannotRun, LiveRun
from everstep_orchestrator.pipeline.drafting import Entry
from everstep_orchestrator.pipeline.loading import Work
from everstep_orchestrator.pipeline.rules import Rules
from everstep_orchestrator.pipeline.waiting import Waiting
from everstep_orchestrator.pipeline.writing import SECOND, Writer
from everstep_schemas import events, wire
from everstep_schemas.wire import ParkedInput

NOT_CHOSEN = 0  # the version of a run that waits for code: the newest, once there is one

RunMessage = wire.ActivityCompleted | wire.ActivityFailed | wire.Signal | wire.Cancel | wire.Terminate


class Stepper:
    """Applies inputs to the runs of one shard."""

    def __init__(self, rules: Rules, writer: Writer, work: Work) -> None:
        self._rules = rules
        self._writer = writer
        self._shard = writer.shard
        self._work = work
        self._waiting = Waiting(rules, writer, work)

    def version_for(self, workflow: str, asked_for: int | None) -> int:
        """The version that a start gets."""
        return asked_for or self._rules.engine.newest(workflow) or NOT_CHOSEN

    def start(self, entry: Entry, started: events.Started, now: int) -> None:
        """The first step of a run."""
        if self._waiting.sets_aside(entry, started, now):
            return
        try:
            entry.live, activation = self._rules.engine.start(entry.identity, started, now)
        except CannotRun as error:
            self._waiting.stall(entry, error.reason, started, now)
        else:
            self._shard.writing().tally.started.append(started.workflow)
            self._writer.record(entry, activation)

    def message(self, entry: Entry, message: RunMessage, now: int) -> None:
        """Applies a message to an open run, or keeps it for one that cannot run now."""
        if entry.live is None and isinstance(message, wire.Terminate):
            self._waiting.terminate(entry, message, now)
        elif entry.row.condition is not None:
            self._writer.park(entry, message)
        elif not self._waiting.sets_aside(entry, message, now):
            self._accept(entry, message, now)

    def _accept(self, entry: Entry, message: RunMessage, now: int) -> None:
        live = entry.loaded
        event = live.accept(message, now)
        if event is None:
            self._rules.ignored("stale")
            return
        self._count_answer(live, event)
        try:
            activation = live.apply(event, now)
        except CannotRun as error:
            self._waiting.stall(entry, error.reason, message, now)
        else:
            self._writer.record(entry, activation)

    def _count_answer(self, live: LiveRun, event: events.InputEvent) -> None:
        if not isinstance(event, events.ActivityCompleted | events.ActivityFailed):
            return
        activity = live.pending_activity(event.ref)
        if isinstance(event, events.ActivityCompleted):
            outcome = "completed"
        else:
            outcome = "failed" if event.retry_at is None else "retried"
        if activity is not None:
            self._shard.writing().tally.activities[activity.name, outcome] += 1

    def wake(self, entry: Entry, now: int) -> None:
        """Fires what is due in a run, and corrects a stored instant that came too early."""
        if not entry.runnable or self._waiting.sets_aside(entry, None, now):
            return
        live = entry.loaded
        try:
            while entry.open and (event := live.due(now)) is not None:
                self._shard.writing().tally.lateness_seconds.append(max(0, now - (live.wakeup_at() or now)) / SECOND)
                self._writer.record(entry, live.apply(event, now))
        except CannotRun as error:
            self._waiting.stall(entry, error.reason, None, now)
        else:
            self._writer.correct_wakeup(entry)

    def resume(self, entry: Entry, now: int) -> None:
        """Tries a stalled or held run again with the code at hand; what it was owed is applied in order."""
        if entry.row.condition is None:
            return
        key = entry.row.run_key
        parked = self._work.parked.get(key, [])
        owed = [wire.parked_decoder.decode(row.data) for row in parked]
        started = owed[0] if owed and isinstance(owed[0], events.Started) else None
        if not self._can_resume(entry, started):
            return
        self._writer.release(row.number for row in self._work.parked.pop(key, ()))
        if started is not None:
            started = self._chosen(entry, started)
        self._waiting.resume(entry, now)
        if started is not None:
            self.start(entry, started, now)
        self._apply_owed(entry, owed[1 if started else 0 :], now)

    def _apply_owed(self, entry: Entry, owed: list[ParkedInput], now: int) -> None:
        for message in owed:
            if entry.open and not isinstance(message, events.Started):
                self.message(entry, message, now)
        if entry.live is not None:
            self._writer.lower_wakeup(entry)

    def _can_resume(self, entry: Entry, started: events.Started | None) -> bool:
        reason = self._waiting.suspicion(entry)
        if reason is None and entry.cannot_run is not None:
            reason = entry.cannot_run.reason
        if reason is not None:
            self._waiting.stays_stalled(entry, reason)
            return False
        if started is not None:
            version = self.version_for(started.workflow, started.version)
            return self._rules.engine.knows(started.workflow, version)
        return entry.live is not None

    def _chosen(self, entry: Entry, started: events.Started) -> events.Started:
        """The start of a run that waited for code, now with the version that it gets."""
        entry.change(version=self.version_for(started.workflow, started.version))
        return msgspec.structs.replace(started, version=entry.row.version)
