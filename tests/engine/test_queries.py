"""Queries: they look, live and on a replay, during the run and after it; whatever they try stays without effect."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from tests.engine.kit import Case, begin, replay, state

from everstep import App, Context, Query, Signal, days
from everstep._core.engine import CannotRun, LiveRun, QueryFailed

go = Signal[int]("go")
tools = App("tools")


@tools.activity
async def work(n: int) -> int:
    raise AssertionError("workers run activities")


@dataclass
class Account:
    owner: str
    cents: int


current = Query[Account]("current")


async def banking(ctx: Context) -> int:
    account = Account("Ada", 0)
    ctx.on_query(current, lambda: account)

    ctx.on_query("plus", lambda n: account.cents + n)
    ctx.expose(owner=account.owner, cents=lambda: account.cents, history=lambda: ctx.info.history_events)
    while account.cents < 10:
        account.cents += await ctx.wait_for_signal(go)
    ctx.set_status("rich")
    return account.cents


def test_a_query_tells_what_the_code_knows_now() -> None:
    case = begin(banking)
    assert case.query("current") == {"owner": "Ada", "cents": 0}
    case.signal("go", 3)
    assert case.query("current") == {"owner": "Ada", "cents": 3}
    assert case.query("plus", 4) == 7
    assert case.query("owner") == "Ada"
    assert case.query("cents") == 3
    assert case.query("history") == 4
    assert case.run.query_names() == ["cents", "current", "history", "owner", "plus"]


def test_a_run_that_stays_answers_after_its_end_and_one_that_has_left_says_so() -> None:
    case = begin(banking)
    case.signal("go", 30)
    with pytest.raises(LookupError, match="has left memory"):
        case.run.query("current", [])
    again = replay(case.engine, case.identity, case.rows, stays=True)
    assert again.closed == "completed"
    assert again.query("current", []) == b'{"owner":"Ada","cents":30}'
    assert again.custom_status == "rich"
    assert again.accept(None, case.now) is None  # type: ignore[arg-type]  # closed, it takes nothing
    assert again.wakeup_at() is None
    again.evict()
    with pytest.raises(LookupError, match="has left memory"):
        again.query("current", [])


@pytest.mark.parametrize("end", ["terminate", "cancel", "fail"])
def test_however_it_has_ended(end: str) -> None:
    async def fragile(ctx: Context) -> None:
        steps = 0
        ctx.expose(steps=lambda: steps)
        try:
            await work(1)
            steps += 1
            await work(2)
        finally:
            steps += 10

    case = begin(fragile)
    case.complete(2, 1)
    ends: dict[str, Callable[[], Any]] = {"terminate": case.terminate, "cancel": case.cancel}
    ends.get(end, lambda: case.fail(4, "Boom", retryable=False))()
    again = replay(case.engine, case.identity, case.rows, stays=True)
    expected = {"terminate": b"1", "cancel": b"11", "fail": b"11"}
    assert again.query("steps", []) == expected[end], "a run that is ended from outside runs no code for that"
    again.evict()


def failed(run: LiveRun, name: str, *args: Any) -> QueryFailed:
    with pytest.raises(QueryFailed) as caught:
        run.query(name, list(args))
    return caught.value


def test_it_answers_also_when_it_ended_in_the_step_that_cancelled_a_task() -> None:
    async def racing(ctx: Context) -> int:
        async def slow() -> int:
            await ctx.sleep(days(1))
            return 1

        answers = await ctx.map(lambda n: work(n) if n else slow(), [0, 1, 2], enough=2)
        ctx.expose(won=len(answers.values))
        return len(answers)

    case = begin(racing)
    case.complete(2, 1)
    case.complete(3, 2)
    again = replay(case.engine, case.identity, case.rows, stays=True)
    assert (again.closed, again.query("won", [])) == ("completed", b"2")
    assert again.query("won", []) == b"2"
    again.evict()


def test_what_has_no_answer_says_why() -> None:
    async def answering(ctx: Context) -> None:
        ctx.on_query("one", lambda: 1)
        ctx.on_query(Query[int]("typed"), lambda: "seven")  # type: ignore[arg-type,return-value]  # found when asked
        ctx.on_query("nan", lambda: float("nan"))
        ctx.on_query("object", lambda: object())
        ctx.on_query("fails", lambda: 1 // 0)
        await work(1)

    case = begin(answering)
    unknown = failed(case.run, "two")
    assert unknown.unknown
    assert "'fails', 'nan', 'object', 'one', 'typed'" in str(unknown)
    assert str(failed(case.run, "typed")) == (
        "the answer to query 'typed' cannot be written: Expected `int`, got `str` - at `$`"
    )
    assert "JSON has no nan" in str(failed(case.run, "nan"))
    assert "cannot be written" in str(failed(case.run, "object"))
    assert str(failed(case.run, "fails")).startswith("query 'fails' failed: ZeroDivisionError")
    assert "positional argument" in str(failed(case.run, "one", 1, 2))
    assert not failed(case.run, "one", 1).unknown


class Silent(Exception):
    def __str__(self) -> str:
        raise KeyError


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, GeneratorExit, asyncio.CancelledError, Silent])
def test_whatever_a_query_raises_is_its_failure(error: type[BaseException]) -> None:
    def raising() -> None:
        raise error

    async def answering(ctx: Context) -> int:
        ctx.on_query("odd", raising)
        return await work(1)

    case = begin(answering)
    assert error.__name__ in str(failed(case.run, "odd"))
    case.complete(2, 5)
    assert case.result == 5


def test_a_query_that_awaits_is_refused() -> None:
    async def answering(ctx: Context) -> None:
        async def looking() -> int:
            return 1

        with pytest.raises(TypeError, match="write `def`"):
            ctx.on_query("direct", looking)
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        handle = work(1)
        ctx.on_query("coroutine", lambda: looking())
        ctx.on_query("future", lambda: future)
        ctx.on_query("handle", lambda: handle)
        ctx.expose(exposed=looking)
        await handle

    case = begin(answering)
    for name in ("coroutine", "future", "handle", "exposed"):
        assert "awaits something" in str(failed(case.run, name))
    case.complete(2, 5)
    assert case.run.closed == "completed"


def trying(use: Callable[[Context, asyncio.Event], Any]) -> Case:
    async def answering(ctx: Context) -> list[Any]:
        event = asyncio.Event()
        waiter = asyncio.ensure_future(event.wait())
        await asyncio.sleep(0)
        ctx.on_query("q", lambda: use(ctx, event) and None)
        await ctx.wait_for_signal(go)
        return [waiter.done(), event.is_set(), ctx.random.random(), str(ctx.uuid4())]

    return begin(answering)


@pytest.mark.parametrize(
    "use",
    [
        pytest.param(lambda ctx, event: work(1), id="activity"),
        pytest.param(lambda ctx, event: ctx.sleep(days(1)), id="sleep"),
        pytest.param(lambda ctx, event: ctx.set_status("x"), id="status"),
        pytest.param(lambda ctx, event: ctx.patched("x"), id="patched"),
        pytest.param(lambda ctx, event: ctx.on_query("r", lambda: 1), id="another query"),
        pytest.param(lambda ctx, event: ctx.attributes.clear() or ctx.attributes.update(a=1), id="attributes"),
    ],
)
def test_commands_are_refused_with_words(use: Callable[[Context, asyncio.Event], Any]) -> None:
    case = trying(use)
    before = state(case.run)
    assert "it leaves no event" in str(failed(case.run, "q"))
    assert state(case.run) == before
    case.signal("go", 1)
    assert case.result == untouched()


def test_what_was_tried_is_named() -> None:
    said = str(failed(trying(lambda ctx, event: work(1)).run, "q"))
    assert "has tried to do something (activity 'work' on queue 'default')" in said


def test_chance_is_as_it_was() -> None:
    def draw(ctx: Context, event: asyncio.Event) -> None:
        ctx.uuid4()
        ctx.random.seed(7)
        ctx.random.random()

    case = trying(draw)
    assert case.run.query("q", []) == b"null"
    assert case.run.query("q", []) == b"null"
    case.signal("go", 1)
    assert case.result == untouched()


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
@pytest.mark.parametrize(
    "use",
    [
        pytest.param(lambda ctx, event: event.set(), id="event"),
        pytest.param(lambda ctx, event: asyncio.ensure_future(event.wait()), id="task"),
    ],
)
def test_one_that_changes_the_run_is_told_from_one_that_fails(use: Callable[[Context, asyncio.Event], Any]) -> None:
    case = trying(use)
    with pytest.raises(CannotRun, match="has changed what the run does next"):
        case.run.query("q", [])
    case.run.evict()
    case.run = case.replayed()
    case.signal("go", 1)
    assert case.result == untouched()


def untouched() -> Any:
    case = trying(lambda ctx, event: None)
    case.signal("go", 1)
    return case.result


def test_looking_at_a_message_is_not_receiving_it() -> None:
    async def peeking(ctx: Context) -> list[Any]:
        waiting = ctx.wait_for_signal(go)
        ctx.on_query("peek", lambda: waiting.result() if waiting.done() else None)
        await work(1)
        waiting.cancel()
        return [await ctx.wait_for_signal(go, timeout=days(1), default=None)]

    case = begin(peeking)
    case.signal("go", 7)
    assert case.query("peek") == 7
    case.complete(3, 1)
    assert case.result == [7]


def test_a_query_sees_the_context_variables_and_the_time_of_the_run() -> None:
    async def telling(ctx: Context) -> None:
        ctx.on_query("now", lambda: ctx.now().isoformat())
        await work(1)

    case = begin(telling)
    assert case.query("now") == "2023-11-14T22:13:20+00:00"


def test_lines_that_a_query_logs_are_its_own() -> None:
    async def telling(ctx: Context) -> int:
        ctx.on_query("log", lambda: ctx.log.info("asked"))
        return await work(1)

    case = begin(telling)
    assert case.query("log") is None
    case.complete(2, 5)
    assert case.result == 5
