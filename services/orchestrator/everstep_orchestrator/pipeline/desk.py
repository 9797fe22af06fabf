"""Where the rules about submissions find the runs of a shard, and leave what they cause."""

from __future__ import annotations

from everstep._core.starting import Birth
from everstep_orchestrator.pipeline.drafting import Entry
from everstep_orchestrator.pipeline.loading import Work
from everstep_orchestrator.pipeline.stepping import RunMessage, Stepper
from everstep_orchestrator.pipeline.writing import Writer
from everstep_orchestrator.store import ParkedRow
from everstep_schemas import events, wire
from everstep_schemas.wire import Outgoing, encoder


class Desk:
    """One shard's side of `_core.reception`: its runs in memory, its draft, what was loaded for this turn."""

    def __init__(self, writer: Writer, stepper: Stepper, work: Work, early_signal_us: int) -> None:
        self._shard = writer.shard
        self._writer = writer
        self._stepper = stepper
        self._work = work
        self._early_signal_us = early_signal_us

    def latest(self, workflow_id: str) -> Entry | None:
        """The newest run of an id."""
        return self._shard.latest.get(workflow_id)

    def started_by(self, workflow_id: str, source: str) -> Entry | None:
        """The run of an id that this identity has started; an old one is only to be looked at."""
        entry = self._shard.created_by(workflow_id, source)
        row = self._work.sources.get((workflow_id, source))
        return Entry(row) if entry is None and row is not None else entry

    def birth(self, workflow: str, version: int | None, now: int) -> Birth:
        """What a new run is given."""
        return self._stepper.birth(workflow, version, now)

    def create(self, started: events.Started, workflow_id: str, run: int, now: int) -> Entry:
        """A new run, with its first step."""
        return self._stepper.create(started, workflow_id, run, now)

    def give(self, run: Entry, message: RunMessage, now: int) -> None:
        """Applies a message to an open run, or keeps it for one that cannot run now."""
        self._stepper.message(run, message, now)

    def owe(self, message: Outgoing) -> None:
        """A message that belongs to no activation."""
        self._writer.owe(message)

    def reject(self, workflow_id: str, asked: wire.Submission, source: str, reason: str, now: int) -> None:
        """What was asked of an id has no effect, and everyone is told why."""
        self._writer.reject(workflow_id, asked, source, reason, now)

    def keep_early(self, signal: wire.Signal, now: int) -> None:
        """A start without a key may lie in another partition and arrive after its signal."""
        row = ParkedRow(
            shard=self._shard.number,
            number=self._shard.next_number(),
            workflow_id=signal.workflow_id,
            run_key=None,
            expires_at=now + self._early_signal_us,
            data=encoder.encode(signal),
        )
        self._shard.keep_early(row)
        self._writer.keep(row)

    def take_early(self, workflow_id: str) -> list[wire.Signal]:
        """The signals that were kept for an id, and are kept no longer."""
        kept = self._shard.early.pop(workflow_id, [])
        if kept:
            self._writer.release(early.number for early in kept)
        return [early.signal for early in kept]
