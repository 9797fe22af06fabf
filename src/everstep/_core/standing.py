"""Where a run stands: all that decides what it does next, in plain values that can be compared and shown.

A run that was replayed from its rows stands where the one stands that wrote them. Whatever checks that compares this:
the commands alone do not show that a wait was forgotten, or that a task hangs somewhere else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from everstep._core.program import Program
    from everstep._core.scope import Scope

Standing = dict[str, object]


def standing_of(program: Program) -> Standing:
    """The state of a run by topic; of one that has closed, what it said last."""
    scope = program.scope
    said: Standing = {
        "events": scope.journal.next_seq - 1,
        "state": program.state,
        "status": scope.custom_status,
        "attributes": scope.attributes.snapshot(),
        "signals read": scope.mailbox.ids(),
        "signals unread": [(name, bytes(message.value)) for name, message in scope.mailbox.unread()],
    }
    return said if program.closed else said | _pending(program, scope)


def outline_of(program: Program) -> tuple[object, ...]:
    """The same in numbers, which cost the same however much is pending: to be compared after every event."""
    scope = program.scope
    return (
        scope.journal.next_seq,
        program.state,
        scope.custom_status,
        len(scope.activities),
        len(scope.timers),
        len(scope.mailbox),
        len(scope.conditions),
        len(scope.children),
        len(scope.children.requests),
        len(scope.callbacks),
        len(scope.updates),
        program.wakeups.first(),
    )


def _pending(program: Program, scope: Scope) -> Standing:
    return {
        "activities": _activities(scope),
        "timers": list(scope.timers),
        "waits for signals": scope.mailbox.waits(),
        "waits for conditions": list(scope.conditions),
        "children": list(scope.children),
        "requests": list(scope.children.requests),
        "callbacks": list(scope.callbacks),
        "updates": list(scope.updates),
        "queries": scope.queries.names(),
        "takes updates": scope.updates.names(),
        "wakes at": program.wakeups.all(),
        "tasks": len(program.loop.open_tasks()),
    }


def _activities(scope: Scope) -> dict[int, tuple[str, str, int, str]]:
    activities = ((seq, scope.activities.get(seq)) for seq in scope.activities)
    return {
        seq: (one.scheduled.name, one.scheduled.queue, one.attempt, one.state)
        for seq, one in activities
        if one is not None
    }
