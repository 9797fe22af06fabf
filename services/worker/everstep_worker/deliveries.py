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


class Partition:
    """A partition that this worker reads, or has read: `assigned` turns false when it goes to another worker."""

    __slots__ = ("assigned", "committed", "watermark")

    def __init__(self, start: int) -> None:
        self.assigned = True
        self.watermark = Watermark(start)
        self.committed = start


class Delivery:
    """One record of a queue."""

    __slots__ = ("partition", "record")

    def __init__(self, record: Record, partition: Partition) -> None:
        self.record = record
        self.partition = partition

    def finish(self) -> None:
        """Its answer is in Kafka, or none is needed."""
        self.partition.watermark.finish(self.record.offset)
