"""Random small programs under random inputs: after every activation a replay reaches the same state, and goes on so."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.engine.kit import Case, state
from tests.engine.machine import Program, app, interpret

from everstep._core.engine import QueryFailed
from everstep_schemas import events
from everstep_schemas.errors import ErrorInfo

LEAVES = [
    *("do_work", "do_shaky", "do_sleep", "do_signal", "do_offer", "do_forget", "do_cancel", "do_shield", "do_put"),
    *("do_get", "do_limit", "do_child", "do_external", "do_callback", "do_condition", "do_count", "do_say"),
    *("do_effect", "do_patched", "do_each", "do_poll", "do_raise", "do_continue"),
]
BRANCHES = [
    *("do_gather", "do_group", "do_timeout", "do_wait_for", "do_as_completed", "do_spawn", "do_finally", "do_handle"),
    *("do_answer", "do_map", "do_first", "do_retry", "do_saga", "do_continue"),
]
# What can happen to a run that waits for it, and what comes uncalled for.
WAITED_FOR = {
    "activities": ("answer", "answer", "fail", "check out", "renew", "give back"),
    "children": ("child", "child", "child fails"),
    "requests": ("reached",),
    "callbacks": ("call back", "call back wrongly", "beat"),
    "waits": ("signal", "signal", "odd signal"),
    "wakeups": ("wake",),
    "updates": ("update", "same update", "query"),
}
UNCALLED = ("signal", "update", "query", "call back wrongly", "cancel", "terminate")
numbers = st.integers(0, 5)
leaves = st.tuples(st.sampled_from(LEAVES), numbers, st.just(()))
steps = st.recursive(
    leaves,
    lambda inner: st.tuples(
        st.sampled_from(BRANCHES), numbers, st.lists(st.lists(inner, min_size=1, max_size=3), min_size=1, max_size=3)
    ),
    max_leaves=20,
)
programs = st.lists(steps, min_size=2, max_size=6)
inputs = st.lists(st.tuples(st.sampled_from([*["waited for"] * 9, "uncalled for"]), st.integers(0, 999)), max_size=60)
BROKEN = ErrorInfo(type="Boom", message="no")


def one_of(open_ones: list[int], n: int) -> int | None:
    return open_ones[n % len(open_ones)] if open_ones else None


class Feeder:
    """Gives a run inputs of every kind, those that it can have now and some that it cannot."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self._scope = case.run._program.scope

    def feed(self, kind: str, n: int) -> None:
        self._scope = self.case.run._program.scope
        kinds = self._waited_for() if kind == "waited for" else UNCALLED
        if kinds:
            do: Callable[[int], object] = getattr(self, kinds[n % len(kinds)].replace(" ", "_"))
            do(n // len(kinds) % 6)

    def _waited_for(self) -> list[str]:
        seen = state(self.case.run) | {"activities": self._activity(0, "scheduled", "checked_out")}
        return [kind for name, kinds in WAITED_FOR.items() if seen[name] for kind in kinds]

    def _activity(self, n: int, *states: str) -> tuple[int, int] | None:
        """The number and the attempt of an activity in one of these states."""
        pending = self._scope.activities._pending
        seq = one_of([seq for seq, one in pending.items() if one.state in states], n)
        return None if seq is None else (seq, pending[seq].attempt)

    def answer(self, n: int) -> None:
        if (found := self._activity(n, "scheduled", "checked_out")) is not None:
            self.case.complete(found[0], n, attempt=found[1])

    def fail(self, n: int) -> None:
        if (found := self._activity(n, "scheduled", "checked_out")) is not None:
            self.case.fail(found[0], retryable=n % 2 == 0, attempt=found[1])

    def check_out(self, n: int) -> None:
        if (found := self._activity(n, "scheduled", "checked_out", "backing_off")) is not None:
            self.case.checkout(found[0], attempt=found[1], lease_seconds=float(n), again=n == 5)

    def renew(self, n: int) -> None:
        if (found := self._activity(n, "scheduled", "checked_out", "backing_off")) is not None:
            self.case.renew(found[0], attempt=found[1], **({"details": n} if n % 2 else {}))

    def wake(self, n: int) -> None:
        if self.case.run.wakeup_at() is not None:
            self.case.wake()

    def signal(self, n: int) -> None:
        self.case.signal("s", n)

    def odd_signal(self, n: int) -> None:
        self.case.signal("s", "text", id=f"odd-{n}")

    def cancel(self, n: int) -> None:
        self.case.cancel()

    def give_back(self, n: int) -> None:
        if (found := self._activity(n, "scheduled", "checked_out", "backing_off")) is not None:
            self.case.give_back(found[0], attempt=found[1])

    def terminate(self, n: int) -> None:
        self.case.terminate("enough")

    def child(self, n: int) -> None:
        if (seq := one_of(list(self._scope.children), n)) is not None:
            self.case.child_completed(seq, n)

    def child_fails(self, n: int) -> None:
        if (seq := one_of(list(self._scope.children), n)) is not None:
            self.case.child_failed(seq, ("failed", "rejected", "timed_out")[n % 3], error=BROKEN if n % 2 else None)

    def reached(self, n: int) -> None:
        if (seq := one_of(list(self._scope.children.requests), n)) is not None:
            self.case.answered(seq, BROKEN if n % 2 else None)

    def call_back(self, n: int) -> None:
        if (seq := one_of(list(self._scope.callbacks), n)) is not None:
            self.case.called_back(seq, n) if n % 4 else self.case.callback_failed(seq, "no")

    def call_back_wrongly(self, n: int) -> None:
        if (seq := one_of(list(self._scope.callbacks._sources), n)) is not None:
            self.case.called_back(seq, n)
        if (seq := one_of(list(self._scope.callbacks), n)) is not None:
            self.case.called_back(seq, "text")
            self.case.called_back(seq, n, token=self.case.token(seq, 0))

    def beat(self, n: int) -> None:
        if (seq := one_of(list(self._scope.callbacks), n)) is not None:
            self.case.now += 500_000
            assert self.case.beat(seq)

    def update(self, n: int) -> None:
        self.case.update("u", n)

    def same_update(self, n: int) -> None:
        self.case.update("u", 1, id=f"same-{n % 2}")

    def query(self, n: int) -> None:
        before = state(self.case.run)
        try:
            self.case.query("count")
        except QueryFailed:
            assert "count" not in self.case.run.query_names()
        assert state(self.case.run) == before


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(program=programs, inputs=inputs)
def test_a_replay_after_every_activation_reaches_the_same_state(
    program: Program, inputs: list[tuple[str, int]]
) -> None:
    fed(Case(app, interpret, program), inputs)


def drawn(chance: Random, steps: int, depth: int = 3) -> Program:
    """A program of so many steps, most of which branch."""
    program: Program = []
    for _ in range(steps):
        name = chance.choice(BRANCHES if depth and chance.random() < 0.6 else LEAVES)
        inner = [drawn(chance, chance.randint(1, 2), depth - 1) for _ in range(chance.randint(1, 3))] if depth else []
        if name not in ("do_raise", "do_continue") or chance.random() < 0.2:
            program.append((name, chance.randint(0, 5), inner))
    return program


@pytest.mark.parametrize("seed", range(40))
def test_long_runs_of_large_programs_do_so_too(seed: int) -> None:
    chance = Random(seed)  # noqa: S311  # one number names a program and its inputs
    kinds = [*["waited for"] * 19, "uncalled for"]
    inputs = [(chance.choice(kinds), chance.randrange(1_000)) for _ in range(80)]
    fed(Case(app, interpret, drawn(chance, 6)), inputs)


def fed(case: Case, inputs: Iterable[tuple[str, int]]) -> Case:
    """The run, or the one that goes on with its work, after these inputs."""
    runs = 1
    for kind, n in inputs:
        if case.run.closed == "continued" and runs < 5:
            balanced(case)
            case, runs = case.next_run(), runs + 1
        if case.run.closed is None:
            Feeder(case).feed(kind, n)
    balanced(case)
    return case


BEGINS: dict[type[events.Event], str] = {
    events.ActivityScheduled: "activity",
    events.ChildStarted: "child",
    events.TimerStarted: "timer",
    events.SignalAwaited: "wait",
    events.ConditionAwaited: "condition",
    events.CallbackCreated: "callback",
    events.SignalSent: "request",
    events.CancelSent: "request",
    events.UpdateRequested: "update",
}
ENDS = (
    events.ActivityCompleted,
    events.ActivityFailed,
    events.ActivityCancelled,
    events.ChildCompleted,
    events.ChildFailed,
    events.ChildCancelled,
    events.TimerFired,
    events.TimerCancelled,
    events.ConditionMet,
    events.WaitCancelled,
    events.CallbackCompleted,
    events.CallbackFailed,
    events.RequestAnswered,
    events.UpdateCompleted,
    events.UpdateFailed,
)
# A message ends a wait without naming it, and what closes the run need not name these.
UNNAMED = {"wait", "timer", "condition", "callback", "request"}


def balanced(case: Case) -> None:
    """Whatever ends, ends once, and what is pending is what began and has not ended."""
    began = {n: BEGINS[type(e)] for n, e in enumerate(case.history, 1) if type(e) in BEGINS}
    ended: Counter[int] = Counter(
        e.ref for e in case.history if isinstance(e, ENDS) and getattr(e, "retry_at", None) is None and e.ref != 1
    )
    assert all(count == 1 for count in ended.values())
    assert ended.keys() <= began.keys()
    left: dict[str, set[int]] = {kind: set() for kind in BEGINS.values()}
    for seq in began.keys() - ended.keys():
        left[began[seq]].add(seq)
    scope, closed = case.run._program.scope, case.run.closed is not None
    still: dict[str, Any] = {
        "activity": scope.activities,
        "child": scope.children,
        "timer": scope.timers._pending,
        "condition": scope.conditions,
        "callback": scope.callbacks,
        "request": scope.children.requests,
        "update": scope.updates,
    }
    for kind, open_ones in still.items():
        if not closed or kind not in UNNAMED:
            assert set(open_ones) == left[kind], kind
