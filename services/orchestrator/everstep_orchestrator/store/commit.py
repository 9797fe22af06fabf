"""A batch as the arguments of the one statement in `queries/commit.sql`: a column is an array over all shards."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from operator import attrgetter
from typing import Any

import msgspec

from everstep_orchestrator.store.rows import OutboxRow, ParkedRow, Ref, RunRow, RunUpdate, ShardCommit
from everstep_schemas.wire import Outgoing

Column = Sequence[Any]

_encoder = msgspec.json.Encoder()
_refs = msgspec.json.Decoder(list[Ref])
_bodies = msgspec.json.Decoder(list[Outgoing])

_shard = attrgetter("shard", "epoch", "commit_no", "submissions_position", "inbox_position", "last_number", "published")


def arguments(commits: Sequence[ShardCommit]) -> list[Column]:
    """The arguments of the statement, in its order."""
    return [
        *_columns(7, map(_shard, commits)),
        *_columns(2, map(_owed, commits)),
        *_columns(4, chain.from_iterable(commit.history for commit in commits)),
        *_columns(len(RunRow.__struct_fields__), _rows(RunRow, (commit.new_runs for commit in commits))),
        *_columns(len(RunUpdate.__struct_fields__), _rows(RunUpdate, (commit.updates for commit in commits))),
        *_columns(len(ParkedRow.__struct_fields__), _rows(ParkedRow, (commit.parked for commit in commits))),
        *_columns(2, ((commit.shard, number) for commit in commits for number in commit.unparked)),
    ]


def _columns(width: int, rows: Iterable[tuple[Any, ...]]) -> list[Column]:
    return list(zip(*rows, strict=True)) or [()] * width


def _rows(kind: type[msgspec.Struct], groups: Iterable[Sequence[Any]]) -> Iterable[tuple[Any, ...]]:
    return map(attrgetter(*kind.__struct_fields__), chain.from_iterable(groups))


def _owed(commit: ShardCommit) -> tuple[bytes | None, bytes | None]:
    """No outbox row is written for a commit that owes nothing."""
    if not commit.refs and not commit.bodies:
        return None, None
    return _encoder.encode(commit.refs), _encoder.encode(commit.bodies)


def outbox_row(commit_no: int, refs: bytes, bodies: bytes) -> OutboxRow:
    return OutboxRow(commit_no, _refs.decode(refs), _bodies.decode(bodies))
