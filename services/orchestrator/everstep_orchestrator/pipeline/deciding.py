"""The rules: what each thing that came in does to its run, and what is owed for it. Pure but for the engine's state.

Nothing here waits. Everything a decision needs was loaded before; everything it causes is written into the shard's
draft, and nobody outside sees any of it before the draft is committed.
"""

from __future__ import annotations

from msgspec import Raw

from everstep._core.reception import Reception, Request
from everstep_orchestrator.pipeline.desk import Desk
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
    Result,
)
from everstep_orchestrator.pipeline.loading import Work
from everstep_orchestrator.pipeline.rules import Rules
from everstep_orchestrator.pipeline.state import Shard
from everstep_orchestrator.pipeline.stepping import Stepper
from everstep_orchestrator.pipeline.writing import Writer
from everstep_orchestrator.store import HeartbeatRow
from everstep_schemas import wire
from everstep_schemas.errors import ErrorInfo
from everstep_schemas.names import Token


class Decider:
    """Applies what came in for one shard."""

    def __init__(self, rules: Rules, shard: Shard, work: Work | None = None) -> None:
        self._rules = rules
        self._shard = shard
        work = work or Work()
        self._writer = Writer(shard, rules.topics)
        self._notices = self._writer.notices
        self._stepper = Stepper(rules, self._writer, work)
        desk = Desk(self._writer, self._stepper, work, rules.early_signal_us)
        self._reception: Reception[Entry] = Reception(desk, self._notices)

    # ---- records

    def record(self, record: Record, incoming: Incoming, now: int) -> None:
        """Applies one record of the shard's partitions."""
        match incoming:
            case Result():
                self._result(incoming, now)
            case Request():
                self._reception.request(incoming, now)
            case Renewal():
                self._renew(incoming.message, now)
            case Callback():
                self._callback(record, incoming, now)
            case Child():
                self._reception.child(incoming.message, now)
            case Elsewhere():
                self._writer.owe(self._notices.forwarded(incoming.shard, incoming.message))
            case Refused():
                self._reception.refuse(incoming.request, incoming.reason, now)
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
        submission = callback.submission
        entry = self._shard.entries.get(callback.token.run_key)
        if entry is None:
            self._bury(record, Dead("unknown_callback", "no run has the callback with this token"))
        elif isinstance(submission, wire.HeartbeatCallback):
            self._beat(entry, callback.token, submission, now)
        else:
            self._reception.callback(entry, submission, callback.source, now)

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
        for text in message.released:
            self._give_back(text, now)

    def _give_back(self, text: str, now: int) -> None:
        """The attempt goes to another worker at once; if its run cannot run now, when its lease ends."""
        token = Token.parse(text)
        entry = None if token is None else self._shard.entries.get(token.run_key)
        if token is None or entry is None or entry.live is None:
            return
        if entry.live.give_back(token.seq, text, now):
            self.wake(entry, now)

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

    # ---- what no record brings

    def expire_early(self, now: int) -> None:
        """Rejects signals whose start never came."""
        for early in self._shard.expired_early(now):
            self._reception.expired(early.signal, now)
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

    def wake(self, entry: Entry, now: int) -> None:
        """Fires what is due in a run."""
        self._stepper.wake(entry, now)

    def resume(self, entry: Entry, now: int) -> None:
        """Tries a stalled or held run again."""
        self._stepper.resume(entry, now)
