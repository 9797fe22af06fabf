"""Waiting for the handlers that are at work: before a run goes on or ends, all that it has accepted is carried out."""

from __future__ import annotations

import pytest
from tests.engine.kit import Case, begin, raw

from everstep import App, Context, Signal, Update, WaitTimeout, days
from everstep_schemas import events

go = Signal[int]("go")
note = Signal[int]("note")
add = Update[int, int]("add")
tools = App("tools")


@tools.activity
async def work(n: int) -> int:
    raise AssertionError("workers run activities")


app = App("adders")


@app.workflow
async def adder(ctx: Context, total: int) -> int:
    async def added(n: int) -> int:
        nonlocal total
        worked = await work(n)
        total += worked
        return total

    async def noted(n: int) -> None:
        nonlocal total
        worked = await work(100 * n)
        total += worked

    ctx.on_update(add, added)
    ctx.on_signal(note, noted)
    await ctx.wait_for_signal(go)
    await ctx.handlers_done()
    ctx.continue_as_new(adder, total)


def continued(case: Case) -> events.Continued:
    last = case.last[-1]
    assert isinstance(last, events.Continued)
    return last


def test_a_run_that_goes_on_carries_with_it_what_its_handlers_did() -> None:
    case = begin(adder.fn, 0)
    case.update("add", 1, id="u1")
    case.signal("note", 1)
    case.update("add", 2, id="u2")
    first, noted, second = case.pending("work")
    case.signal("go", 0)
    assert case.last == [events.ConditionAwaited(what="ctx.handlers_done")]
    case.complete(first, 1)
    case.update("add", 3, id="u3")
    (third,) = set(case.pending("work")) - {noted, second}
    case.complete(second, 2)
    case.complete(noted, 100)
    assert case.run.closed is None
    case.complete(third, 3)
    assert [type(event) for event in case.last] == [events.UpdateCompleted, events.ConditionMet, events.Continued]
    assert continued(case).args == raw([106])


def test_it_does_not_wait_when_none_is_at_work() -> None:
    case = begin(adder.fn, 5)
    case.signal("go", 0)
    assert continued(case).args == raw([5])


def test_a_signal_that_came_in_the_same_step_is_at_work() -> None:
    async def late(ctx: Context) -> int:
        seen: list[int] = []
        await ctx.wait_for_signal(go)
        ctx.on_signal(note, seen.append)
        await ctx.handlers_done()
        return len(seen)

    case = begin(late)
    case.signal("note", 1)
    case.signal("go", 1)
    assert case.result == 1


def test_a_handler_that_fails_has_ended() -> None:
    async def failing(ctx: Context) -> str:
        async def refuse(n: int) -> int:
            await work(n)
            raise ValueError(n)

        ctx.on_update(add, refuse)
        await ctx.wait_for_signal(go)
        await ctx.handlers_done()
        return "done"

    case = begin(failing)
    case.update("add", 1, id="u1")
    case.signal("go", 0)
    case.complete(case.pending("work")[0], 1)
    assert "UpdateFailed" in [type(event).__name__ for event in case.last]
    assert case.result == "done"


def test_a_wait_for_handlers_has_its_timeout() -> None:
    async def impatient(ctx: Context) -> str:
        async def for_ever(n: int) -> int:
            await ctx.sleep(days(n))
            return n

        ctx.on_update(add, for_ever)
        await ctx.wait_for_signal(go)
        try:
            await ctx.handlers_done(timeout=days(1))
        except WaitTimeout as error:
            return str(error)
        return "all done"

    case = begin(impatient)
    case.update("add", 30, id="u1")
    case.signal("go", 0)
    case.wake()
    assert case.result == "what ctx.handlers_done waits for did not become true within the wait's timeout"


@pytest.mark.parametrize("kind", ["update", "signal"])
def test_a_handler_cannot_wait_for_itself(kind: str) -> None:
    async def circular(ctx: Context) -> None:
        async def handler(n: int) -> int:
            await ctx.handlers_done()
            return n

        async def noted(n: int) -> None:
            await ctx.handlers_done()

        ctx.on_update(add, handler)
        ctx.on_signal(note, noted)
        await ctx.wait_for_signal(go)

    case = begin(circular)
    if kind == "update":
        case.update("add", 1, id="u1")
        (failed,) = case.last
        assert isinstance(failed, events.UpdateFailed)
        error = failed.error
    else:
        case.signal("note", 1)
        error = case.error
    assert (error.type, "would wait for itself" in error.message) == ("RuntimeError", True)
