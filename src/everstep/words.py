"""A run's history in words, for people who do not read code. Pure: events in, sentences out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import singledispatchmethod

from msgspec import UNSET, Raw, UnsetType

from everstep_schemas import events
from everstep_schemas.errors import ErrorInfo

_MOST_OF_A_VALUE = 80
_NOTABLE_GAP = timedelta(minutes=1)
_UNITS = (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1))


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


def shorten(value: Raw | str | UnsetType) -> str:
    """JSON or text, cut where it gets long."""
    text = "" if value is UNSET else value if isinstance(value, str) else bytes(value).decode(errors="replace")
    return text if len(text) <= _MOST_OF_A_VALUE else text[: _MOST_OF_A_VALUE - 1] + "…"


def error_text(error: ErrorInfo) -> str:
    """An error on one line: `ConnectionError: the bank does not answer`."""
    first = shorten(error.message.strip().partition("\n")[0])
    return f"{error.type}: {first}" if first else error.type


def story(history: Iterable[tuple[int, datetime, events.AnyEvent]]) -> Iterator[Line]:
    """The events of one run, from its first, as sentences, with a remark wherever the run lay idle for long."""
    teller = _Teller()
    before: datetime | None = None
    for seq, at, event in history:
        if before is not None and at - before >= _NOTABLE_GAP:
            yield Line(None, at, f"resumed after {span(at - before)}")
        before = at
        yield Line(seq, at, teller.tell(seq, at, event))


class _Teller:
    """Remembers what later events refer to."""

    def __init__(self) -> None:
        self._named: dict[int, str] = {}

    def tell(self, seq: int, at: datetime, event: events.AnyEvent) -> str:
        if (name := _name(event)) is not None:
            self._named[seq] = name
        return self._sentence(event, at)

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


def _name(event: events.AnyEvent) -> str | None:
    """What later events call this one."""
    match event:
        case events.ActivityScheduled(name=name):
            return name
        case events.TimerStarted(fire_at=at):
            return f"timer until {moment(at)}"
        case events.SignalAwaited(name=name):
            return f"waiting for {name}"
        case _:
            return None


def _arguments(args: Raw, kwargs: Raw | UnsetType) -> str:
    text = shorten(bytes(args).decode(errors="replace").strip().removeprefix("[").removesuffix("]"))
    named = "" if kwargs is UNSET else shorten(kwargs)
    return ", ".join(part for part in (text, named) if part) or "nothing"


def _because(reason: str) -> str:
    return f": {shorten(reason)}" if reason else ""
