"""The rules: what each thing that came in does to its run, and what is owed for it. Pure but for the engine's state.

Nothing here waits. Everything a decision needs was loaded before; everything it causes is written into the shard's
draft, and nobody outside sees any of it before the draft is committed.
"""

from __future__ import annotations

import msgspec

from everstep._core.engine import FLAGS
from everstep_orchestrator.pipeline.drafting import Entry
from everstep_orchestrator.pipeline.incoming import Dead, Elsewhere, Incoming, Record, Refused, Request, Result
from everstep_orchestrator.pipeline.loading import Work
from everstep_orchestrator.pipeline.notices import instant
from everstep_orchestrator.pipeline.rules import Rules
from everstep_orchestrator.pipeline.state import Shard
from everstep_orchestrator.pipeline.stepping import RunMessage, Stepper
from everstep_orchestrator.pipeline.writing import Writer
from everstep_orchestrator.store import ParkedRow, RunRow
from everstep_schemas import events, wire
from everstep_schemas.errors import ErrorInfo
from everstep_schemas.names import Token
from everstep_schemas.wire import Lifecycle, encoder


class Decider:
    """Applies what came in for one shard."""

    def __init__(self, rules: Rules, shard: Shard, work: Work | None = None) -> None:
        self._rules = rules
        self._shard = shard
        self._work = work or Work()
        self._writer = Writer(shard, rules.topics)
        self._notices = self._writer.notices
        self._stepper = Stepper(rules, self._writer, self._work)

    # ---- records

    def record(self, record: Record, incoming: Incoming, now: int) -> None:
        """Applies one record of the shard's partitions."""
        match incoming:
            case Result():
                self._result(incoming, now)
            case Request():
                self._request(incoming, now)
            case Elsewhere():
                self._writer.owe(self._notices.forwarded(incoming.shard, incoming.message))
            case Refused():
                self._writer.reject(incoming.submission, incoming.source, incoming.reason, now)
            case Dead():
                self._writer.owe(self._notices.dead(record, incoming))
                self._bury(record, incoming)

    def _bury(self, record: Record, why: Dead) -> None:
        tally = self._shard.writing().tally
        tally.dead_letters.append(why.reason)
        where = {"topic": record.topic, "partition": record.partition, "offset": record.offset}
        tally.warnings.append(("dead letter", {**where, "reason": why.reason, "detail": why.detail[:300]}))

    def _result(self, result: Result, now: int) -> None:
        entry = self._shard.entries.get(result.token.run_key)
        if entry is None or not entry.open:
            self._rules.ignored("closed" if entry else "unknown_run")
        else:
            self._stepper.message(entry, result.message, now)

    def _request(self, request: Request, now: int) -> None:
        submission = request.submission
        if isinstance(submission, wire.Start):
            self._start(submission, request, now)
            return
        entry = self._shard.latest.get(submission.workflow_id)
        if entry is None and isinstance(submission, wire.Signal):
            self._keep_early(submission, request.source, now)
        elif entry is None:
            self._writer.reject(submission, request.source, f"no run has the id {submission.workflow_id!r}", now)
        elif not entry.open:
            reason = f"run {entry.row.run} of {submission.workflow_id!r} has ended ({entry.row.status})"
            self._writer.reject(submission, request.source, reason, now)
        else:
            self._stepper.message(entry, _identified(submission, request.source), now)

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
        self._writer.keep(row)

    def expire_early(self, now: int) -> None:
        """Rejects signals whose start never came."""
        for early in self._shard.expired_early(now):
            reason = f"no run has the id {early.signal.workflow_id!r}"
            self._writer.reject(early.signal, early.signal.signal_id or "", reason, now)
            self._writer.release([early.number])

    def refused(self, message: wire.Outgoing, why: str, now: int) -> None:
        """Kafka will never take the message: it becomes a dead letter, and the activity that it commanded fails."""
        self._writer.owe(self._notices.unpublishable(message, why))
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
        same = self._run_of_source(start.workflow_id, request.source)
        if same is not None:
            self._answer_existing(same, request.source)
        elif start.on_duplicate == "return_existing":
            self._answer_existing(latest.row, request.source)
        elif latest.open and start.on_duplicate == "terminate_existing":
            ending = wire.Terminate(workflow_id=start.workflow_id, reason="replaced by a new run")
            self._stepper.message(latest, ending, now)
            self._create(start, request, latest.row.run + 1, now)
        elif not latest.open and start.on_duplicate != "reject":
            self._create(start, request, latest.row.run + 1, now)
        else:
            reason = f"duplicate: run {latest.row.run} of {start.workflow_id!r} exists ({latest.row.status})"
            self._writer.reject(start, request.source, reason, now)

    def _run_of_source(self, workflow_id: str, source: str) -> RunRow | None:
        created = self._shard.created_by(workflow_id, source)
        return self._work.sources.get((workflow_id, source)) if created is None else created

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
        self._writer.owe(self._notices.existing(fact))

    def _create(self, start: wire.Start, request: Request, run: int, now: int) -> None:
        started = events.Started(
            workflow=start.workflow,
            version=self._stepper.version_for(start.workflow, start.version),
            nonce=self._rules.new_nonce(),
            source=request.source,
            python=self._rules.python,
            args=start.args,
            kwargs=start.kwargs,
            flags=FLAGS,
            traceparent=request.traceparent,
        )
        entry = self._shard.know_latest(self._new_row(started, start.workflow_id, run, now))
        self._shard.writing().create(entry)
        self._shard.writing().tally.created.append(start.workflow)
        self._stepper.start(entry, started, now)
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

    def _deliver_early(self, entry: Entry, now: int) -> None:
        for early in self._shard.early.pop(entry.row.workflow_id, ()):
            self._writer.release([early.number])
            if entry.open:
                self._stepper.message(entry, early.signal, now)
            else:
                reason = "the run ended before its signal was applied"
                self._writer.reject(early.signal, early.signal.signal_id or "", reason, now)

    # ---- what no record brings

    def wake(self, entry: Entry, now: int) -> None:
        """Fires what is due in a run."""
        self._stepper.wake(entry, now)

    def resume(self, entry: Entry, now: int) -> None:
        """Tries a run that waits."""
        self._stepper.resume(entry, now)


def _identified(submission: wire.Signal | wire.Cancel | wire.Terminate, source: str) -> RunMessage:
    if isinstance(submission, wire.Signal) and submission.signal_id is None:
        return msgspec.structs.replace(submission, signal_id=source)
    return submission
