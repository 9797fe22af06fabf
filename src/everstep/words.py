"""A run's history in words, for people who do not read code. Pure: events in, sentences out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import singledispatchmethod

from msgspec import UNSET, Raw, UnsetType

from everstep_schemas import events
from everstep_schemas.errors import ErrorInfo
from everstep_schemas.wire import Lifecycle, LifecycleType

_MOST_OF_A_VALUE = 80
_MOST_OF_AN_ERROR = 300
_NOTABLE_GAP = timedelta(minutes=1)
_UNITS = (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1))


Entry = tuple[int, datetime, events.AnyEvent]


@dataclass(frozen=True, slots=True)
class Line:
    """One thing that happened. `seq` is the number of its event, or None for a remark between two events."""

    seq: int | None
    at: datetime
    text: str


def span(length: timedelta) -> str:
    """A length of time in its two largest units: `2 h 5 min`, `1.5 s`, `20 ms`."""
    seconds = abs(length.total_seconds())
    if seconds < 1:
        return f"{seconds * 1000:.3g} ms"
    if seconds < 60:
        return f"{seconds:.3g} s"
    rest = round(seconds)
    counts: list[tuple[int, str]] = []
    for unit, size in _UNITS:
        count, rest = divmod(rest, size)
        if count or counts:
            counts.append((count, unit))
    return " ".join(f"{count} {unit}" for count, unit in counts[:2] if count)


def moment(at: datetime) -> str:
    """An instant to the second: `2026-11-21 14:02:05 UTC`."""
    return f"{at:%Y-%m-%d %H:%M:%S} UTC"


def shorten(value: Raw | str | UnsetType, most: int = _MOST_OF_A_VALUE) -> str:
    """JSON or text, cut where it gets longer than `most` characters."""
    text = "" if value is UNSET else value if isinstance(value, str) else bytes(value).decode(errors="replace")
    return text if len(text) <= most else text[: most - 1] + "…"


def error_text(error: ErrorInfo) -> str:
    """An error on one line: `ConnectionError: the bank does not answer`."""
    first = shorten(error.message.strip().partition("\n")[0], _MOST_OF_AN_ERROR)
    return f"{error.type}: {first}" if first else error.type


def story(history: Iterable[Entry]) -> Iterator[Line]:
    """The events of one run, from its first, as sentences, with a remark wherever the run lay idle for long."""
    teller = Teller()
    for entry in history:
        yield from teller.tell(*entry)


class Teller:
    """Tells one history as it is read; remembers what later events refer to."""

    def __init__(self) -> None:
        self._named: dict[int, str] = {}
        self._before: datetime | None = None

    def tell(self, seq: int, at: datetime, event: events.AnyEvent) -> Iterator[Line]:
        """What there is to say at the next event."""
        if self._before is not None and at - self._before >= _NOTABLE_GAP:
            yield Line(None, at, f"resumed after {span(at - self._before)}")
        self._before = at
        if (name := _name(event)) is not None:
            self._named[seq] = name
        yield Line(seq, at, self._sentence(event, at))

    def _of(self, ref: int) -> str:
        return self._named.get(ref, f"event {ref}")

    @singledispatchmethod
    def _sentence(self, event: events.Event, at: datetime) -> str:
        return type(event).__name__

    @_sentence.register
    def _(self, event: events.Started, at: datetime) -> str:
        return f"{event.workflow} (version {event.version}) started with {_arguments(event.args, event.kwargs)}"

    @_sentence.register
    def _(self, event: events.ActivityScheduled, at: datetime) -> str:
        return f"{event.name} called with {_arguments(event.args, event.kwargs)}"

    @_sentence.register
    def _(self, event: events.ActivityCompleted, at: datetime) -> str:
        attempt = f" at attempt {event.attempt}" if event.attempt > 1 else ""
        return f"{self._of(event.ref)} returned {shorten(event.value)}{attempt}"

    @_sentence.register
    def _(self, event: events.ActivityFailed, at: datetime) -> str:
        what = f"{self._of(event.ref)} attempt {event.attempt} failed: {error_text(event.error)}"
        return f"{what}, next in {span(event.retry_at - at)}" if event.retry_at else f"{what}, for good"

    @_sentence.register
    def _(self, event: events.ActivityRetried, at: datetime) -> str:
        return f"{self._of(event.ref)} attempt {event.attempt} begins"

    @_sentence.register
    def _(self, event: events.ActivityStarted, at: datetime) -> str:
        return f"{self._of(event.ref)} attempt {event.attempt} taken up" + _by(event.worker)

    @_sentence.register
    def _(self, event: events.ActivityReleased, at: datetime) -> str:
        return f"{self._of(event.ref)} attempt {event.attempt} given to workers again: the one that had it is silent"

    @_sentence.register
    def _(self, event: events.ActivityCancelled, at: datetime) -> str:
        return f"{self._of(event.ref)} cancelled"

    @_sentence.register
    def _(self, event: events.TimerStarted, at: datetime) -> str:
        return f"timer set for {span(event.fire_at - at)}, until {moment(event.fire_at)}"

    @_sentence.register
    def _(self, event: events.TimerFired, at: datetime) -> str:
        return f"{self._of(event.ref)}: the time is up"

    @_sentence.register
    def _(self, event: events.TimerCancelled, at: datetime) -> str:
        return f"{self._of(event.ref)}: no longer needed"

    @_sentence.register
    def _(self, event: events.SignalAwaited, at: datetime) -> str:
        return f"waiting for {event.name}" + (f" until {moment(event.deadline)}" if event.deadline else "")

    @_sentence.register
    def _(self, event: events.WaitCancelled, at: datetime) -> str:
        return f"{self._of(event.ref)}: no longer needed"

    @_sentence.register
    def _(self, event: events.SignalReceived, at: datetime) -> str:
        return f"signal {event.name} received: {shorten(event.value)}"

    @_sentence.register
    def _(self, event: events.SignalUnreadable, at: datetime) -> str:
        return f"signal {event.name} put aside: {shorten(event.reason)}"

    @_sentence.register
    def _(self, event: events.SignalSent, at: datetime) -> str:
        return f"signal {event.name} sent to {event.workflow_id}: {shorten(event.value)}"

    @_sentence.register
    def _(self, event: events.CancelSent, at: datetime) -> str:
        return f"{event.workflow_id} asked to end" + _because(event.reason)

    @_sentence.register
    def _(self, event: events.RequestAnswered, at: datetime) -> str:
        return f"{self._of(event.ref)}: " + (error_text(event.error) if event.error else "it has arrived")

    @_sentence.register
    def _(self, event: events.ChildStarted, at: datetime) -> str:
        return f"{event.workflow} started as {event.workflow_id} with {_arguments(event.args, event.kwargs)}"

    @_sentence.register
    def _(self, event: events.ChildCompleted, at: datetime) -> str:
        return f"{self._of(event.ref)} returned {shorten(event.value)}"

    @_sentence.register
    def _(self, event: events.ChildFailed, at: datetime) -> str:
        why = error_text(event.error) if event.error else shorten(event.reason)
        return f"{self._of(event.ref)} {event.status.replace('_', ' ')}" + _because(why)

    @_sentence.register
    def _(self, event: events.ChildCancelled, at: datetime) -> str:
        what = {"cancel": "asked to end", "terminate": "to be terminated", "abandon": "left alone"}[event.how]
        return f"{self._of(event.ref)}: no longer needed, {what}"

    @_sentence.register
    def _(self, event: events.CallbackCreated, at: datetime) -> str:
        return "callback created" + (f", until {moment(event.deadline)}" if event.deadline else "")

    @_sentence.register
    def _(self, event: events.CallbackCompleted, at: datetime) -> str:
        return f"{self._of(event.ref)} completed with {shorten(event.value)}"

    @_sentence.register
    def _(self, event: events.CallbackFailed, at: datetime) -> str:
        return f"{self._of(event.ref)} failed: {error_text(event.error)}"

    @_sentence.register
    def _(self, event: events.ConditionAwaited, at: datetime) -> str:
        return f"waiting for {event.what}" + (f" until {moment(event.deadline)}" if event.deadline else "")

    @_sentence.register
    def _(self, event: events.ConditionMet, at: datetime) -> str:
        return f"{self._of(event.ref)}: it is true"

    @_sentence.register
    def _(self, event: events.UpdateRequested, at: datetime) -> str:
        return f"update {event.name} requested: {shorten(event.value)}"

    @_sentence.register
    def _(self, event: events.UpdateCompleted, at: datetime) -> str:
        return f"{self._of(event.ref)} answered with {shorten(event.value)}"

    @_sentence.register
    def _(self, event: events.UpdateFailed, at: datetime) -> str:
        return f"{self._of(event.ref)} failed: {error_text(event.error)}"

    @_sentence.register
    def _(self, event: events.MilestoneReached, at: datetime) -> str:
        return f"milestone: {shorten(event.text)}"

    @_sentence.register
    def _(self, event: events.AttributesSet, at: datetime) -> str:
        return "attributes: " + ", ".join(f"{name} = {value!r}" for name, value in event.values.items())

    @_sentence.register
    def _(self, event: events.PatchMarked, at: datetime) -> str:
        return f"takes the way of patch {event.id}"

    @_sentence.register
    def _(self, event: events.SideEffectRecorded, at: datetime) -> str:
        return f"a side effect gave {shorten(event.value)}"

    @_sentence.register
    def _(self, event: events.Continued, at: datetime) -> str:
        if event.error is None:
            return f"goes on as a new run of {event.workflow} with {_arguments(event.args, event.kwargs)}"
        again = f", again in {span(event.retry_at - at)}" if event.retry_at else ""
        return f"failed: {error_text(event.error)}{again}"

    @_sentence.register
    def _(self, event: events.TimedOut, at: datetime) -> str:
        return "the run has reached its timeout"

    @_sentence.register
    def _(self, event: events.CancelRequested, at: datetime) -> str:
        return "cancellation requested" + _because(event.reason)

    @_sentence.register
    def _(self, event: events.StatusSet, at: datetime) -> str:
        return f"status: {shorten(event.text)}"

    @_sentence.register
    def _(self, event: events.Completed, at: datetime) -> str:
        return f"completed with {shorten(event.value)}"

    @_sentence.register
    def _(self, event: events.Failed, at: datetime) -> str:
        return f"failed: {error_text(event.error)}"

    @_sentence.register
    def _(self, event: events.Cancelled, at: datetime) -> str:
        return "cancelled" + _because(event.reason)

    @_sentence.register
    def _(self, event: events.Terminated, at: datetime) -> str:
        return "terminated" + _because(event.reason)


class Pending:
    """What a run waits for after the events added so far."""

    def __init__(self) -> None:
        self._open: dict[int, str] = {}
        self._activities: dict[int, str] = {}
        self._waits: dict[int, str] = {}
        self._unread: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._open)

    def lines(self) -> Iterator[str]:
        """What is open, longest first."""
        yield from self._open.values()

    def add(self, seq: int, at: datetime, event: events.AnyEvent) -> None:
        """Takes note of the next event."""
        match event:
            case events.ActivityScheduled(name=name):
                self._activities[seq] = name
                self._open[seq] = f"{name}, attempt 1, since {moment(at)}"
            case events.ActivityRetried(ref=ref, attempt=attempt):
                self._open[ref] = f"{self._activities[ref]}, attempt {attempt}, since {moment(at)}"
            case events.ActivityFailed(ref=ref, retry_at=datetime() as retry_at):
                failed = f"attempt {event.attempt} failed ({error_text(event.error)})"
                self._open[ref] = f"{self._activities[ref]}: {failed}, next at {moment(retry_at)}"
            case events.Started(start_at=datetime() as start_at) if start_at > at:
                self._open[seq] = f"its beginning at {moment(start_at)}"
            case events.TimerStarted(fire_at=fire_at):
                self._open[seq] = f"the time {moment(fire_at)}"
            case events.ConditionAwaited(what=what, deadline=deadline):
                self._open[seq] = f"a condition in {what}" + (f" until {moment(deadline)}" if deadline else "")
            case events.ChildStarted(workflow=workflow, workflow_id=workflow_id):
                self._open[seq] = f"child run {workflow_id} of {workflow}, since {moment(at)}"
            case events.CallbackCreated(deadline=deadline):
                self._open[seq] = f"callback {seq}" + (f" until {moment(deadline)}" if deadline else "")
            case events.SignalSent(name=name, workflow_id=workflow_id):
                self._open[seq] = f"signal {name} to reach {workflow_id}"
            case events.CancelSent(workflow_id=workflow_id):
                self._open[seq] = f"{workflow_id} to hear that it is to end"
            case events.SignalAwaited(name=name, deadline=deadline):
                self._waits[seq] = name
                self._open[seq] = f"signal {name}" + (f" until {moment(deadline)}" if deadline else "")
                self._match(name)
            case events.SignalReceived(name=name):
                self._unread[name] += 1
                self._match(name)
            case events.WaitCancelled(ref=ref) if ref in self._waits and ref not in self._open:
                # What the wait had been given goes back and waits for the next.
                self._unread[self._waits[ref]] += 1
                self._match(self._waits[ref])
            case (
                events.ActivityCompleted(ref=ref)
                | events.ActivityFailed(ref=ref)
                | events.ActivityCancelled(ref=ref)
                | events.TimerFired(ref=ref)
                | events.TimerCancelled(ref=ref)
                | events.WaitCancelled(ref=ref)
                | events.ConditionMet(ref=ref)
                | events.ChildCompleted(ref=ref)
                | events.ChildFailed(ref=ref)
                | events.ChildCancelled(ref=ref)
                | events.CallbackCompleted(ref=ref)
                | events.CallbackFailed(ref=ref)
                | events.RequestAnswered(ref=ref)
            ):
                self._open.pop(ref, None)

    def _match(self, name: str) -> None:
        """Gives the oldest unread signal of a name to the oldest wait for it."""
        waiting = next((seq for seq in self._open if self._waits.get(seq) == name), None)
        if waiting is not None and self._unread[name]:
            self._unread[name] -= 1
            del self._open[waiting]


def _name(event: events.AnyEvent) -> str | None:
    """What later events call this one."""
    match event:
        case events.ActivityScheduled(name=name):
            return name
        case events.TimerStarted(fire_at=at):
            return f"timer until {moment(at)}"
        case events.SignalAwaited(name=name):
            return f"waiting for {name}"
        case events.ConditionAwaited(what=what):
            return f"waiting for {what}"
        case events.ChildStarted(workflow_id=workflow_id):
            return f"child {workflow_id}"
        case events.CallbackCreated():
            return "the callback"
        case events.SignalSent(name=name, workflow_id=workflow_id):
            return f"signal {name} to {workflow_id}"
        case events.CancelSent(workflow_id=workflow_id):
            return f"the request to {workflow_id}"
        case events.UpdateRequested(name=name):
            return f"update {name}"
        case _:
            return None


def _arguments(args: Raw, kwargs: Raw | UnsetType) -> str:
    text = shorten(bytes(args).decode(errors="replace").strip().removeprefix("[").removesuffix("]"))
    named = "" if kwargs is UNSET else shorten(kwargs)
    return ", ".join(part for part in (text, named) if part) or "nothing"


def fact_text(type: str, fact: Lifecycle) -> str:
    """A record of the lifecycle topic as a sentence about its run."""
    match type:
        case LifecycleType.STARTED:
            return f"{fact.workflow} started"
        case LifecycleType.COMPLETED:
            return f"completed with {shorten(fact.result) or 'null'}"
        case LifecycleType.FAILED:
            return f"failed: {error_text(fact.error) if fact.error else 'no reason given'}"
        case LifecycleType.STATUS_CHANGED:
            return f"status: {shorten(fact.status or '')}"
        case LifecycleType.ACTIVITY_FAILED:
            error = error_text(fact.error) if fact.error else "no reason given"
            then = f"next in {span(fact.retry_at - fact.at)}" if fact.retry_at else "for good"
            return f"{fact.activity} attempt {fact.attempt} failed: {error}, {then}"
        case LifecycleType.SUBMISSION_REJECTED:
            return "submission rejected" + _because(fact.reason or "")
        case _:
            return type.rpartition(".")[2].replace("_", " ") + _because(fact.reason or "")


def _because(reason: str) -> str:
    return f": {shorten(reason)}" if reason else ""


def _by(worker: str | None) -> str:
    return f" by {worker}" if worker else ""
