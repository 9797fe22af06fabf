"""Steps runs: the first step, messages, timers, and what was parked, each in the order in which it came."""

from __future__ import annotations

from collections import Counter

import msgspec

from everstep._core import starting
from everstep._core.engine import Activation, CannotRun, LiveRun, Refusal, Successor
from everstep._core.reception import asked_by
from everstep._core.starting import Birth
from everstep_orchestrator.pipeline.drafting import Entry
from everstep_orchestrator.pipeline.loading import Work
from everstep_orchestrator.pipeline.rules import Rules
from everstep_orchestrator.pipeline.waiting import Waiting
from everstep_orchestrator.pipeline.writing import SECOND, Writer
from everstep_orchestrator.store import RunRow
from everstep_schemas import events, wire
from everstep_schemas.wire import ParkedInput

NOT_CHOSEN = 0  # the version of a run that waits for code: the newest, once there is one

RunMessage = (
    wire.ActivityResult
    | wire.RunResult
    | wire.Signal
    | wire.Update
    | wire.Cancel
    | wire.Terminate
    | wire.CompleteCallback
    | wire.FailCallback
)

# A run that goes on as new without ever waiting is held up a little after so many times in one turn, so that it cannot
# keep the loop to itself.
CONTINUED_AT_ONCE = 10
BREATH_US = 10_000


class Stepper:
    """Applies inputs to the runs of one shard."""

    def __init__(self, rules: Rules, writer: Writer, work: Work) -> None:
        self._rules = rules
        self._writer = writer
        self._shard = writer.shard
        self._work = work
        self._waiting = Waiting(rules, writer, work)
        self._continued: Counter[str] = Counter()

    # ---- creating

    def birth(self, workflow: str, asked_for: int | None, now: int) -> Birth:
        """What a new run is given."""
        version = self.version_for(workflow, asked_for)
        code = self._rules.engine.code(workflow, version)
        return Birth(version, self._rules.new_nonce(), self._rules.python, now, code)

    def version_for(self, workflow: str, asked_for: int | None) -> int:
        """The version that a start gets."""
        return asked_for or self._rules.engine.newest(workflow) or NOT_CHOSEN

    def create(self, started: events.Started, workflow_id: str, run: int, now: int) -> Entry:
        """A new run, and its first step."""
        entry = self._shard.know_latest(self._new_row(started, workflow_id, run, now))
        draft = self._shard.writing()
        draft.create(entry)
        draft.tally.created.append(started.workflow)
        self.start(entry, started, now)
        return entry

    def _new_row(self, started: events.Started, workflow_id: str, run: int, now: int) -> RunRow:
        parent, attributes = started.parent, started.attributes
        return RunRow(
            run_key=self._shard.next_run_key(),
            workflow_id=workflow_id,
            run=run,
            workflow=started.workflow,
            version=started.version,
            nonce=started.nonce,
            source=started.source,
            status="running",
            condition=None,
            reason=None,
            custom_status=None,
            started_at=now,
            closed_at=None,
            next_wakeup_at=None,
            parent=None if parent is None else msgspec.json.encode(parent),
            attributes=msgspec.json.encode(attributes).decode() if attributes else None,
        )

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
            self._record(entry, activation, now)

    # ---- messages

    def message(self, entry: Entry, message: RunMessage, now: int) -> None:
        """Applies a message to an open run, or keeps it for one that cannot run now."""
        if entry.live is None and isinstance(message, wire.Terminate):
            self._waiting.terminate(entry, message.reason, now)
        elif entry.row.condition is not None:
            self._writer.park(entry, message)
        elif not self._waiting.sets_aside(entry, message, now):
            self._accept(entry, message, now)

    def _accept(self, entry: Entry, message: RunMessage, now: int) -> None:
        live = entry.loaded
        try:
            event = live.accept(message, now)
            if isinstance(event, Refusal):
                self._writer.reject(entry.workflow_id, message, asked_by(message), event.reason, now)
                return
            if event is None:
                self._repeated(entry, live, message, now)
                return
            self._count_answer(live, event)
            activation = live.apply(event, now)
        except CannotRun as error:
            self._waiting.stall(entry, error.reason, message, now)
        else:
            self._record(entry, activation, now)

    def _repeated(self, entry: Entry, live: LiveRun, message: RunMessage, now: int) -> None:
        """Nothing happens; an update that was answered is answered again."""
        self._rules.ignored("stale")
        if isinstance(message, wire.Update) and message.update_id is not None:
            answer = live.answer_to(message.update_id)
            if answer is not None:
                self._writer.answer_again(entry, *answer, now)

    def _record(self, entry: Entry, activation: Activation, now: int) -> None:
        self._writer.record(entry, activation)
        if activation.successor is not None:
            self._go_on(entry, activation.successor, now)

    def _go_on(self, entry: Entry, successor: Successor, now: int) -> None:
        """The next run of the id goes on with the work of one that has closed."""
        row = entry.row
        self._continued[row.workflow_id] += 1
        if self._continued[row.workflow_id] > CONTINUED_AT_ONCE:
            breath = max(now + BREATH_US, successor.start_at or 0)
            successor = msgspec.structs.replace(successor, start_at=breath)
        birth = self.birth(successor.workflow, successor.version, now)
        self.create(starting.of_successor(successor, entry.parent, birth), row.workflow_id, row.run + 1, now)

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

    # ---- time

    def wake(self, entry: Entry, now: int) -> None:
        """Fires what is due in a run, and corrects a stored instant that came too early."""
        if not entry.runnable or self._waiting.sets_aside(entry, None, now):
            return
        live = entry.loaded
        try:
            while entry.open and (event := live.due(now, self._shard.heard)) is not None:
                self._shard.writing().tally.lateness_seconds.append(max(0, now - (live.wakeup_at() or now)) / SECOND)
                self._count_answer(live, event)
                self._record(entry, live.apply(event, now), now)
        except CannotRun as error:
            self._waiting.stall(entry, error.reason, None, now)
        else:
            self._writer.correct_wakeup(entry)

    # ---- runs that waited

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
            started = self._chosen(entry, started, now)
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

    def _chosen(self, entry: Entry, started: events.Started, now: int) -> events.Started:
        """The start of a run that waited for code, now with the version that it gets, and its limits."""
        birth = self.birth(started.workflow, started.version, now)
        entry.change(version=birth.version)
        return starting.limited(msgspec.structs.replace(started, version=birth.version), birth)
