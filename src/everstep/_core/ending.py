"""Ending a run whose code cannot run: what it leaves behind follows from its history alone."""

from __future__ import annotations

from everstep._core.messages import messages_of
from everstep._core.model import Activation, HistoryRow, Identity
from everstep._core.rows import rows_of
from everstep_schemas import events
from everstep_schemas.events import ActivityScheduled, AnyEvent, OnParentClose, Terminated, decode_events
from everstep_schemas.names import Topics


class OpenEnds:
    """What a history leaves open. Feed it all rows, in order."""

    def __init__(self) -> None:
        self.next_seq = 1
        self.at = 0
        self._activities: dict[int, int] = {}
        self._children: dict[int, tuple[str, OnParentClose]] = {}
        self._updates: dict[int, str] = {}

    def feed(self, row: HistoryRow) -> None:
        self.next_seq = row.seq
        for event in decode_events(row.data):
            self._add(self.next_seq, event)
            self.next_seq += 1
        self.at = row.at

    def _add(self, seq: int, event: AnyEvent) -> None:
        match event:
            case events.ActivityScheduled():
                self._activities[seq] = 1
            case events.ActivityRetried():
                self._activities[event.ref] = event.attempt
            case events.ActivityFailed() if event.retry_at is not None:
                pass
            case events.ActivityCompleted() | events.ActivityFailed() | events.ActivityCancelled():
                self._activities.pop(event.ref, None)
            case events.ChildStarted():
                self._children[seq] = (event.workflow_id, event.on_parent_close)
            case events.ChildCompleted() | events.ChildFailed() | events.ChildCancelled():
                self._children.pop(event.ref, None)
            case events.UpdateRequested():
                self._updates[seq] = event.update_id
            case events.UpdateCompleted() | events.UpdateFailed():
                self._updates.pop(event.ref, None)

    def let_go(self) -> list[AnyEvent]:
        """The commands with which a run that is closed lets all of it go."""
        return [
            *(events.ActivityCancelled(ref=ref, attempt=attempt) for ref, attempt in self._activities.items()),
            *(
                events.ChildCancelled(ref=ref, workflow_id=workflow_id, how=how)
                for ref, (workflow_id, how) in self._children.items()
            ),
            *(
                events.UpdateFailed(ref=ref, update_id=update_id, error=events.RUN_ENDED)
                for ref, update_id in self._updates.items()
            ),
        ]


def terminated(identity: Identity, topics: Topics, ends: OpenEnds, reason: str, now: int) -> Activation:
    """The activation that terminates a run of which `ends` has seen the history, or which never began."""
    rows = rows_of(ends.next_seq, max(now, ends.at), [Terminated(reason=reason), *ends.let_go()])
    return Activation(rows, messages_of(identity, topics, rows, _no_activity), "terminated")


def _no_activity(ref: int) -> ActivityScheduled:
    raise LookupError(f"a termination refers to no activity, but event {ref} was asked for")
