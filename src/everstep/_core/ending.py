"""Ending a run whose code cannot run: all that is needed is where its history stands."""

from __future__ import annotations

from everstep._core.messages import messages_of
from everstep._core.model import Activation, HistoryRow, Identity
from everstep._core.rows import rows_of
from everstep_schemas.events import ActivityScheduled, Terminated, decode_events
from everstep_schemas.names import Topics


def terminated(identity: Identity, topics: Topics, last: HistoryRow | None, reason: str, now: int) -> Activation:
    """The activation that terminates a run of which `last` is the newest row, or which never began."""
    seq = 1 if last is None else last.seq + len(decode_events(last.data))
    rows = rows_of(seq, now if last is None else max(now, last.at), [Terminated(reason=reason)])
    return Activation(rows, messages_of(identity, topics, rows, _no_activity), "terminated")


def _no_activity(ref: int) -> ActivityScheduled:
    raise LookupError(f"a termination refers to no activity, but event {ref} was asked for")
