"""A history outside of the database: its events, and files that hold one or more.

A file has a line of JSON for each event, as `everstep history ID --json` prints them. Each line may name the run, or a
line of another kind before them does; its workflow stands in the first event.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path

import msgspec

from everstep._core.engine import HistoryRow, Identity
from everstep._core.timers import instant, micros
from everstep.errors import EverstepError
from everstep_schemas import events, names
from everstep_schemas.events import AnyEvent


class HistoryEvent(msgspec.Struct, frozen=True):
    """One event of a history with its number and the instant of its activation."""

    seq: int
    at: datetime
    event: AnyEvent

    @property
    def kind(self) -> str:
        """The kind of the event as in JSON: `activity_completed`."""
        return str(self.event.__struct_config__.tag)


class Header(msgspec.Struct, frozen=True, tag_field="history", tag="everstep"):
    """The first line of a file: whose history it is."""

    workflow_id: str
    run: int


class HistoryLine(msgspec.Struct, frozen=True, kw_only=True):
    """A line of a file: one event, and whose it is if no header says so."""

    workflow_id: str = ""
    run: int = 1
    seq: int
    at: datetime
    event: AnyEvent


class _Kind(msgspec.Struct, frozen=True):
    history: str = ""


class NoHistory(EverstepError):
    """A file does not hold a history; the message says what is wrong and where."""


class History(msgspec.Struct, frozen=True):
    """A run's rows, with all that replaying them needs."""

    identity: Identity
    rows: list[HistoryRow]


def events_of(rows: Iterable[HistoryRow]) -> Iterator[HistoryEvent]:
    """The events in stored rows, in order."""
    for row in rows:
        for seq, event in enumerate(events.decode_events(row.data), row.seq):
            yield HistoryEvent(seq, instant(row.at), event)


def rows_of(history: Sequence[HistoryEvent]) -> list[HistoryRow]:
    """Rows with these events, one for each activation."""
    rows: list[HistoryRow] = []
    happened: list[AnyEvent] = []
    for position, one in enumerate(history):
        happened.append(one.event)
        following = history[position + 1] if position + 1 < len(history) else None
        if following is None or isinstance(following.event, events.INPUT_TYPES):
            seq = one.seq + 1 - len(happened)
            rows.append(HistoryRow(seq, micros(one.at), events.encode_events(happened)))
            happened = []
    return rows


def history_of(events_: Sequence[HistoryEvent], workflow_id: str, run: int) -> History:
    """The history with these events. Raises `NoHistory` if they do not begin with a run's start."""
    if not events_ or not isinstance(events_[0].event, events.Started):
        raise NoHistory("a history begins with the event `started`, and this one does not")
    started = events_[0].event
    identity = Identity(
        run_key=names.run_key(0, 1),
        workflow_id=workflow_id,
        run=run,
        workflow=started.workflow,
        version=started.version,
        nonce=started.nonce,
        parent=started.parent,
    )
    return History(identity, rows_of(events_))


# ---- files

_line_decoder = msgspec.json.Decoder(HistoryLine)
_header_decoder = msgspec.json.Decoder(Header)
_kind_decoder = msgspec.json.Decoder(_Kind)


def written(header: Header, lines: Iterable[bytes]) -> bytes:
    """The content of a file."""
    return b"".join(line + b"\n" for line in (msgspec.json.encode(header), *lines))


def read(path: Path, workflow_id: str | None = None, run: int | None = None) -> History:
    """The history in a file; `workflow_id` and `run` go before what the file says. Raises `NoHistory`."""
    _, lines = split(path)
    if not lines:
        raise NoHistory(f"{path} holds no event, and a history begins with the event `started`")
    history, *more = read_all(path.read_bytes().splitlines(), str(path))
    if more:
        raise NoHistory(f"{path} holds {len(more) + 1} histories, not one")
    identity = msgspec.structs.replace(
        history.identity, workflow_id=workflow_id or history.identity.workflow_id, run=run or history.identity.run
    )
    return History(identity, history.rows)


def read_all(lines: Iterable[bytes], name: str) -> Iterator[History]:
    """The histories in the lines of a file with this name, one after the other. Raises `NoHistory`."""
    reading = _Reading(name)
    for number, line in enumerate(lines, 1):
        if line.strip() and (history := reading.take(number, line)) is not None:
            yield history
    if (history := reading.end()) is not None:
        yield history


class _Reading:
    """Collects the events of the history that is being read."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._header: Header | None = None
        self._whose: Header | None = None
        self._events: list[HistoryEvent] = []

    def take(self, number: int, line: bytes) -> History | None:
        """The next line; gives the history before it if it begins another."""
        where = f"{self._name}, line {number}"
        header = _header(line)
        if header is not None:
            ended, self._header = self.end(), header
            return ended
        event = _event(line, where)
        whose = self._header or Header(event.workflow_id, event.run)
        another = bool(self._events) and (event.seq == 1 or whose != self._whose)
        ended = self.end() if another else None
        wanted = self._events[-1].seq + 1 if self._events else 1
        if event.seq != wanted:
            what = f"{where}: event {event.seq} of {whose.workflow_id!r} stands where {wanted} should"
            raise NoHistory(f"{what}: the lines of a run stand together, from its first event on")
        self._whose = whose
        self._events.append(HistoryEvent(event.seq, event.at, event.event))
        return ended

    def end(self) -> History | None:
        """The history that has been read, if there is one."""
        collected, self._events = self._events, []
        if not collected or self._whose is None:
            return None
        return history_of(collected, self._whose.workflow_id, self._whose.run)


def split(path: Path) -> tuple[Header | None, list[tuple[int, bytes]]]:
    """The first line, if it says whose history it is, and all other lines with their numbers."""
    lines = [(number, line) for number, line in enumerate(path.read_bytes().splitlines(), 1) if line.strip()]
    if not lines:
        raise NoHistory(f"{path} is empty")
    header = _header(lines[0][1])
    return header, lines if header is None else lines[1:]


def _header(line: bytes) -> Header | None:
    """The header in a line; an event's line names its run as well, so the tag decides."""
    try:
        return _header_decoder.decode(line) if _kind_decoder.decode(line).history else None
    except (msgspec.DecodeError, RecursionError):
        return None


def _event(line: bytes, where: str) -> HistoryLine:
    try:
        event = _line_decoder.decode(line)
    except (msgspec.DecodeError, RecursionError) as error:
        raise NoHistory(f"{where} is no event: {error}") from None
    if event.seq == 1 and not isinstance(event.event, events.Started):
        raise NoHistory(f"{where}: a history begins with the event `started`")
    return event
