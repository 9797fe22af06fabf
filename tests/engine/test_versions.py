"""Changing code under open runs: patches that are new to a run or old to it, and are retired."""

from __future__ import annotations

from typing import Any

import pytest
from tests.engine.kit import Case, begin, replay

from everstep import App, Context, Signal
from everstep._core.engine import CannotRun, Engine, LiveRun
from everstep_schemas import events
from everstep_schemas.names import Topics

app = App("versions")
go = Signal[int]("go")


@app.activity
async def ship(n: int) -> int:
    raise AssertionError("workers run activities")


@app.activity
async def check(n: int) -> int:
    raise AssertionError("workers run activities")


async def before(ctx: Context) -> list[str]:
    said: list[str] = []
    for n in range(3):
        await ship(n)
        said.append("old")
    return said


async def patched(ctx: Context) -> list[str]:
    said: list[str] = []
    for n in range(3):
        if ctx.patched("fraud"):
            await check(n)
        await ship(n)
        said.append("new" if ctx.patched("fraud") else "old")
    return said


async def retired(ctx: Context) -> list[str]:
    said: list[str] = []
    for n in range(3):
        ctx.retire_patch("fraud")
        await check(n)
        await ship(n)
        said.append("new")
    return said


async def gone(ctx: Context) -> list[str]:
    said: list[str] = []
    for n in range(3):
        await check(n)
        await ship(n)
        said.append("new")
    return said


def engine(fn: Any) -> Engine:
    changed = App("changed")
    changed.workflow(name="order")(fn)
    return Engine(changed, Topics(), max_payload_bytes=1 << 20)


def start(fn: Any) -> Case:
    workflow = App("now").workflow(name="order")(fn)
    app = App("now")
    app.workflow(name="order")(fn)
    return Case(app, workflow)


def deploy(case: Case, fn: Any) -> None:
    """From now on the run is carried on by this code, here and elsewhere."""
    case.run.evict()
    case.engine = case._elsewhere = engine(fn)
    case.run = replay(case.engine, case.identity, case.rows)
    case._twin = replay(case.engine, case.identity, case.rows)


def test_a_new_run_takes_the_new_way_and_is_marked_once() -> None:
    case = start(patched)
    assert case.last[0] == events.PatchMarked(id="fraud")
    case.complete_all(1)
    assert case.result == ["new"] * 3
    assert len([event for event in case.history if isinstance(event, events.PatchMarked)]) == 1


def test_a_run_that_has_passed_here_before_keeps_to_the_old_way_to_its_end() -> None:
    case = start(before)
    case.complete(2, 1)
    deploy(case, patched)
    assert case.pending() == [4], "the shipment that the old code has scheduled"
    case.complete_all(1)
    assert case.result == ["old"] * 3
    assert not any(isinstance(event, events.PatchMarked) for event in case.history)


def test_a_run_that_has_not_come_here_yet_takes_the_new_way() -> None:
    async def waiting(ctx: Context) -> list[str]:
        await ctx.wait_for_signal(go)
        return await before(ctx)

    async def waiting_patched(ctx: Context) -> list[str]:
        await ctx.wait_for_signal(go)
        return await patched(ctx)

    case = start(waiting)
    deploy(case, waiting_patched)
    case.signal("go", 1)
    assert case.kinds == ["PatchMarked", "ActivityScheduled"]
    case.complete_all(1)
    assert case.result == ["new"] * 3


def test_a_patch_that_is_retired_replays_in_marked_runs_and_marks_no_new_ones() -> None:
    marked = start(patched)
    marked.complete(3, 1)
    deploy(marked, retired)
    marked.complete_all(1)
    assert marked.result == ["new"] * 3
    fresh = start(retired)
    assert fresh.kinds == ["ActivityScheduled"]
    fresh.complete_all(1)
    deploy(fresh, gone)
    assert fresh.run.closed == "completed"


def differs(case: Case, fn: Any) -> str:
    with pytest.raises(CannotRun) as caught:
        replay(engine(fn), case.identity, case.rows)
    return str(caught.value)


def test_what_is_done_too_early_is_found() -> None:
    marked, old = start(patched), start(before)
    assert "holds patch 'fraud', the code produced activity 'check'" in differs(marked, gone)
    assert "holds activity 'ship' on queue 'default', the code produced activity 'check'" in differs(old, retired)


def test_patches_in_the_order_of_the_code() -> None:
    async def two(ctx: Context) -> list[bool]:
        first = ctx.patched("a")
        await ship(1)
        second = ctx.patched("b")
        return [first, second, ctx.patched("a")]

    async def swapped(ctx: Context) -> list[bool]:
        second = ctx.patched("b")
        await ship(1)
        first = ctx.patched("a")
        return [first, second]

    case = start(two)
    assert "holds patch 'a', the code produced activity 'ship'" in differs(case, swapped)
    case.complete_all(1)
    assert case.result == [True, True, True]


def test_one_patch_after_another_in_a_run_of_every_age() -> None:
    async def one(ctx: Context) -> str:
        await ctx.wait_for_signal(go)
        return "v1"

    async def two(ctx: Context) -> str:
        if ctx.patched("a"):
            await ship(1)
        await ctx.wait_for_signal(go)
        return "v2" if ctx.patched("a") else "v1"

    async def three(ctx: Context) -> str:
        new = ctx.patched("b")
        if ctx.patched("a"):
            await ship(1)
        await ctx.wait_for_signal(go)
        return "v3" if new else "v2" if ctx.patched("a") else "v1"

    ages = [start(one), start(two), start(three)]
    ages[1].complete(3, 1)
    ages[2].complete(4, 1)
    for case in ages:
        deploy(case, three)
        case.signal("go", 1)
    assert [case.result for case in ages] == ["v1", "v2", "v3"]


def test_a_query_does_not_decide() -> None:
    async def asked(ctx: Context) -> bool:
        def look() -> bool:
            return ctx.patched("a")

        ctx.on_query("look", look)
        await ctx.wait_for_signal(go)
        return ctx.patched("a")

    case = begin(asked)
    with pytest.raises(Exception, match="may only look"):
        case.run.query("look", [])
    case.signal("go", 1)
    assert case.result is True
    assert case.kinds == ["PatchMarked", "Completed"]


@pytest.mark.parametrize("id", ["", "\0", "\ud800", 5, None, "x" * 600])
def test_a_change_needs_a_name_that_can_be_kept(id: Any) -> None:
    async def naming(ctx: Context) -> str:
        with pytest.raises(ValueError, match=r"ctx\.patched: the change"):
            ctx.patched(id)
        with pytest.raises(ValueError, match=r"ctx\.retire_patch: the change"):
            ctx.retire_patch(id)
        return "refused"

    assert begin(naming).result == "refused"


def test_replaying_tells_the_same_each_time() -> None:
    case = start(before)
    case.complete(2, 1)

    def answers(run: LiveRun) -> dict[str, bool]:
        return dict(run._program.scope._patches)

    assert [answers(replay(engine(patched), case.identity, case.rows)) for _ in range(2)] == [{"fraud": False}] * 2
