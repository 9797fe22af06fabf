"""Writes decisions into the draft of a shard's next commit: rows, messages, wake-ups, parked inputs."""

from __future__ import annotations

from collections.abc import Iterable

from everstep._core.engine import Activation
from everstep_orchestrator.pipeline.drafting import Entry
from everstep_orchestrator.pipeline.notices import Notices
from everstep_orchestrator.pipeline.state import Shard
from everstep_orchestrator.store import HeartbeatRow, ParkedRow
from everstep_schemas import events, wire
from everstep_schemas.names import Topics
from everstep_schemas.wire import ParkedInput, encoder

SECOND = 1_000_000


class Writer:
    """The pen of one shard."""

    def __init__(self, shard: Shard, topics: Topics) -> None:
        self.shard = shard
        self.notices = Notices(topics, shard.number)

    def owe(self, message: wire.Outgoing) -> None:
        """A message that belongs to no activation."""
        self.shard.writing().bodies.append(message)

    def reject(self, workflow_id: str, asked: wire.Submission | wire.Inbox, source: str, reason: str, now: int) -> None:
        """What was asked of an id has no effect, and its sender is told why."""
        self.owe(self.notices.rejected(workflow_id, source, reason, now))
        self.shard.writing().tally.rejected.append(type(asked).__name__.lower())

    def answer_again(
        self, entry: Entry, seq: int, answer: events.UpdateCompleted | events.UpdateFailed, now: int
    ) -> None:
        """Whoever asks for an update again gets the answer that it had."""
        self.owe(self.notices.answered_before(entry, seq, answer, now))

    def keep_heartbeat(self, entry: Entry, row: HeartbeatRow) -> None:
        """Keeps what was said of the progress of something that the run waits for."""
        entry.said = True
        entry.touched = self.shard.writing().commit_no
        self.shard.writing().keep_heartbeat(row)

    def change(self, entry: Entry, **columns: object) -> None:
        """Sets columns of a run's row."""
        entry.change(**columns)
        self.shard.writing().change(entry)

    def park(self, entry: Entry, owed: ParkedInput) -> None:
        """Keeps an input for a run that cannot run now."""
        self.keep(
            ParkedRow(
                shard=self.shard.number,
                number=self.shard.next_number(),
                workflow_id=entry.row.workflow_id,
                run_key=entry.row.run_key,
                expires_at=None,
                data=encoder.encode(owed),
            )
        )
        entry.touched = self.shard.writing().commit_no

    def keep(self, row: ParkedRow) -> None:
        draft = self.shard.writing()
        draft.parked.append(row)
        draft.tally.parked += 1

    def unpark(self, key: int) -> None:
        """What this draft was to keep for a run is not wanted any more."""
        draft = self.shard.writing()
        left = [row for row in draft.parked if row.run_key != key]
        draft.tally.parked -= len(draft.parked) - len(left)
        draft.parked = left

    def release(self, numbers: Iterable[int]) -> None:
        """Parked inputs that are applied now, or never."""
        draft, before = self.shard.writing(), len(self.shard.writing().unparked)
        draft.unparked.extend(numbers)
        draft.tally.parked -= len(draft.unparked) - before

    def record(self, entry: Entry, activation: Activation) -> None:
        draft = self.shard.writing()
        draft.record(entry, activation)
        if activation.status_changed:
            entry.change(custom_status=activation.custom_status)
            draft.change(entry)
        if activation.attributes_changed and entry.live is not None:
            attributes = entry.live.attributes
            entry.change(attributes=None if attributes is None else attributes.decode())
            draft.change(entry)
        if activation.closed:
            self._close(entry, activation)
        else:
            self.lower_wakeup(entry)

    def _close(self, entry: Entry, activation: Activation) -> None:
        draft, closed_at = self.shard.writing(), activation.rows[-1].at
        draft.tally.stalled -= entry.row.condition == "stalled"
        entry.change(status=activation.closed, closed_at=closed_at, condition=None, reason=None, next_wakeup_at=None)
        entry.evict()
        if entry.said:
            draft.silence(entry.row.run_key)
        if activation.unread:
            draft.tally.warnings.append(
                ("run ended with unread signals", {**named(entry), "unread": activation.unread})
            )
        self.shard.wakeups.discard(entry.row.run_key)
        draft.change(entry)
        draft.closed.append(entry)
        row = entry.row
        draft.tally.closed.append((row.workflow, row.status, (closed_at - row.started_at) / SECOND))

    def lower_wakeup(self, entry: Entry) -> None:
        """The stored instant is only a lower bound, so only an earlier one is written."""
        at = entry.live.wakeup_at() if entry.live else None
        if at is None:
            return
        if at <= self.shard.wakeups_known_until:
            self.shard.wakeups.add(entry.row.run_key, at)
        if entry.row.next_wakeup_at is None or at < entry.row.next_wakeup_at:
            entry.change(next_wakeup_at=at)
            self.shard.writing().change(entry)

    def correct_wakeup(self, entry: Entry) -> None:
        at = entry.live.wakeup_at() if entry.live else None
        if at is not None and at <= self.shard.wakeups_known_until:
            self.shard.wakeups.add(entry.row.run_key, at)
        if entry.open and entry.row.next_wakeup_at != at:
            entry.change(next_wakeup_at=at)
            self.shard.writing().change(entry)


def named(entry: Entry) -> dict[str, object]:
    """A run as logs name it."""
    row = entry.row
    return {"workflow_id": row.workflow_id, "run": row.run, "workflow": row.workflow, "version": row.version}
