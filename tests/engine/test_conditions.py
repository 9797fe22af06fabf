"""Conditions: asked after every event, ended once, the same live and on replay."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from tests.engine.kit import NOW, SECOND, Case, begin

from everstep import App, Context, Signal, WaitTimeout, days, seconds
from everstep._core.timers import LAST_INSTANT
from everstep_schemas import events

app = App("conditions")
go = Signal[int]("go")


@app.activity
async def work(n: int) -> int:
    raise AssertionError("workers run activities")


@app.workflow
async def counting(ctx: Context, enough: int) -> list[int]:
    got: list[int] = []
    ctx.on_signal(go, got.append)
    await ctx.wait_until(lambda: len(got) >= enough, timeout=days(1))
    return got


def test_a_condition_ends_its_wait_in_the_step_that_makes_it_true() -> None:
    case = Case(app, counting, 2)
    awaited = case.history[-1]
    assert isinstance(awaited, events.ConditionAwaited)
    assert awaited.what.startswith("counting (line ")
    assert case.run.wakeup_at() == NOW + 86_400 * SECOND
    case.signal("go", 1)
    assert case.last == []
    case.signal("go", 2)
    assert case.kinds == ["ConditionMet", "Completed"]
    assert case.result == [1, 2]


def test_a_condition_that_is_true_already_records_nothing() -> None:
    case = Case(app, counting, 0)
    assert case.kinds == ["Completed"]


def test_a_condition_that_stays_false_times_out_and_says_where_it_stands() -> None:
    @app.workflow
    async def impatient(ctx: Context) -> str:
        try:
            await ctx.wait_until(lambda: False, timeout=seconds(5))
        except TimeoutError as error:
            return f"{type(error).__name__}: {error}"
        return "?"

    case = Case(app, impatient)
    case.wake()
    assert ".impatient (line " in case.result
    assert case.last_events[0] == events.TimerFired(ref=2)


@pytest.mark.parametrize("timeout", [seconds(0), seconds(-1), timedelta.min])
def test_no_time_at_all_looks_once(timeout: timedelta) -> None:
    @app.workflow(name=f"looking once {timeout}")
    async def looking(ctx: Context, true: bool) -> str:
        try:
            await ctx.wait_until(lambda: true, timeout=timeout)
        except WaitTimeout:
            return "false"
        return "true"

    for true in (True, False):
        case = Case(app, looking, true)
        assert case.result == str(true).lower()
        assert len(case.history) == 2


def test_a_timeout_of_thousands_of_years_is_the_end_of_the_calendar() -> None:
    @app.workflow
    async def patient(ctx: Context) -> None:
        await ctx.wait_until(lambda: False, timeout=timedelta.max)

    assert Case(app, patient).run.wakeup_at() == LAST_INSTANT


def test_waits_that_make_each_other_true_all_end_in_one_step() -> None:
    @app.workflow
    async def chain(ctx: Context) -> list[int]:
        done: list[int] = []

        async def link(n: int) -> None:
            await ctx.wait_until(lambda: len(done) == n)
            done.append(n)

        async with asyncio.TaskGroup() as group:
            for n in reversed(range(5)):
                group.create_task(link(n))
            await work(1)
            done.append(0)
            done.pop()
        return done

    case = Case(app, chain)
    assert case.kinds.count("ConditionMet") == 4
    case.complete_all(1)
    assert case.result == [0, 1, 2, 3, 4]


def test_a_condition_on_time_is_met_by_whatever_event_comes_after_it() -> None:
    @app.workflow
    async def by_time(ctx: Context) -> str:
        handle = work(1)
        await ctx.wait_until(lambda: ctx.now().timestamp() >= NOW / SECOND + 0.5)
        return f"done {handle.done()}"

    case = Case(app, by_time)
    case.fail(2)
    assert case.last == []
    case.wake()
    assert isinstance(case.last_events[0], events.ActivityRetried)
    assert case.kinds == ["ConditionMet", "ActivityCancelled", "Completed"]
    assert case.result == "done False"


def test_a_predicate_that_raises_gives_its_wait_the_error() -> None:
    @app.workflow
    async def failing(ctx: Context) -> str:
        seen: dict[str, int] = {}
        ctx.on_signal(go, lambda n: seen.update(n=1 // n))
        waiting = asyncio.ensure_future(ctx.wait_until(lambda: bool(seen) and seen["other"] > 0))
        try:
            await waiting
        except KeyError as error:
            return f"no {error}"
        return "?"

    case = Case(app, failing)
    case.signal("go", 1)
    assert case.kinds == ["ConditionMet", "Completed"]
    assert case.result == "no 'other'"


ODD = [SystemExit, KeyboardInterrupt, GeneratorExit, BaseException, StopIteration, asyncio.CancelledError]


@pytest.mark.parametrize("error", ODD)
def test_whatever_a_predicate_raises_stays_in_its_run(error: type[BaseException]) -> None:
    @app.workflow(name=f"odd predicate {error!r}")
    async def odd(ctx: Context) -> str:
        raising: list[bool] = []

        def predicate() -> bool:
            if raising:
                raise error("odd")
            return False

        ctx.on_signal(go, lambda n: raising.append(True))
        try:
            await ctx.wait_until(predicate)
        except BaseException as raised:
            return str(raised)
        return "?"

    case = Case(app, odd)
    case.signal("go", 1)
    if error in (StopIteration, GeneratorExit):
        assert case.result == f"{error.__name__} was raised in what is awaited", "to Python these are no errors"
    else:
        assert case.result == "odd"


def test_a_predicate_that_awaits_is_refused_at_once() -> None:
    @app.workflow
    async def awaits(ctx: Context) -> str:
        async def predicate() -> bool:
            return bool(await work(1))

        for wrong in (predicate, lambda: predicate(), 5):
            with pytest.raises(TypeError, match="wait_until"):
                ctx.wait_until(wrong)  # type: ignore[arg-type]  # the mistake that is found
        return "refused"

    case = Case(app, awaits)
    assert case.result == "refused"
    assert len(case.history) == 2


def test_whatever_can_be_called_can_be_a_predicate() -> None:
    class Reached:
        def __init__(self, got: list[int]) -> None:
            self.got = got
            self.__qualname__ = 5  # no name at all

        def __call__(self) -> int:
            return len(self.got)

    async def calling(ctx: Context) -> list[int]:
        got: list[int] = []
        ctx.on_signal(go, got.append)
        both = [ctx.wait_until(Reached(got)), ctx.wait_until(functools.partial(bool, got))]  # type: ignore[arg-type]
        await asyncio.gather(*both)
        return got

    case = begin(calling)
    assert [event.what for event in case.last] == [f"{Reached.__qualname__}", "partial"]  # type: ignore[union-attr]
    case.signal("go", 1)
    assert case.result == [1]


def test_a_cancelled_wait_is_recorded_and_asked_no_more() -> None:
    asked: list[int] = []

    @app.workflow
    async def losing_interest(ctx: Context) -> None:
        def predicate() -> bool:
            asked.append(1)
            return False

        waiting = ctx.wait_until(predicate)
        assert waiting.cancel()
        assert not waiting.cancel()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1):
                await ctx.wait_until(lambda: False)
        await work(1)

    case = Case(app, losing_interest, check=False)
    assert [type(event).__name__ for event in case.history[1:4]] == [
        "ConditionAwaited",
        "WaitCancelled",
        "TimerStarted",
    ]
    case.wake()
    assert case.kinds == ["WaitCancelled", "ActivityScheduled"]
    case.complete_all(1)
    assert asked == [1]


def test_a_predicate_may_cancel_the_wait_of_another() -> None:
    @app.workflow
    async def jealous(ctx: Context) -> str:
        others: list[Any] = []
        on = False

        def first() -> bool:
            if on:
                others[0].cancel()
            return on

        waiting = ctx.wait_until(first)
        others.append(ctx.wait_until(lambda: on))
        await work(1)
        on = True
        await waiting
        return f"{others[0].cancelled()}"

    case = Case(app, jealous)
    case.complete_all(1)
    assert case.result == "True"
    assert case.kinds == ["WaitCancelled", "ConditionMet", "Completed"]


flavour = contextvars.ContextVar("flavour", default="outside")


def test_predicates_see_the_context_variables_of_the_code_that_waits() -> None:
    @app.workflow
    async def flavoured(ctx: Context) -> list[str]:
        flavour.set("run")
        seen: list[str] = []

        def predicate() -> bool:
            seen.append(flavour.get())
            flavour.set("predicate")
            return len(seen) > 2

        await ctx.wait_until(predicate)
        return seen

    flavour.set("service")
    case = Case(app, flavoured)
    case.signal("x", 1)
    assert case.result[0] == "run"
    assert "service" not in case.result
    assert flavour.get() == "service"


def test_conditions_are_asked_as_often_on_replay_as_live() -> None:
    @app.workflow
    async def nosy(ctx: Context) -> int:
        asked = 0

        def predicate() -> bool:
            nonlocal asked
            asked += 1
            return asked >= 7

        other = asyncio.ensure_future(ctx.wait_until(lambda: asked >= 4))
        await ctx.wait_until(predicate)
        await other
        return asked

    case = Case(app, nosy)
    for n in range(10):
        if case.run.closed is None:
            case.signal("x", n)
    assert case.result == 7


@pytest.mark.parametrize("how", ["cancel", "terminate"])
def test_a_run_that_closes_while_it_waits_records_no_more_than_the_wait(how: str) -> None:
    case = Case(app, counting, 2)
    end: Callable[[], Any] = case.cancel if how == "cancel" else case.terminate
    end()
    assert case.kinds == (["WaitCancelled", "Cancelled"] if how == "cancel" else [])
    assert case.run.wakeup_at() is None


def test_a_condition_without_a_waiter_does_no_harm() -> None:
    @app.workflow
    async def forgets(ctx: Context) -> int:
        ctx.wait_until(lambda: False)
        ctx.wait_until(lambda: ctx.info.history_events > 3)
        return await work(1)

    case = Case(app, forgets)
    case.complete_all(5)
    assert case.result == 5
