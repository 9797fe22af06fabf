"""The rules: what each thing that came in does to its run, and what is owed for it. Pure but for the engine's state.

Nothing here waits. Everything a decision needs was loaded before; everything it causes is written into the shard's
draft, and nobody outside sees any of it before the draft is committed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

import msgspec

from everstep._core.ending import terminated
from everstep._core.engine import FLAGS, Activation, CannotRun, Engine, LiveRun, StallReason
from everstep_orchestrator.pipeline.incoming import Dead, Elsewhere, Incoming, Record, Refused, Request, Result
from everstep_orchestrator.pipeline.loading import Work
from everstep_orchestrator.pipeline.notices import Notices, instant, reason_text
from everstep_orchestrator.pipeline.state import Entry, Shard
from everstep_orchestrator.store import ParkedRow, RunRow
from everstep_schemas import events, wire
from everstep_schemas.errors import ErrorInfo
from everstep_schemas.names import Token, Topics
from everstep_schemas.wire import Lifecycle, ParkedInput, encoder

SECOND = 1_000_000
NOT_CHOSEN = 0  # the version of a run that waits for code: the newest, once there is one

RunMessage = wire.ActivityCompleted | wire.ActivityFailed | wire.Signal | wire.Cancel | wire.Terminate


class Directory(Protocol):
    """Knows which code the other orchestrators have."""

    def others_know(self, workflow: str, version: int) -> bool: ...


@dataclass(frozen=True, slots=True)
class Rules:
    """What all shards of an orchestrator decide with."""

    engine: Engine
    directory: Directory
    topics: Topics
    python: str
    new_nonce: Callable[[], str]
    ignored: Callable[[str], None]  # counts inputs that have no effect, by reason
    early_signal_us: int


class Decider:
    """Applies what came in for one shard."""

    def __init__(self, rules: Rules, shard: Shard, work: Work | None = None) -> None:
        self._rules = rules
        self._shard = shard
        self._work = work or Work()
        self._notices = Notices(rules.topics, shard.number)

    # ---- records

    def record(self, record: Record, incoming: Incoming, now: int) -> None:
        """Applies one record of the shard's partitions."""
        match incoming:
            case Result():
                self._result(incoming, now)
            case Request():
                self._request(incoming, now)
            case Elsewhere():
                self._owe(self._notices.forwarded(incoming.shard, incoming.message))
            case Refused():
                self._reject(incoming.submission, incoming.source, incoming.reason, now)
            case Dead():
                self._owe(self._notices.dead(record, incoming))
                self._shard.writing().tally.dead_letters.append(incoming.reason)

    def _owe(self, message: wire.Outgoing) -> None:
        self._shard.writing().bodies.append(message)

    def _reject(self, submission: wire.AnySubmission, source: str, reason: str, now: int) -> None:
        self._owe(self._notices.rejected(submission, source, reason, now))
        self._shard.writing().tally.rejected.append(type(submission).__name__.lower())

    def _result(self, result: Result, now: int) -> None:
        entry = self._shard.entries.get(result.token.run_key)
        if entry is None or not entry.open:
            self._rules.ignored("closed" if entry else "unknown_run")
        else:
            self._message(entry, result.message, now)

    def _request(self, request: Request, now: int) -> None:
        submission = request.submission
        if isinstance(submission, wire.Start):
            self._start(submission, request, now)
            return
        entry = self._shard.latest.get(submission.workflow_id)
        if entry is None and isinstance(submission, wire.Signal):
            self._keep_early(submission, request.source, now)
        elif entry is None:
            self._reject(submission, request.source, f"no run has the id {submission.workflow_id!r}", now)
        elif not entry.open:
            reason = f"run {entry.row.run} of {submission.workflow_id!r} has ended ({entry.row.status})"
            self._reject(submission, request.source, reason, now)
        else:
            self._message(entry, _identified(submission, request.source), now)

    def _keep_early(self, signal: wire.Signal, source: str, now: int) -> None:
        """A start without a key may lie in another partition and arrive after its signal."""
        row = ParkedRow(
            shard=self._shard.number,
            number=self._shard.next_number(),
            workflow_id=signal.workflow_id,
            run_key=None,
            expires_at=now + self._rules.early_signal_us,
            data=encoder.encode(_identified(signal, source)),
        )
        self._shard.keep_early(row)
        self._keep(row)

    def expire_early(self, now: int) -> None:
        """Rejects signals whose start never came."""
        for early in self._shard.expired_early(now):
            reason = f"no run has the id {early.signal.workflow_id!r}"
            self._reject(early.signal, early.signal.signal_id or "", reason, now)
            self._release([early.number])

    def refused(self, message: wire.Outgoing, why: str, now: int) -> None:
        """Kafka will never take the message: it becomes a dead letter, and the activity that it commanded fails."""
        self._owe(self._notices.unpublishable(message, why))
        self._shard.writing().tally.dead_letters.append("unpublishable")
        if not message.topic.startswith(self._rules.topics.activities("")):
            return
        command = wire.command_decoder.decode(message.value)
        error = ErrorInfo(type="CommandRefused", message=f"Kafka refuses the command: {why}", retryable=False)
        failed = wire.ActivityFailed(
            workflow_id=command.workflow_id,
            run=command.run,
            seq=command.seq,
            attempt=command.attempt,
            token=command.token,
            error=error,
        )
        if (token := Token.parse(command.token)) is not None:
            self._result(Result(failed, token), now)

    # ---- starts

    def _start(self, start: wire.Start, request: Request, now: int) -> None:
        latest = self._shard.latest.get(start.workflow_id)
        if latest is None:
            self._create(start, request, 1, now)
            return
        same = self._run_of_source(start.workflow_id, request.source, latest)
        if same is not None:
            self._answer_existing(same, request.source)
        elif start.on_duplicate == "return_existing":
            self._answer_existing(latest.row, request.source)
        elif latest.open and start.on_duplicate == "terminate_existing":
            self._message(latest, wire.Terminate(workflow_id=start.workflow_id, reason="replaced by a new run"), now)
            self._create(start, request, latest.row.run + 1, now)
        elif not latest.open and start.on_duplicate != "reject":
            self._create(start, request, latest.row.run + 1, now)
        else:
            reason = f"duplicate: run {latest.row.run} of {start.workflow_id!r} exists ({latest.row.status})"
            self._reject(start, request.source, reason, now)

    def _run_of_source(self, workflow_id: str, source: str, latest: Entry) -> RunRow | None:
        if latest.row.source == source:
            return latest.row
        return self._shard.sources.get((workflow_id, source))

    def _answer_existing(self, row: RunRow, asked_by: str) -> None:
        fact = Lifecycle(
            workflow_id=row.workflow_id,
            run=row.run,
            seq=1,
            at=instant(row.started_at),
            workflow=row.workflow,
            version=row.version,
            submission_id=asked_by,
            # Whoever asked may wait for an end that was announced before.
            status=None if row.status == "running" else row.status,
        )
        self._owe(self._notices.existing(fact))

    def _create(self, start: wire.Start, request: Request, run: int, now: int) -> None:
        started = events.Started(
            workflow=start.workflow,
            version=start.version or self._rules.engine.newest(start.workflow) or NOT_CHOSEN,
            nonce=self._rules.new_nonce(),
            source=request.source,
            python=self._rules.python,
            args=start.args,
            kwargs=start.kwargs,
            flags=FLAGS,
            traceparent=request.traceparent,
        )
        entry = Entry(self._new_row(started, start.workflow_id, run, now))
        self._shard.know(entry)
        self._shard.writing().created[entry.row.run_key] = entry
        self._shard.writing().tally.created.append(start.workflow)
        self._first_step(entry, started, now)
        self._deliver_early(entry, now)

    def _new_row(self, started: events.Started, workflow_id: str, run: int, now: int) -> RunRow:
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
        )

    def _first_step(self, entry: Entry, started: events.Started, now: int) -> None:
        if self._is_suspect(entry, started, now):
            return
        if not self._has_code(entry):
            self._wait_for_code(entry, started, now)
            return
        try:
            entry.live, activation = self._rules.engine.start(entry.identity, started, now)
        except CannotRun as error:
            self._stall(entry, error.reason, started, now)
        else:
            self._shard.writing().tally.started.append(started.workflow)
            self._record(entry, activation)

    def _deliver_early(self, entry: Entry, now: int) -> None:
        for early in self._shard.early.pop(entry.row.workflow_id, ()):
            self._release([early.number])
            if entry.open:
                self._message(entry, early.signal, now)
            else:
                reason = "the run ended before its signal was applied"
                self._reject(early.signal, early.signal.signal_id or "", reason, now)

    # ---- runs

    def _message(self, entry: Entry, message: RunMessage, now: int) -> None:
        """Applies a message to an open run, or keeps it for one that cannot run now."""
        if entry.row.condition is not None and isinstance(message, wire.Terminate):
            self._terminate_waiting(entry, message, now)
        elif entry.row.condition is not None:
            self._park(entry, message)
        elif entry.cannot_run is not None:
            self._stall(entry, entry.cannot_run.reason, message, now)
        elif not self._has_code(entry):
            self._wait_for_code(entry, message, now)
        elif not self._is_suspect(entry, message, now):
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
            self._stall(entry, error.reason, message, now)
        else:
            self._record(entry, activation)

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
        if entry.runnable and entry.cannot_run is not None:
            self._stall(entry, entry.cannot_run.reason, None, now)
        elif entry.runnable and not self._has_code(entry):
            self._wait_for_code(entry, None, now)
        if not entry.runnable or self._is_suspect(entry, None, now):
            return
        live = entry.loaded
        try:
            while entry.open and (event := live.due(now)) is not None:
                self._shard.writing().tally.lateness_seconds.append(max(0, now - (live.wakeup_at() or now)) / SECOND)
                self._record(entry, live.apply(event, now))
        except CannotRun as error:
            self._stall(entry, error.reason, None, now)
        else:
            self._correct_wakeup(entry)

    def _record(self, entry: Entry, activation: Activation) -> None:
        draft = self._shard.writing()
        draft.record(entry, activation)
        entry.touched = draft.commit_no
        if activation.status_changed:
            entry.change(custom_status=activation.custom_status)
            draft.change(entry)
        if activation.closed:
            self._close(entry, activation)
        else:
            self._lower_wakeup(entry)

    def _close(self, entry: Entry, activation: Activation) -> None:
        draft, closed_at = self._shard.writing(), activation.rows[-1].at
        draft.tally.stalled -= entry.row.condition == "stalled"
        entry.change(status=activation.closed, closed_at=closed_at, condition=None, reason=None, next_wakeup_at=None)
        entry.evict()
        draft.change(entry)
        draft.closed.append(entry)
        row = entry.row
        draft.tally.closed.append((row.workflow, row.status, (closed_at - row.started_at) / SECOND))

    def _lower_wakeup(self, entry: Entry) -> None:
        """The stored instant is only a lower bound, so only an earlier one is written."""
        at = entry.live.wakeup_at() if entry.live else None
        if at is None:
            return
        if at <= self._shard.wakeups_known_until:
            self._shard.wakeups.add(entry.row.run_key, at)
        if entry.row.next_wakeup_at is None or at < entry.row.next_wakeup_at:
            entry.change(next_wakeup_at=at)
            self._shard.writing().change(entry)

    def _correct_wakeup(self, entry: Entry) -> None:
        at = entry.live.wakeup_at() if entry.live else None
        if at is not None and at <= self._shard.wakeups_known_until:
            self._shard.wakeups.add(entry.row.run_key, at)
        if entry.open and entry.row.next_wakeup_at != at:
            entry.change(next_wakeup_at=at)
            self._shard.writing().change(entry)

    # ---- runs that cannot run

    def _is_suspect(self, entry: Entry, owed: ParkedInput | None, now: int) -> bool:
        """The run that broke the last owner, or a commit, is set aside at its next input."""
        suspect = self._shard.suspect
        if suspect is None or suspect.run_key != entry.row.run_key:
            return False
        self._shard.suspect = None
        self._stall(entry, suspect.reason, owed, now)
        return True

    def _has_code(self, entry: Entry) -> bool:
        return self._rules.engine.knows(entry.row.workflow, entry.row.version)

    def _wait_for_code(self, entry: Entry, owed: ParkedInput | None, now: int) -> None:
        row = entry.row
        version = f" version {row.version}" if row.version else ""
        if self._rules.directory.others_know(row.workflow, row.version):
            entry.change(condition="held")
            self._shard.writing().change(entry)
            if owed is not None:
                self._park(entry, owed)
            self._owe(self._notices.held(self._condition_fact(entry, now)))
            return
        message = f"no orchestrator has code for workflow {row.workflow!r}{version}; deploy it and the run starts"
        self._stall(entry, StallReason(kind="unknown_workflow", message=message), owed, now)

    def _stall(self, entry: Entry, reason: StallReason, owed: ParkedInput | None, now: int) -> None:
        entry.evict()
        entry.cannot_run = None
        if reason.kind == "blocked":
            self._shard.writing().tally.blocked.append(entry.row.workflow)
        self._shard.writing().tally.stalled += entry.row.condition != "stalled"
        entry.change(condition="stalled", reason=msgspec.json.encode(reason))
        self._shard.writing().change(entry)
        if owed is not None:
            self._park(entry, owed)
        self._owe(self._notices.stalled(self._condition_fact(entry, now)))

    def _terminate_waiting(self, entry: Entry, message: wire.Terminate, now: int) -> None:
        """Ends a run that cannot run; what it was still owed goes with it."""
        key, draft = entry.row.run_key, self._shard.writing()
        last = self._work.last_rows.get(key)
        draft.parked = [row for row in draft.parked if row.run_key != key]
        self._release(row.number for row in self._work.parked.get(key, ()))
        self._record(entry, terminated(entry.identity, self._rules.topics, last, message.reason, now))

    def _park(self, entry: Entry, owed: ParkedInput) -> None:
        row = ParkedRow(
            shard=self._shard.number,
            number=self._shard.next_number(),
            workflow_id=entry.row.workflow_id,
            run_key=entry.row.run_key,
            expires_at=None,
            data=encoder.encode(owed),
        )
        self._keep(row)

    def _keep(self, row: ParkedRow) -> None:
        draft = self._shard.writing()
        draft.parked.append(row)
        draft.tally.parked += 1

    def _release(self, numbers: Iterable[int]) -> None:
        draft, before = self._shard.writing(), len(self._shard.writing().unparked)
        draft.unparked.extend(numbers)
        draft.tally.parked -= len(draft.unparked) - before

    def _condition_fact(self, entry: Entry, now: int) -> Lifecycle:
        row = entry.row
        return Lifecycle(
            workflow_id=row.workflow_id,
            run=row.run,
            seq=entry.live.next_seq if entry.live else 0,
            at=instant(now),
            workflow=row.workflow,
            version=row.version,
            submission_id=row.source,
            reason=reason_text(row.reason),
        )

    def resume(self, entry: Entry, now: int) -> None:
        """Tries a stalled or held run again with the code at hand; what it was owed is applied in order."""
        if entry.row.condition is None:
            return
        parked = self._work.parked.get(entry.row.run_key, [])
        owed = [wire.parked_decoder.decode(row.data) for row in parked]
        started = owed[0] if owed and isinstance(owed[0], events.Started) else None
        if entry.cannot_run is not None:
            self._still_stalled(entry, entry.cannot_run.reason)
        if not self._can_resume(entry, started):
            return
        self._shard.writing().tally.stalled -= entry.row.condition == "stalled"
        entry.change(condition=None, reason=None)
        self._shard.writing().change(entry)
        self._release(row.number for row in parked)
        if started is not None:
            self._first_step(entry, self._chosen(entry, started), now)
        self._owe(self._notices.resumed(self._condition_fact(entry, now)))
        for message in owed[1 if started else 0 :]:
            if entry.open and not isinstance(message, events.Started):
                self._message(entry, message, now)
        if entry.live is not None:
            self._lower_wakeup(entry)

    def _still_stalled(self, entry: Entry, reason: StallReason) -> None:
        entry.cannot_run = None
        encoded = msgspec.json.encode(reason)
        if encoded != entry.row.reason:
            self._shard.writing().tally.stalled += entry.row.condition != "stalled"
            entry.change(condition="stalled", reason=encoded)
            self._shard.writing().change(entry)

    def _can_resume(self, entry: Entry, started: events.Started | None) -> bool:
        if started is not None:
            version = started.version or self._rules.engine.newest(started.workflow) or NOT_CHOSEN
            return self._rules.engine.knows(started.workflow, version)
        return entry.live is not None

    def _chosen(self, entry: Entry, started: events.Started) -> events.Started:
        """The start of a run that waited for code, now with the version that it gets."""
        entry.change(version=started.version or self._rules.engine.newest(started.workflow) or NOT_CHOSEN)
        return msgspec.structs.replace(started, version=entry.row.version)


def _identified(submission: wire.Signal | wire.Cancel | wire.Terminate, source: str) -> RunMessage:
    if isinstance(submission, wire.Signal) and submission.signal_id is None:
        return msgspec.structs.replace(submission, signal_id=source)
    return submission
