"""A history outside of the database: its events, and files that hold one.

A file has a line of JSON for each event, as `everstep history ID --json` prints them. A first line of another kind may
name the run; its workflow stands in the first event.
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

_event_decoder = msgspec.json.Decoder(HistoryEvent)
_header_decoder = msgspec.json.Decoder(Header)


def written(header: Header, lines: Iterable[bytes]) -> bytes:
    """The content of a file."""
    return b"".join(line + b"\n" for line in (msgspec.json.encode(header), *lines))


def read(path: Path, workflow_id: str | None = None, run: int | None = None) -> History:
    """The history in a file; `workflow_id` and `run` go before what the file says. Raises `NoHistory`."""
    header, lines = split(path)
    header = header or Header(workflow_id="", run=1)
    history = [_event(path, number, line) for number, line in lines]
    return history_of(history, workflow_id or header.workflow_id, run or header.run)


def split(path: Path) -> tuple[Header | None, list[tuple[int, bytes]]]:
    """The first line, if it says whose history it is, and all other lines with their numbers."""
    lines = [(number, line) for number, line in enumerate(path.read_bytes().splitlines(), 1) if line.strip()]
    if not lines:
        raise NoHistory(f"{path} is empty")
    try:
        return _header_decoder.decode(lines[0][1]), lines[1:]
    except msgspec.DecodeError:
        return None, lines


def _event(path: Path, number: int, line: bytes) -> HistoryEvent:
    try:
        return _event_decoder.decode(line)
    except msgspec.DecodeError as error:
        raise NoHistory(f"{path}, line {number} is no event: {error}") from None
