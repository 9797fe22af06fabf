"""A run's history in words, for people who do not read code. Pure: events in, sentences out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import singledispatchmethod

import msgspec
from msgspec import UNSET, Raw, UnsetType

from everstep_schemas import events
from everstep_schemas.errors import ErrorInfo
from everstep_schemas.wire import Lifecycle, LifecycleType

_MOST_OF_A_VALUE = 80
_MOST_OF_AN_ERROR = 300
_NOTABLE_GAP = timedelta(minutes=1)
_FIRST = 1  # a run's beginning is an event like others
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
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def until(deadline: datetime | None) -> str:
    """The end of what has a deadline, after what it is."""
    return "" if deadline is None else f" until {moment(deadline)}"


def shorten(value: Raw | str | UnsetType, most: int = _MOST_OF_A_VALUE) -> str:
    """JSON or text, cut where it gets longer than `most` characters."""
    text = "" if value is UNSET else value if isinstance(value, str) else bytes(value).decode(errors="replace")
    return text if len(text) <= most else text[: most - 1] + "…"


def error_text(error: ErrorInfo) -> str:
    """An error on one line: `ConnectionError: the bank does not answer`."""
    first = shorten(error.message.strip().partition("\n")[0], _MOST_OF_AN_ERROR)
    return f"{error.type}: {first}" if first else error.type


def attribute_text(name: str, value: events.AttributeValue | None) -> str:
    """An attribute as it is given and searched for; null: it is gone."""
    return f"{name}={msgspec.json.encode(value).decode()}"


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
        if (name := _name(seq, event)) is not None:
            self._named[seq] = name
        yield Line(seq, at, self._sentence(event, at))

    def _of(self, ref: int) -> str:
        return self._named.get(ref, f"event {ref}")

    @singledispatchmethod
    def _sentence(self, event: events.Event, at: datetime) -> str:
        return type(event).__name__

    @_sentence.register
    def _(self, event: events.Started, at: datetime) -> str:
        what = f"{event.workflow} (version {event.version}) started with {_arguments(event.args, event.kwargs)}"
        again = f", attempt {event.attempt}" if event.attempt > 1 else ""
        parent = f", for {event.parent.workflow_id}" if event.parent else ""
        later = f", to begin at {moment(event.start_at)}" if event.start_at and event.start_at > at else ""
        return f"{what}{again}{parent}{later}"

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
        by = f" by {event.worker}" if event.worker else ""
        return f"{self._of(event.ref)} attempt {event.attempt} taken up{by}"

    @_sentence.register
    def _(self, event: events.ActivityReleased, at: datetime) -> str:
        return f"{self._of(event.ref)} attempt {event.attempt} given to workers again: who had it is silent"

    @_sentence.register
    def _(self, event: events.ActivityCancelled, at: datetime) -> str:
        return f"{self._of(event.ref)} cancelled"

    @_sentence.register
    def _(self, event: events.TimerStarted, at: datetime) -> str:
        return f"timer set for {span(event.fire_at - at)}, until {moment(event.fire_at)}"

    @_sentence.register
    def _(self, event: events.TimerFired, at: datetime) -> str:
        if event.ref == _FIRST:
            return "its code begins"
        what = "no heartbeat came in time" if event.heartbeat else "the time is up"
        return f"{self._of(event.ref)}: {what}"

    @_sentence.register
    def _(self, event: events.TimerCancelled, at: datetime) -> str:
        return f"{self._of(event.ref)}: no longer needed"

    @_sentence.register
    def _(self, event: events.SignalAwaited, at: datetime) -> str:
        return f"waiting for {event.name}{until(event.deadline)}"

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
        return "callback created" + (f", open until {moment(event.deadline)}" if event.deadline else "")

    @_sentence.register
    def _(self, event: events.CallbackCompleted, at: datetime) -> str:
        return f"{self._of(event.ref)} completed with {shorten(event.value)}"

    @_sentence.register
    def _(self, event: events.CallbackFailed, at: datetime) -> str:
        return f"{self._of(event.ref)} failed: {error_text(event.error)}"

    @_sentence.register
    def _(self, event: events.ConditionAwaited, at: datetime) -> str:
        return f"waiting for {event.what}{until(event.deadline)}"

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
        return ", ".join(attribute_text(name, value) for name, value in event.values.items())

    @_sentence.register
    def _(self, event: events.PatchMarked, at: datetime) -> str:
        return f"takes the way of change {event.id}"

    @_sentence.register
    def _(self, event: events.SideEffectRecorded, at: datetime) -> str:
        return f"a side effect gave {shorten(event.value)}"

    @_sentence.register
    def _(self, event: events.Continued, at: datetime) -> str:
        if event.error is None:
            return f"goes on as a new run of {event.workflow} with {_arguments(event.args, event.kwargs)}"
        again = f"again in {span(event.retry_at - at)}" if event.retry_at else "again"
        return f"failed: {error_text(event.error)}, begun {again} as a new run"

    @_sentence.register
    def _(self, event: events.TimedOut, at: datetime) -> str:
        return "timed out"

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


def _name(seq: int, event: events.AnyEvent) -> str | None:
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
            return f"callback {seq}"
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
    error = error_text(fact.error) if fact.error else "no reason given"
    match type:
        case LifecycleType.STARTED:
            return f"{fact.workflow} started" + (f", for {fact.parent.workflow_id}" if fact.parent else "")
        case LifecycleType.COMPLETED:
            return f"completed with {shorten(fact.result) or 'null'}"
        case LifecycleType.FAILED:
            return f"failed: {error}"
        case LifecycleType.CONTINUED:
            return f"failed: {error}, begun again as a new run" if fact.error else "goes on as a new run"
        case LifecycleType.STATUS_CHANGED | LifecycleType.MILESTONE:
            return f"{'status' if type == LifecycleType.STATUS_CHANGED else 'milestone'}: {shorten(fact.status or '')}"
        case LifecycleType.ACTIVITY_FAILED:
            then = f"next in {span(fact.retry_at - fact.at)}" if fact.retry_at else "for good"
            return f"{fact.activity} attempt {fact.attempt} failed: {error}, {then}"
        case LifecycleType.SIGNAL_UNREADABLE:
            return f"signal {fact.name} put aside" + _because(fact.reason or "")
        case LifecycleType.UPDATE_COMPLETED:
            return f"update {fact.submission_id} answered with {shorten(fact.result) or 'null'}"
        case LifecycleType.UPDATE_FAILED | LifecycleType.CALLBACK_FAILED:
            return f"{type.split('.')[1]} failed: {error}"
        case LifecycleType.CALLBACK_COMPLETED:
            return "callback completed"
        case LifecycleType.SUBMISSION_REJECTED:
            return "submission rejected" + _because(fact.reason or "")
        case _:
            return type.rpartition(".")[2].replace("_", " ") + _because(fact.reason or "")


def _because(reason: str) -> str:
    return f": {shorten(reason)}" if reason else ""
