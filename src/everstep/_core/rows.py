"""Events to rows of history. One activation is one row; one with very many commands is split into several."""

from __future__ import annotations

from collections.abc import Iterator

from everstep._core.model import HistoryRow
from everstep_schemas.events import AnyEvent, encode_events

MAX_ROW_EVENTS = 1_000
MAX_ROW_BYTES = 512 * 1024


def rows_of(seq: int, at: int, happened: list[AnyEvent]) -> list[HistoryRow]:
    """The rows for the events of one activation, numbered from `seq`."""
    if len(happened) <= MAX_ROW_EVENTS:
        data = encode_events(happened)
        if len(data) <= MAX_ROW_BYTES:
            return [HistoryRow(seq, at, data)]
    return list(_split(seq, at, happened))


def _split(seq: int, at: int, happened: list[AnyEvent]) -> Iterator[HistoryRow]:
    for start in range(0, len(happened), MAX_ROW_EVENTS):
        yield from _halved(seq + start, at, happened[start : start + MAX_ROW_EVENTS])


def _halved(seq: int, at: int, happened: list[AnyEvent]) -> Iterator[HistoryRow]:
    data = encode_events(happened)
    if len(data) <= MAX_ROW_BYTES or len(happened) == 1:
        yield HistoryRow(seq, at, data)
    else:
        half = len(happened) // 2
        yield from _halved(seq, at, happened[:half])
        yield from _halved(seq + half, at, happened[half:])
