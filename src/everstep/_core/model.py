"""What goes into the engine and what comes out: identities, rows of history, activations, and why a run cannot run."""

from __future__ import annotations

from typing import Literal

import msgspec

from everstep_schemas import names
from everstep_schemas.wire import Outgoing

# Numbered changes of the engine's behaviour that new runs are started with. A run keeps those it was started with, so
# that its history replays as it was recorded; a history with a number that is missing here was written by a newer one.
FLAGS: tuple[int, ...] = ()

ClosedStatus = Literal["completed", "failed", "cancelled", "terminated"]
StallKind = Literal["nondeterminism", "unknown_workflow", "blocked", "crashed", "engine", "data"]


class Identity(msgspec.Struct, frozen=True):
    """Which run this is. `nonce` is drawn when it is created; tokens, random numbers and hashes follow it."""

    run_key: int
    workflow_id: str
    run: int
    workflow: str
    version: int
    nonce: str

    @property
    def shard(self) -> int:
        return names.shard_of_key(self.run_key)


class HistoryRow(msgspec.Struct, frozen=True, gc=False):
    """One stored row: the events from number `seq` on, that all happened `at` (microseconds since the epoch)."""

    seq: int
    at: int
    data: bytes


class Activation(msgspec.Struct, frozen=True):
    """What one applied input caused. `messages` may leave only after `rows` are committed."""

    rows: list[HistoryRow]
    messages: list[Outgoing]
    closed: ClosedStatus | None = None
    status_changed: bool = False
    custom_status: str | None = None


class StallReason(msgspec.Struct, frozen=True, omit_defaults=True):
    """Why a run cannot go on, in words; for a mismatch `expected` is what history holds and `got` what the code did."""

    kind: StallKind
    message: str
    expected: str | None = None
    got: str | None = None
    seq: int | None = None


class CannotRun(Exception):
    """The run cannot be started, replayed or stepped by this code. It loses nothing: other code may go on with it."""

    def __init__(self, reason: StallReason) -> None:
        super().__init__(reason.message)
        self.reason = reason
