"""Runs that cannot run: their code is missing, differs from history, or broke something. They lose nothing.

A run is *held* while another orchestrator has its code, and *stalled* otherwise. Its inputs are parked, and applied in
order when it is resumed, which is tried whenever a shard is opened. It can be terminated at any time.
"""

from __future__ import annotations

import msgspec

from everstep._core.ending import OpenEnds, terminated
from everstep._core.engine import HistoryRow, StallReason
from everstep_orchestrator.pipeline.drafting import Entry
from everstep_orchestrator.pipeline.loading import Work
from everstep_orchestrator.pipeline.rules import Rules
from everstep_orchestrator.pipeline.writing import Writer, named
from everstep_schemas.wire import ParkedInput


class Waiting:
    """Sets runs of one shard aside."""

    def __init__(self, rules: Rules, writer: Writer, work: Work) -> None:
        self._rules = rules
        self._writer = writer
        self._shard = writer.shard
        self._work = work

    def sets_aside(self, entry: Entry, owed: ParkedInput | None, now: int) -> bool:
        """Whether a runnable run cannot take its next input, `owed`, after all; then it waits, and the input too."""
        reason = self.suspicion(entry)
        if reason is None and entry.cannot_run is not None:
            reason = entry.cannot_run.reason
        if reason is None and not self._rules.engine.knows(entry.row.workflow, entry.row.version):
            self._wait_for_code(entry, owed, now)
            return True
        if reason is not None:
            self.stall(entry, reason, owed, now)
        return reason is not None

    def suspicion(self, entry: Entry) -> StallReason | None:
        """Why the run is not to be tried: it broke the last owner, or a commit. Said once."""
        suspect = self._shard.suspect
        if suspect is None or suspect.run_key != entry.row.run_key:
            return None
        self._shard.suspect = None
        return suspect.reason

    def _wait_for_code(self, entry: Entry, owed: ParkedInput | None, now: int) -> None:
        row = entry.row
        version = f" version {row.version}" if row.version else ""
        if self._rules.directory.others_know(row.workflow, row.version):
            self._writer.change(entry, condition="held")
            if owed is not None:
                self._writer.park(entry, owed)
            self._writer.owe(self._writer.notices.held(entry, _next_seq(entry), now))
            return
        message = f"no orchestrator has code for workflow {row.workflow!r}{version}; deploy it and the run starts"
        self.stall(entry, StallReason(kind="unknown_workflow", message=message), owed, now)

    def stall(self, entry: Entry, reason: StallReason, owed: ParkedInput | None, now: int) -> None:
        """The run cannot go on, for this reason; `owed` is the input that it could not take."""
        tally = self._shard.writing().tally
        entry.evict()
        entry.cannot_run = None
        if reason.kind == "blocked":
            tally.blocked.append(entry.row.workflow)
        tally.stalled += entry.row.condition != "stalled"
        tally.warnings.append(("run stalled", {**named(entry), "kind": reason.kind, "reason": reason.message}))
        self._writer.change(entry, condition="stalled", reason=msgspec.json.encode(reason))
        if owed is not None:
            self._writer.park(entry, owed)
        self._writer.owe(self._writer.notices.stalled(entry, _next_seq(entry), reason.message, now))

    def stays_stalled(self, entry: Entry, reason: StallReason) -> None:
        """It was to be resumed and cannot be, perhaps for another reason than before."""
        entry.cannot_run = None
        encoded = msgspec.json.encode(reason)
        if encoded != entry.row.reason:
            self._shard.writing().tally.stalled += entry.row.condition != "stalled"
            self._writer.change(entry, condition="stalled", reason=encoded)

    def terminate(self, entry: Entry, reason: str, now: int) -> None:
        """Ends a run that is not in memory; what it was still owed goes with it, what it left open is let go."""
        key = entry.row.run_key
        entry.cannot_run = None
        self._writer.unpark(key)
        self._writer.release(row.number for row in self._work.parked.pop(key, ()))
        ends = self._work.ends.get(key) or OpenEnds()
        for row_key, seq, at, data in self._shard.writing().history:
            if row_key == key:  # it was stalled a moment ago
                ends.feed(HistoryRow(seq, at, data))
        self._writer.record(entry, terminated(entry.identity, self._rules.topics, ends, reason, now))

    def resume(self, entry: Entry, now: int) -> None:
        """It can run again."""
        tally = self._shard.writing().tally
        tally.stalled -= entry.row.condition == "stalled"
        tally.warnings.append(("run resumed", named(entry)))
        self._writer.change(entry, condition=None, reason=None)
        self._writer.owe(self._writer.notices.resumed(entry, _next_seq(entry), now))


def _next_seq(entry: Entry) -> int:
    return entry.live.next_seq if entry.live else 0
