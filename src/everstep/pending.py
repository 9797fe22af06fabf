"""What a run waits for, told from its history. Pure: events in, lines out."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from everstep.words import error_text, moment, until
from everstep_schemas import events

# What event `ref` stood for is over.
_ENDING = (
    events.ActivityCompleted,
    events.ActivityCancelled,
    events.TimerFired,
    events.TimerCancelled,
    events.ConditionMet,
    events.ChildCompleted,
    events.ChildFailed,
    events.ChildCancelled,
    events.CallbackCompleted,
    events.CallbackFailed,
    events.RequestAnswered,
    events.UpdateCompleted,
    events.UpdateFailed,
)


class Pending:
    """What a run waits for after the events added so far."""

    def __init__(self) -> None:
        self._open: dict[int, str] = {}
        self._activities: dict[int, str] = {}
        self._waits: dict[int, str] = {}
        self._answered: tuple[int, str] | None = None

    def __len__(self) -> int:
        return len(self._open)

    def lines(self) -> Iterator[str]:
        """What is open, longest first."""
        return (self._open[seq] for seq in sorted(self._open))

    def add(self, seq: int, at: datetime, event: events.AnyEvent) -> None:
        """Takes note of the next event."""
        if isinstance(event, _ENDING):
            self._open.pop(event.ref, None)
        else:
            self._begin(seq, at, event)
            self._activity(seq, at, event)
            self._signal(seq, event)

    def _begin(self, seq: int, at: datetime, event: events.AnyEvent) -> None:
        match event:
            case events.Started(start_at=datetime() as start_at) if start_at > at:
                self._open[seq] = f"its beginning at {moment(start_at)}"
            case events.TimerStarted(fire_at=fire_at):
                self._open[seq] = f"the time {moment(fire_at)}"
            case events.ConditionAwaited(what=what, deadline=deadline):
                self._open[seq] = f"a condition in {what}{until(deadline)}"
            case events.ChildStarted(workflow=workflow, workflow_id=workflow_id):
                self._open[seq] = f"child {workflow_id} ({workflow}), since {moment(at)}"
            case events.CallbackCreated(deadline=deadline):
                self._open[seq] = f"callback {seq}{until(deadline)}"
            case events.UpdateRequested(name=name):
                self._open[seq] = f"update {name} under way, since {moment(at)}"
            case events.SignalSent(name=name, workflow_id=workflow_id):
                self._open[seq] = f"signal {name} to reach {workflow_id}"
            case events.CancelSent(workflow_id=workflow_id):
                self._open[seq] = f"the request to cancel {workflow_id}"

    def _activity(self, seq: int, at: datetime, event: events.AnyEvent) -> None:
        match event:
            case events.ActivityScheduled(name=name):
                self._activities[seq] = name
                self._open[seq] = f"{name}, attempt 1, since {moment(at)}"
            case events.ActivityRetried(ref=ref, attempt=attempt):
                self._open[ref] = f"{self._activities[ref]}, attempt {attempt}, since {moment(at)}"
            case events.ActivityStarted(ref=ref, attempt=attempt, worker=worker):
                who = f"on {worker}" if worker else "on a worker"
                self._open[ref] = f"{self._activities[ref]}, attempt {attempt}, {who} since {moment(at)}"
            case events.ActivityReleased(ref=ref, attempt=attempt):
                self._open[ref] = f"{self._activities[ref]}, attempt {attempt}, for another worker since {moment(at)}"
            case events.ActivityFailed(ref=ref, retry_at=datetime() as retry_at):
                failed = f"attempt {event.attempt} failed ({error_text(event.error)})"
                self._open[ref] = f"{self._activities[ref]}: {failed}, next at {moment(retry_at)}"
            case events.ActivityFailed(ref=ref):
                self._open.pop(ref, None)

    def _signal(self, seq: int, event: events.AnyEvent) -> None:
        """A wait that is recorded has found nothing that came before; what comes next is for the oldest."""
        answered, self._answered = self._answered, None
        match event:
            case events.SignalAwaited(name=name, deadline=deadline):
                self._waits[seq] = name
                self._open[seq] = f"signal {name}{until(deadline)}"
            case events.SignalReceived(name=name):
                self._give(name)
            case events.SignalUnreadable() if answered is not None:
                # What has just come was put aside, so the wait for it goes on.
                self._open[answered[0]] = answered[1]
            case events.WaitCancelled(ref=ref) if ref in self._waits and ref not in self._open:
                self._give(self._waits[ref])
            case events.WaitCancelled(ref=ref):
                self._open.pop(ref, None)

    def _give(self, name: str) -> None:
        """Gives a signal to the oldest wait for it."""
        waiting = min((seq for seq in self._open if self._waits.get(seq) == name), default=None)
        self._answered = None if waiting is None else (waiting, self._open.pop(waiting))
