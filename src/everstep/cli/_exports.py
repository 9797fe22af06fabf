"""Histories in files: what `everstep history ID --json` prints, of any number of runs, one after the other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime

import msgspec

from everstep._core.model import HistoryRow, Identity
from everstep._core.timers import micros
from everstep._replaying import Recorded
from everstep_schemas import events


class ExportedEvent(msgspec.Struct, frozen=True):
    """A line of a file: one event of a run's history."""

    workflow_id: str
    run: int
    seq: int
    at: datetime
    event: events.AnyEvent


class NoHistory(ValueError):
    """The text is no history; the message says where and why."""


_decoder = msgspec.json.Decoder(ExportedEvent)


def histories(lines: Iterable[bytes], name: str) -> Iterator[Recorded]:
    """The histories in the lines of a file with this name. Raises `NoHistory`."""
    collected: list[ExportedEvent] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        event = _event(line, f"{name}, line {number}")
        before = collected[-1] if collected else None
        if before is not None and (event.seq == 1 or _run(event) != _run(before)):
            yield _recorded(collected)
            collected, before = [], None
        wanted = 1 if before is None else before.seq + 1
        if event.seq != wanted:
            where = f"{name}, line {number}: event {event.seq} of {event.workflow_id!r} stands where {wanted} should"
            raise NoHistory(f"{where}: the lines of a run stand together, from its first event on")
        collected.append(event)
    if collected:
        yield _recorded(collected)


def _run(event: ExportedEvent) -> tuple[str, int]:
    return event.workflow_id, event.run


def _event(line: bytes, where: str) -> ExportedEvent:
    try:
        event = _decoder.decode(line)
    except (msgspec.DecodeError, RecursionError) as error:
        raise NoHistory(f"{where} is no event as `everstep history ID --json` prints them: {error}") from None
    if event.seq == 1 and not isinstance(event.event, events.Started):
        raise NoHistory(f"{where}: the first event of a history is `started`")
    return event


def _recorded(history: list[ExportedEvent]) -> Recorded:
    first = history[0].event
    assert isinstance(first, events.Started)  # noqa: S101  # for the type checker
    identity = Identity(
        run_key=0,  # it goes into tokens alone, which history holds
        workflow_id=history[0].workflow_id,
        run=history[0].run,
        workflow=first.workflow,
        version=first.version,
        nonce=first.nonce,
        parent=first.parent,
    )
    return Recorded(identity, list(_rows(history)))


def _rows(history: list[ExportedEvent]) -> Iterator[HistoryRow]:
    """A row for each activation."""
    happened: list[ExportedEvent] = []
    for event in history:
        if happened and isinstance(event.event, events.INPUT_TYPES):
            yield _row(happened)
            happened = []
        happened.append(event)
    yield _row(happened)


def _row(happened: list[ExportedEvent]) -> HistoryRow:
    first = happened[0]
    return HistoryRow(first.seq, micros(first.at), events.encode_events([one.event for one in happened]))
