"""A batch as one statement of `queries/commit.sql` and its arguments: a column is an array over all shards."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from operator import attrgetter
from typing import Any

import msgspec

from everstep_orchestrator.store.rows import HeartbeatRow, OutboxRow, ParkedRow, Ref, RunRow, RunUpdate, ShardCommit
from everstep_schemas.wire import Outgoing

Column = Sequence[Any]
Row = tuple[Any, ...]

_encoder = msgspec.json.Encoder()
_refs = msgspec.json.Decoder(list[Ref])
_bodies = msgspec.json.Decoder(list[Outgoing])

_shard = attrgetter("shard", "epoch", "commit_no", "submissions_position", "inbox_position", "last_number", "published")


class Statements:
    """The commit, in three lengths: arguments of parts that a batch does not have need not be sent or looked at."""

    def __init__(self, sql: Mapping[str, str]) -> None:
        self._base, self._with_runs, self._whole = (
            "\n".join(sql[part] for part in parts)
            for parts in (("base", "answer"), ("base", "runs", "answer"), ("base", "runs", "rest", "answer"))
        )

    def of(self, commits: Sequence[ShardCommit]) -> tuple[str, list[Column]]:
        """The statement for a batch, and its arguments in order."""
        if any(commit.parked or commit.unparked or commit.heartbeats or commit.silenced for commit in commits):
            return self._whole, [*_base(commits), *_runs(commits), *_rest(commits)]
        if any(commit.new_runs or commit.updates for commit in commits):
            return self._with_runs, [*_base(commits), *_runs(commits)]
        return self._base, _base(commits)


def _base(commits: Sequence[ShardCommit]) -> list[Column]:
    return [
        *_columns(7, map(_shard, commits)),
        *_columns(2, map(_owed, commits)),
        *_columns(4, chain.from_iterable(commit.history for commit in commits)),
    ]


def _runs(commits: Sequence[ShardCommit]) -> list[Column]:
    return [
        *_structs(RunRow, (commit.new_runs for commit in commits)),
        *_structs(RunUpdate, (commit.updates for commit in commits)),
    ]


def _rest(commits: Sequence[ShardCommit]) -> list[Column]:
    return [
        *_structs(ParkedRow, (commit.parked for commit in commits)),
        *_columns(2, ((commit.shard, number) for commit in commits for number in commit.unparked)),
        *_structs(HeartbeatRow, (commit.heartbeats for commit in commits)),
        list(chain.from_iterable(commit.silenced for commit in commits)),
    ]


def _columns(width: int, rows: Iterable[Row]) -> list[Column]:
    return list(zip(*rows, strict=True)) or [()] * width


def _structs(kind: type[msgspec.Struct], groups: Iterable[Sequence[msgspec.Struct]]) -> list[Column]:
    fields = kind.__struct_fields__
    return _columns(len(fields), map(attrgetter(*fields), chain.from_iterable(groups)))


def _owed(commit: ShardCommit) -> tuple[bytes | None, bytes | None]:
    """No outbox row is written for a commit that owes nothing."""
    if not commit.refs and not commit.bodies:
        return None, None
    return _encoder.encode(commit.refs), _encoder.encode(commit.bodies)


def outbox_row(commit_no: int, refs: bytes, bodies: bytes) -> OutboxRow:
    return OutboxRow(commit_no, _refs.decode(refs), _bodies.decode(bodies))
