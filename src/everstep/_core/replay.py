"""From stored rows to a live run."""

from __future__ import annotations

import msgspec

from everstep._core.model import FLAGS, CannotRun, HistoryRow, StallReason
from everstep._core.run import LiveRun
from everstep_schemas import events
from everstep_schemas.events import AnyEvent, CommandEvent, InputEvent, decode_events


class Replay:
    """Feeds a run its history. An activation is repeated when all its rows are there: a row can continue another."""

    __slots__ = ("_at", "_commands", "_event", "_next_seq", "_run", "_size")

    def __init__(self, run: LiveRun) -> None:
        self._run = run
        self._event: InputEvent | None = None
        self._commands: list[CommandEvent] = []
        self._at = 0
        self._size = 0
        self._next_seq = 1

    def feed(self, row: HistoryRow) -> None:
        """Take the next row. Raises `CannotRun` for what the code does differently and for rows that are no history."""
        try:
            self._take(row)
        except CannotRun:
            self._run.evict()
            raise

    def finish(self) -> LiveRun:
        """The run as it was after its last row. Raises `CannotRun`."""
        try:
            self._repeat()
        except CannotRun:
            self._run.evict()
            raise
        return self._run

    def abandon(self) -> None:
        """Close the run's code, for a replay that is no longer wanted."""
        self._run.evict()

    def _take(self, row: HistoryRow) -> None:
        try:
            happened = decode_events(row.data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise _bad_data(row, f"it is not a list of events: {error}") from error
        if row.seq != self._next_seq or not happened:
            raise _bad_data(row, f"event {self._next_seq} should come next")
        self._next_seq += len(happened)
        self._add(row, happened)

    def _add(self, row: HistoryRow, happened: list[AnyEvent]) -> None:
        first = happened[0]
        if isinstance(first, events.INPUT_TYPES):
            self._repeat()
            if isinstance(first, events.Started):
                _check_flags(first)
            self._event, self._at, self._size = first, row.at, 0  # type: ignore[assignment]  # INPUT_TYPES = InputEvent
            happened = happened[1:]
        elif self._event is None:
            raise _bad_data(row, "it starts with a command that nothing caused")
        self._size += len(row.data)
        self._commands += happened  # type: ignore[arg-type]  # an input event can only be the first

    def _repeat(self) -> None:
        if self._event is not None:
            commands, self._commands = self._commands, []
            self._run.repeat(self._event, self._at, commands, self._size)
            self._event = None


def _check_flags(started: events.Started) -> None:
    if unknown := set(started.flags) - set(FLAGS):
        message = f"a newer Everstep started this run: its engine flags {sorted(unknown)} are not known here. Upgrade"
        raise CannotRun(StallReason(kind="engine", message=message))


def _bad_data(row: HistoryRow, problem: str) -> CannotRun:
    return CannotRun(
        StallReason(kind="data", message=f"the history row at event {row.seq} cannot be used: {problem}", seq=row.seq)
    )
