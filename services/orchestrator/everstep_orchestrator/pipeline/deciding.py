"""The rules: what each thing that came in does to its run, and what is owed for it. Pure but for the engine's state.

Nothing here waits. Everything a decision needs was loaded before; everything it causes is written into the shard's
draft, and nobody outside sees any of it before the draft is committed.
"""

from __future__ import annotations

import msgspec
from msgspec import Raw

from everstep._core import starting
from everstep.errors import RunAlreadyExists, RunNotFound, declared_name
from everstep_orchestrator.pipeline.drafting import Entry
from everstep_orchestrator.pipeline.incoming import (
    Callback,
    Child,
    Dead,
    Elsewhere,
    Incoming,
    Record,
    Refused,
    Renewal,
    Request,
    Result,
)
from everstep_orchestrator.pipeline.loading import Work
from everstep_orchestrator.pipeline.notices import instant
from everstep_orchestrator.pipeline.rules import Rules
from everstep_orchestrator.pipeline.state import Shard
from everstep_orchestrator.pipeline.stepping import RunMessage, Stepper
from everstep_orchestrator.pipeline.writing import Writer
from everstep_orchestrator.store import HeartbeatRow, ParkedRow, RunRow
from everstep_schemas import wire
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
            case Renewal():
                self._renew(incoming.message, now)
            case Callback():
                self._callback(record, incoming, now)
            case Child():
                self._child(incoming, now)
            case Elsewhere():
                self._writer.owe(self._notices.forwarded(incoming.shard, incoming.message))
            case Refused():
                self._reject(incoming, incoming.reason, now)
            case Dead():
                self._bury(record, incoming)

    def _bury(self, record: Record, why: Dead) -> None:
        self._writer.owe(self._notices.dead(record, why))
        tally = self._shard.writing().tally
        tally.dead_letters.append(why.reason)
        where = {"topic": record.topic, "partition": record.partition, "offset": record.offset}
        tally.warnings.append(("dead letter", {**where, "reason": why.reason, "detail": why.detail[:300]}))

    # ---- answers to what runs wait for

    def _result(self, result: Result, now: int) -> None:
        entry = self._open_run(result.token)
        if entry is not None:
            if isinstance(result.message, wire.ActivityStarted):
                self._shard.leases.renew(result.message.token, now)
            self._stepper.message(entry, result.message, now)

    def _open_run(self, token: Token) -> Entry | None:
        entry = self._shard.entries.get(token.run_key)
        if entry is None or not entry.open:
            self._rules.ignored("closed" if entry else "unknown_run")
            return None
        return entry

    def _callback(self, record: Record, callback: Callback, now: int) -> None:
        submission, key = callback.submission, callback.token.run_key
        entry = self._shard.entries.get(key)
        if entry is None:
            self._bury(record, Dead("unknown_callback", "no run has the callback with this token"))
        elif isinstance(submission, wire.HeartbeatCallback):
            self._beat(entry, callback.token, submission, now)
        elif not entry.open:
            self._writer.refuse(entry, _identified_callback(submission, callback.source), _ended(entry), now)
        else:
            self._stepper.message(entry, _identified_callback(submission, callback.source), now)

    def _beat(self, entry: Entry, token: Token, submission: wire.HeartbeatCallback, now: int) -> None:
        """A heartbeat is stored also for a run that is not in memory or stalled: whether it counts shows later."""
        if not entry.open or (entry.live is not None and not entry.live.beat(submission.token, now)):
            self._rules.ignored("stale")
            return
        self._writer.keep_heartbeat(entry, HeartbeatRow(token.run_key, token.seq, 0, now, bytes(submission.details)))

    def _renew(self, message: wire.ActivitiesRenewed, now: int) -> None:
        for text in message.tokens:
            self._shard.leases.renew(text, now)
            self._move_lease(text, None, now)
        for heartbeat in message.heartbeats:
            self._shard.leases.renew(heartbeat.token, now)
            self._move_lease(heartbeat.token, heartbeat.details, now)

    def _move_lease(self, text: str, details: Raw | None, now: int) -> None:
        token = Token.parse(text)
        entry = None if token is None else self._shard.entries.get(token.run_key)
        if token is None or entry is None or not entry.open:
            return
        if entry.live is not None and not entry.live.renew(token.seq, text, now, details):
            self._rules.ignored("stale")
        elif details is not None:
            row = HeartbeatRow(token.run_key, token.seq, token.attempt, now, bytes(details))
            self._writer.keep_heartbeat(entry, row)

    # ---- what other runs ask

    def _child(self, child: Child, now: int) -> None:
        if isinstance(child.message, wire.ChildStart):
            self._start_child(child.message, now)
        else:
            self._end_child(child.message, now)

    def _start_child(self, start: wire.ChildStart, now: int) -> None:
        """Meeting the run that this very start has created is success: nothing is to be done."""
        latest = self._shard.latest.get(start.workflow_id)
        if latest is not None and self._run_of_source(start.workflow_id, start.parent.token) is not None:
            self._rules.ignored("stale")
        elif latest is not None:
            message = f"run {latest.row.run} of {start.workflow_id!r} exists ({latest.row.status}); choose another id"
            self._refuse_child(start, ErrorInfo(type=declared_name(RunAlreadyExists), message=message))
        elif start.parent.depth > starting.MOST_ANCESTORS:
            message = f"{start.parent.depth} runs have started each other in a row; is it a circle?"
            self._refuse_child(start, ErrorInfo(type="NestedTooDeeply", message=message))
        else:
            birth = self._stepper.birth(start.workflow, start.version, now)
            entry = self._stepper.create(starting.of_child(start, birth), start.workflow_id, 1, now)
            self._deliver_early(entry, now)

    def _refuse_child(self, start: wire.ChildStart, error: ErrorInfo) -> None:
        self._writer.owe(self._notices.child_refused(start.parent, error))

    def _end_child(self, end: wire.ChildEnd, now: int) -> None:
        """Ends the run that goes on for this parent, which may be a later one of the id than it started."""
        latest = self._shard.latest.get(end.workflow_id)
        parent = None if latest is None else latest.parent
        if latest is None or not latest.open or parent is None or parent.token != end.token:
            self._rules.ignored("stale")
        elif end.how == "terminate":
            self._stepper.message(latest, wire.Terminate(workflow_id=end.workflow_id, reason=end.reason), now)
        else:
            self._stepper.message(latest, wire.Cancel(workflow_id=end.workflow_id, reason=end.reason), now)

    # ---- submissions

    def _request(self, request: Request, now: int) -> None:
        submission = request.submission
        if isinstance(submission, wire.Start):
            self._start(submission, request, now)
            return
        entry = self._shard.latest.get(submission.workflow_id)
        if entry is None and isinstance(submission, wire.Signal) and request.reply_to is None:
            self._keep_early(submission, request.source, now)
        elif entry is None:
            self._reject(request, _no_run(submission.workflow_id), now, kind=declared_name(RunNotFound))
        elif not entry.open:
            self._reject(request, _ended(entry), now)
        else:
            self._stepper.message(entry, _identified(submission, request.source), now)
            if request.reply_to is not None:
                self._writer.owe(self._notices.answered(request.reply_to, None))

    def _reject(self, request: Request | Refused, reason: str, now: int, kind: str = "Rejected") -> None:
        """The submission has no effect; a run that made it is told, anybody else reads it in the lifecycle."""
        if request.reply_to is not None:
            self._writer.owe(self._notices.answered(request.reply_to, ErrorInfo(type=kind, message=reason)))
        else:
            self._writer.reject(request.submission, request.source, reason, now)

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
            self._writer.reject(early.signal, early.signal.signal_id or "", _no_run(early.signal.workflow_id), now)
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
        same = None if latest is None else self._run_of_source(start.workflow_id, request.source)
        if same is not None:
            self._answer_existing(same, request.source)
            self._signal_first(start, request, self._shard.entries.get(same.run_key), now)
            return
        match starting.admission(start, exists=latest is not None, is_open=latest is not None and latest.open):
            case "existing" if latest is not None:
                self._answer_existing(latest.row, request.source)
                self._signal_first(start, request, latest, now)
            case "reject" if latest is not None:
                reason = f"duplicate: run {latest.row.run} of {start.workflow_id!r} exists ({latest.row.status})"
                self._reject(request, reason, now)
            case "replace" if latest is not None:
                ending = wire.Terminate(workflow_id=start.workflow_id, reason="replaced by a new run")
                self._stepper.message(latest, ending, now)
                self._create(start, request, latest.row.run + 1, now)
            case _:
                self._create(start, request, 1 if latest is None else latest.row.run + 1, now)

    def _create(self, start: wire.Start, request: Request, run: int, now: int) -> None:
        birth = self._stepper.birth(start.workflow, start.version, now)
        started = starting.of_submission(start, request.source, request.traceparent, birth)
        entry = self._stepper.create(started, start.workflow_id, run, now)
        self._signal_first(start, request, entry, now)
        self._deliver_early(entry, now)

    def _signal_first(self, start: wire.Start, request: Request, entry: Entry | None, now: int) -> None:
        """The signal that comes with a start goes to the run that answers it, once."""
        signal = starting.first_signal(start, request.source)
        if signal is None or entry is None:
            return
        latest = self._shard.latest.get(start.workflow_id, entry)
        if latest.open:
            self._stepper.message(latest, signal, now)
        else:
            self._writer.reject(signal, signal.signal_id or "", _ended(latest), now)

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

    def _deliver_early(self, entry: Entry, now: int) -> None:
        for early in self._shard.early.pop(entry.row.workflow_id, ()):
            self._writer.release([early.number])
            latest = self._shard.latest.get(entry.row.workflow_id, entry)
            if latest.open:
                self._stepper.message(latest, early.signal, now)
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


def _no_run(workflow_id: str) -> str:
    return f"no run has the id {workflow_id!r}"


def _ended(entry: Entry) -> str:
    return f"run {entry.row.run} of {entry.row.workflow_id!r} has ended ({entry.row.status})"


def _identified(submission: wire.Signal | wire.Update | wire.Cancel | wire.Terminate, source: str) -> RunMessage:
    if isinstance(submission, wire.Signal) and submission.signal_id is None:
        return msgspec.structs.replace(submission, signal_id=source)
    if isinstance(submission, wire.Update) and submission.update_id is None:
        return msgspec.structs.replace(submission, update_id=source)
    return submission


def _identified_callback(
    submission: wire.CompleteCallback | wire.FailCallback, source: str
) -> wire.CompleteCallback | wire.FailCallback:
    return msgspec.structs.replace(submission, submission_id=source)
