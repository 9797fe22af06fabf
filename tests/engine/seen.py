"""All that decides what a run does next, as plain values that can be compared; and a run as another process has it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from everstep._core.activities import Pending
from everstep._core.engine import Engine, HistoryRow, Identity, LiveRun


def replay(engine: Engine, identity: Identity, rows: Sequence[HistoryRow], *, stays: bool = False) -> LiveRun:
    feeding = engine.replay(identity, stays=stays)
    for row in rows:
        feeding.feed(row)
    return feeding.finish()


def restore(again: LiveRun, live: LiveRun) -> None:
    """Tell a replayed run what is no event: what was renewed last, and when."""
    ours, theirs = again._program.scope, live._program.scope
    for seq, pending in theirs.activities._pending.items():
        lease, other = pending.lease, ours.activities._pending[seq]
        if lease is not None and other.lease is not None:
            other.lease.renewed_at, other.lease.beat_at = lease.renewed_at, lease.beat_at
            other.lease.given_back = lease.given_back
            other.details = pending.details
            ours.activities._watch(seq, other)
    for seq, beat in theirs.callbacks._beats.items():
        ours.callbacks.heartbeat(seq, beat)


def state(run: LiveRun) -> dict[str, Any]:
    """All that decides what a run does next."""
    program = run._program
    scope = program.scope
    journal = scope.journal
    assert not program.loop.ready, "what is ready is run before a step ends"
    return {
        "next_seq": run.next_seq,
        "bytes": journal.history_bytes,
        "closed": run.closed,
        "status": run.custom_status,
        "at": run._at,
        "state": program.state,
        "begun": program._begun,
        "broken off": repr(program._broken_off),
        "cancelled for": program._cancel_reason,
        "began": scope.started_at,
        "number": program.loop._number,
        "tasks": [task.get_name() for task in program.loop.open_tasks()],
        "wakeups": _wakeups(run),
        "activities": {seq: _activity(one) for seq, one in scope.activities._pending.items()},
        "timers": list(scope.timers._pending),
        "children": {seq: child.started for seq, child in scope.children._pending.items()},
        "requests": {seq: workflow_id for seq, (workflow_id, _) in scope.children.requests._pending.items()},
        "attributes": scope.attributes.snapshot(),
        "patches": dict(scope._patches),
        "maps": [(one.of, one.total, one.done, one.failed, one.running) for one in scope.maps],
        **_mailbox(run),
        **_answers(run),
        **_chance(run),
    }


def _wakeups(run: LiveRun) -> list[tuple[int, int]]:
    wakeups = run._program.wakeups
    first, at = wakeups.first(), sorted((at, seq) for seq, at in wakeups._at.items())
    assert first == (at[0] if at else None)
    return at


def _activity(one: Pending) -> tuple[Any, ...]:
    lease = one.lease and (one.lease.at, one.lease.renewed_at, one.lease.beat_at, one.lease.ends_at)
    scheduled = one.scheduled
    held = (one.at, one.retry_at, one.checkouts, one.details, one.error, lease)
    return (scheduled.name, scheduled.queue, one.attempt, one.state, bytes(scheduled.args), scheduled, *held)


def _mailbox(run: LiveRun) -> dict[str, Any]:
    mailbox = run._program.scope.mailbox
    return {
        "waits": {seq: handle.name for seq, handle in mailbox._waits.items()},
        "buffers": {
            name: [(number, bytes(value), signal_id) for number, value, signal_id in buffer]
            for name, buffer in mailbox._buffers.items()
        },
        "unread": [(name, message.signal_id) for name, message in mailbox.unread()],
        "signals": mailbox.ids(),
        "handled": sorted(mailbox._handlers),
    }


def _answers(run: LiveRun) -> dict[str, Any]:
    scope = run._program.scope
    callbacks, updates = scope.callbacks, scope.updates
    return {
        "callbacks": {seq: one.created for seq, one in callbacks._open.items()},
        "beats": dict(callbacks._beats),
        "completed by": dict(callbacks._sources),
        "conditions": list(scope.conditions),
        "queries": scope.queries.names(),
        "updates": updates.names(),
        "updating": dict(updates._running),
        "answers": dict(updates._answers),
        "update ids": updates.ids(),
    }


def _chance(run: LiveRun) -> dict[str, Any]:
    scope = run._program.scope
    return {"random": scope.chance.state()}
