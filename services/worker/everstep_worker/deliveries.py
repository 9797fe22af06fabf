"""A command as it lies in its partition, until it needs no further run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from everstep_worker.watermark import Watermark


class Record(Protocol):
    """The parts of a consumed Kafka record that matter here."""

    @property
    def topic(self) -> str: ...
    @property
    def partition(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def timestamp(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Sequence[tuple[str, bytes]]: ...


def position_of(record: Record) -> tuple[str, int, int]:
    """Where a record lies."""
    return record.topic, record.partition, record.offset


class Partition:
    """A partition that this worker reads, or has read: `assigned` turns false when it goes to another worker.

    Whoever read it before may have begun commands that lie below `foreign_below`, its end when it was assigned: about
    the first ones, as many as that worker had slots, of which `suspects` are left to be seen.
    """

    __slots__ = ("assigned", "committed", "foreign_below", "suspects", "watermark")

    def __init__(self, start: int, *, suspects: int = 0, foreign_below: float = 0) -> None:
        self.assigned = True
        self.watermark = Watermark(start)
        self.committed = start
        self.suspects = suspects
        self.foreign_below = foreign_below

    def is_suspect(self, offset: int) -> bool:
        """Whether another worker may have begun this command, the next one that is read."""
        if not self.suspects:
            return False
        self.suspects = self.suspects - 1 if offset < self.foreign_below else 0
        return offset < self.foreign_below


class Delivery:
    """One record of a queue; `suspect`: another worker may have begun it."""

    __slots__ = ("_finished", "partition", "record", "suspect")

    def __init__(self, record: Record, partition: Partition) -> None:
        self.record = record
        self.partition = partition
        self.suspect = partition.is_suspect(record.offset)
        self._finished = False

    def finish(self) -> None:
        """Its answer is in Kafka, or none is needed, or it is checked out."""
        if not self._finished:
            self._finished = True
            self.partition.watermark.finish(self.record.offset)
