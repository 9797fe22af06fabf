"""Rows as the pipeline sees them. Instants are microseconds since the epoch; `run_key` holds the shard."""

from __future__ import annotations

import msgspec

from everstep._core.model import HistoryRow
from everstep_schemas.names import shard_of_key
from everstep_schemas.wire import Outgoing

__all__ = ["HeartbeatRow", "HistoryRow", "OutboxRow", "ParkedRow", "Ref", "RunRow", "RunUpdate", "ShardCommit"]

Ref = tuple[int, int]
"""(run_key, seq): a row of history, by the number of its first event."""


class RunRow(msgspec.Struct, frozen=True, gc=False):
    """A run as stored. A new run is committed as this row, with its state after the commit's activations.

    `parent`, `attributes` and `reason` are JSON.
    """

    run_key: int
    workflow_id: str
    run: int
    workflow: str
    version: int
    nonce: str
    source: str
    status: str
    condition: str | None
    reason: bytes | None
    custom_status: str | None
    started_at: int
    closed_at: int | None
    next_wakeup_at: int | None
    parent: bytes | None = None
    attributes: str | None = None

    @property
    def shard(self) -> int:
        return shard_of_key(self.run_key)


class RunUpdate(msgspec.Struct, frozen=True, gc=False):
    """The whole mutable state of a run's row. A closed run has a `closed_at`, no condition and no wake-up.

    The version changes once at most: when a run that waited for code starts.
    """

    run_key: int
    version: int
    status: str
    condition: str | None = None
    reason: bytes | None = None
    custom_status: str | None = None
    closed_at: int | None = None
    next_wakeup_at: int | None = None
    attributes: str | None = None


class ParkedRow(msgspec.Struct, frozen=True, gc=False):
    """An input for a run that cannot run now; `run_key` None: a signal for an id that no run has yet."""

    shard: int
    number: int
    workflow_id: str
    run_key: int | None
    expires_at: int | None
    data: bytes


class HeartbeatRow(msgspec.Struct, frozen=True, gc=False):
    """What an activity's attempt, or whoever holds a callback (`attempt` 0), said last of its progress, as JSON."""

    run_key: int
    seq: int
    attempt: int
    at: int
    details: bytes


class OutboxRow(msgspec.Struct, frozen=True):
    """What one commit owes to Kafka."""

    commit_no: int
    refs: list[Ref]
    bodies: list[Outgoing]


class ShardCommit(msgspec.Struct, kw_only=True):
    """What one shard's part of a batch writes.

    `commit_no` is the new one, the stored one plus 1. A run stands in `new_runs` or in `updates`, in either at most
    once, and all `run_key`s are of this shard. `published` never falls. `history` holds `(run_key, seq, at, data)`.
    Of the runs in `silenced`, none of which stands in `heartbeats`, no heartbeat is kept.
    """

    shard: int
    epoch: int
    commit_no: int
    submissions_position: int | None
    inbox_position: int | None
    last_number: int
    published: int
    history: list[tuple[int, int, int, bytes]] = []
    new_runs: list[RunRow] = []
    updates: list[RunUpdate] = []
    refs: list[Ref] = []
    bodies: list[Outgoing] = []
    parked: list[ParkedRow] = []
    unparked: list[int] = []
    heartbeats: list[HeartbeatRow] = []
    silenced: list[int] = []
