"""What the orchestrator reads and writes in Postgres."""

from everstep_orchestrator.store.errors import DataRefused, OutcomeUnknown, StoreError, Unavailable
from everstep_orchestrator.store.rows import (
    HeartbeatRow,
    HistoryRow,
    OutboxRow,
    ParkedRow,
    Ref,
    RunRow,
    RunUpdate,
    ShardCommit,
)
from everstep_orchestrator.store.store import Store

__all__ = [
    "DataRefused",
    "HeartbeatRow",
    "HistoryRow",
    "OutboxRow",
    "OutcomeUnknown",
    "ParkedRow",
    "Ref",
    "RunRow",
    "RunUpdate",
    "ShardCommit",
    "Store",
    "StoreError",
    "Unavailable",
]
