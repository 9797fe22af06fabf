"""What goes into the engine and what comes out: identities, rows of history, activations, and why a run cannot run."""

from __future__ import annotations

from typing import Literal

import msgspec

from everstep_schemas import names
from everstep_schemas.events import AttributeValue, Inheritance, Parent
from everstep_schemas.wire import Outgoing

# Numbered changes of the engine's behaviour that new runs are started with. A run keeps those it was started with, so
# that its history replays as it was recorded; a history with a number that is missing here was written by a newer one.
FLAGS: tuple[int, ...] = ()

ClosedStatus = Literal["completed", "failed", "cancelled", "terminated", "timed_out", "continued"]
StallKind = Literal["nondeterminism", "unknown_workflow", "blocked", "crashed", "engine", "data"]


class Identity(msgspec.Struct, frozen=True):
    """Which run this is. `nonce` is drawn when it is created; tokens, random numbers and hashes follow it.

    `parent` waits for the run's end, if another run started it.
    """

    run_key: int
    workflow_id: str
    run: int
    workflow: str
    version: int
    nonce: str
    parent: Parent | None = None

    @property
    def shard(self) -> int:
        return names.shard_of_key(self.run_key)


class HistoryRow(msgspec.Struct, frozen=True, gc=False):
    """One stored row: the events from number `seq` on, that all happened `at` (microseconds since the epoch)."""

    seq: int
    at: int
    data: bytes


class Successor(msgspec.Struct, frozen=True, kw_only=True):
    """The run that goes on with the work of one that is `continued`. `source` is the identity of its start.

    Without a `version` it takes the newest; without `timeout_seconds` its workflow's own. A run that is begun again
    after it failed has the limits of the first: `expires_at` and the number of the `attempt`.
    """

    source: str
    workflow: str
    args: bytes
    kwargs: bytes | None
    version: int | None
    attributes: dict[str, AttributeValue]
    memo: dict[str, msgspec.Raw]
    inherited: Inheritance
    timeout_seconds: float | None = None
    start_at: int | None = None
    expires_at: int | None = None
    attempt: int = 1
    traceparent: str | None = None


class Activation(msgspec.Struct, frozen=True):
    """What one applied input caused. `messages` may leave only after `rows` are committed.

    `status_changed` and `attributes_changed` say that what is shown of the run is to be read from it anew; `unread`
    counts the signals that a run which has ended never received (of one that is continued, they go along).
    """

    rows: list[HistoryRow]
    messages: list[Outgoing]
    closed: ClosedStatus | None = None
    status_changed: bool = False
    custom_status: str | None = None
    attributes_changed: bool = False
    successor: Successor | None = None
    unread: dict[str, int] = {}


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
