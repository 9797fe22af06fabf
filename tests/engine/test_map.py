"""`ctx.map`: so many at a time, in order, with an account of every item; whatever happens, it ends."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from typing import Any

import pytest
from tests.engine.kit import Case, begin, state
from tests.engine.test_cost import calls

from everstep import ActivityError, App, ChildError, Context, Failures, MapError, MapResult, Signal, days
from everstep_schemas import events

app = App("map")
go = Signal[int]("go")


@app.activity
async def work(n: int) -> int:
    raise AssertionError("workers run activities")


@app.activity
async def batch(ns: list[int]) -> list[int]:
    raise AssertionError("workers run activities")


@app.workflow
async def child(ctx: Context, n: int) -> int:
    return await work(n)


def pending(case: Case) -> dict[int, int]:
    """The numbers of the activities that wait for an answer, with their argument."""
    return {seq: int(one[4][1:-1]) for seq, one in state(case.run)["activities"].items()}


def finish(case: Case, *, failing: tuple[int, ...] = (), newest_first: bool = False) -> None:
    """Answer what is pending until nothing is: with ten times the argument, or a failure."""
    while open_ones := pending(case):
        seq = max(open_ones) if newest_first else min(open_ones)
        n = open_ones[seq]
        if n in failing:
            case.fail(seq, "Boom", f"{n} broke", retryable=False)
        else:
            case.complete(seq, n * 10)


@pytest.mark.parametrize("newest_first", [False, True])
def test_results_come_in_the_order_of_the_items_and_never_more_run_than_allowed(newest_first: bool) -> None:
    async def mapping(ctx: Context) -> list[int]:
        return await ctx.map(work, range(7), concurrency=3)

    case = begin(mapping)
    assert pending(case) == {2: 0, 3: 1, 4: 2}
    case.complete(3, 10)
    assert pending(case) == {2: 0, 4: 2, 6: 3}
    finish(case, newest_first=newest_first)
    assert case.result == [0, 10, 20, 30, 40, 50, 60]


@pytest.mark.parametrize("items", [[], (), range(0), iter([])])
def test_nothing_to_do_is_done(items: Any) -> None:
    async def mapping(ctx: Context) -> list[Any]:
        tolerant: MapResult[int, int] = await ctx.map(work, [], tolerate=Failures(0))
        batches = await ctx.map_batches(batch, [], size=5)
        return [await ctx.map(work, items), len(tolerant), tolerant.values, batches]

    assert begin(mapping).result == [[], 0, [], []]


def test_the_first_failure_cancels_the_rest_and_is_raised_as_it_is() -> None:
    async def mapping(ctx: Context) -> str:
        try:
            await ctx.map(work, range(6), concurrency=4)
        except ActivityError as error:
            return f"{error.type} {ctx.info.history_events}"
        return "?"

    case = begin(mapping)
    case.fail(4, "Boom", retryable=False)
    assert case.last[:3] == [events.ActivityCancelled(ref=seq) for seq in (2, 3, 5)]
    assert case.result == "Boom 9"


def test_failures_are_tolerated_and_told_apart() -> None:
    async def mapping(ctx: Context) -> Any:
        result = await ctx.map(work, range(5), concurrency=2, tolerate=Failures(2))
        assert len(result) == 5
        outcomes = [[one.index, one.item, one.ok, one.error and one.error.type] for one in result]  # type: ignore[union-attr]
        with pytest.raises(ActivityError):
            _ = result.failed[0].value
        return [result.values, [one.item for one in result.failed], outcomes, repr(result)]

    case = begin(mapping)
    finish(case, failing=(1, 3))
    assert case.result == [
        [0, 20, 40],
        [1, 3],
        [[0, 0, True, None], [1, 1, False, "Boom"], [2, 2, True, None], [3, 3, False, "Boom"], [4, 4, True, None]],
        "<map result: 3 of 5 ok, 2 failed>",
    ]


def test_one_failure_too_many_ends_the_map_with_all_that_is_known() -> None:
    async def mapping(ctx: Context) -> Any:
        try:
            await ctx.map(work, range(6), concurrency=3, tolerate=Failures(1))
        except MapError as error:
            unended = [one.item for one in error.result if not one.ok and one.error is None]
            with pytest.raises(ValueError, match="cancelled before it ended"):
                _ = list(error.result)[unended[0]].value
            return [str(error), error.result.values, unended, str(error.cause)]
        return "?"

    case = begin(mapping)
    finish(case, failing=(1, 3))
    assert case.result == [
        "2 of 6 items failed, and 1 may; the last error: activity 'work' failed after 1 attempt: Boom: 3 broke",
        [0, 20],
        [4, 5],
        "activity 'work' failed after 1 attempt: Boom: 3 broke",
    ]


def test_enough_successes_end_it_and_the_rest_is_cancelled() -> None:
    async def mapping(ctx: Context) -> Any:
        result = await ctx.map(work, range(5), enough=2)
        return [result.values, len(result), len(result.failed), repr(list(result)[4])]

    case = begin(mapping)
    case.fail(2, "Boom", retryable=False)
    case.complete(5, 30)
    case.complete(3, 10)
    assert case.last[:2] == [events.ActivityCancelled(ref=4), events.ActivityCancelled(ref=6)]
    assert case.result == [[10, 30], 5, 1, "<item 4 4: not ended>"]


def test_enough_that_has_become_impossible_is_an_error_at_once() -> None:
    async def mapping(ctx: Context) -> str:
        try:
            await ctx.map(work, range(3), enough=2)
        except MapError as error:
            return str(error)
        return "?"

    case = begin(mapping)
    finish(case, failing=(0, 1))
    assert case.result.startswith("2 of 3 items failed, and 2 of 3 were to succeed; the last error: activity 'work'")
    assert pending(case) == {}


def test_of_both_limits_the_stricter_holds() -> None:
    async def mapping(ctx: Context, tolerated: int, enough: int) -> str:
        try:
            await ctx.map(work, range(6), tolerate=Failures(tolerated), enough=enough)
        except MapError as error:
            return str(error).split(",")[0]
        return "ok"

    strict = begin(mapping, 1, 2)
    finish(strict, failing=(0, 1, 2, 3, 4, 5))
    assert strict.result == "2 of 6 items failed"
    impossible = begin(mapping, 6, 4)
    finish(impossible, failing=(0, 1, 2, 3, 4, 5))
    assert impossible.result == "3 of 6 items failed"


@pytest.mark.parametrize(
    ("failures", "total", "most"),
    [
        (Failures(3), 100, 3),
        (Failures(ratio=0.29), 100, 29),
        (Failures(ratio=0.07), 100, 7),
        (Failures(ratio=0.01), 99, 0),
        (Failures(ratio=1), 7, 7),
        (Failures(ratio=0), 7, 0),
        (Failures(3, ratio=0.5), 4, 2),
        (Failures(1, ratio=0.5), 4, 1),
    ],
)
def test_a_ratio_is_as_it_is_written(failures: Failures, total: int, most: int) -> None:
    assert failures.most(total) == most


NAN = float("nan")


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"count": -1},
        {"count": 2.5},
        {"count": NAN},
        {"count": "3"},
        {"count": True},
        {"ratio": 1.5},
        {"ratio": -0.1},
        {"ratio": NAN},
    ],
)
def test_failures_are_numbers_that_make_sense(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="Failures"):
        Failures(**given)


@pytest.mark.parametrize(
    "given",
    [
        {"concurrency": 0},
        {"concurrency": -1},
        {"concurrency": NAN},
        {"concurrency": 1.5},
        {"concurrency": "3"},
        {"enough": 0},
        {"enough": 4},
        {"enough": NAN},
        {"enough": 2.0},
    ],
)
def test_numbers_that_make_no_sense_are_refused_before_anything_starts(given: dict[str, Any]) -> None:
    async def mapping(ctx: Context) -> str:
        with pytest.raises(ValueError, match=r"ctx\.map"):
            ctx.map(work, range(3), **given)
        with pytest.raises(ValueError, match=r"ctx\.map_batches: size"):
            ctx.map_batches(batch, range(3), size=given.get("concurrency", 0))
        return "refused"

    case = begin(mapping)
    assert case.result == "refused"
    assert len(case.history) == 2


def test_what_is_tolerated_is_said_by_failures() -> None:
    async def mapping(ctx: Context) -> None:
        await ctx.map(work, range(3), tolerate=1)  # type: ignore[call-overload]  # the mistake that is found

    assert "ctx.map: tolerate is `Failures(3)`" in begin(mapping).error.message


def test_children_and_functions_can_be_mapped() -> None:
    async def mapping(ctx: Context) -> Any:
        async def twice(n: int) -> int:
            return await work(n) + await work(n)

        by_child = await ctx.map(child, [1, 2], tolerate=Failures(1))
        by_function = await ctx.map(twice, [3, 4], concurrency=1)
        assert isinstance(by_child.failed[0].error, ChildError)
        return [by_child.values, by_function]

    case = begin(mapping)
    case.child_failed(2, "terminated")
    case.child_completed(3, 20)
    finish(case)
    assert case.result == [[20], [60, 80]]


@pytest.mark.parametrize("tolerant", [False, True])
def test_a_call_that_is_refused_is_the_failure_of_its_item(tolerant: bool) -> None:
    async def mapping(ctx: Context) -> Any:
        items: list[Any] = [1, "two", 3]
        if tolerant:
            result = await ctx.map(work, items, tolerate=Failures(1))
            return [result.values, [type(one.error).__name__ for one in result.failed]]
        try:
            return await ctx.map(work, items)
        except Exception as error:
            return type(error).__name__

    case = begin(mapping)
    finish(case)
    assert case.result == ([[10, 30], ["PayloadError"]] if tolerant else "PayloadError")


ODD = [SystemExit, KeyboardInterrupt, GeneratorExit, StopIteration, asyncio.CancelledError, BaseException]


@pytest.mark.parametrize("error", ODD)
@pytest.mark.parametrize("when", ["at once", "later"])
@pytest.mark.parametrize("how", ["call", "coroutine"])
def test_whatever_an_item_raises_the_map_ends(error: type[BaseException], when: str, how: str) -> None:
    async def mapping(ctx: Context) -> str:
        async def awaited(n: int) -> int:
            if n == (0 if when == "at once" else 2):
                raise error("odd")
            return await work(n)

        def called(n: int) -> Any:
            if n == (0 if when == "at once" else 2):
                raise error("odd")
            return work(n)

        fn: Callable[[int], Any] = awaited if how == "coroutine" else called
        try:
            await ctx.map(fn, range(4), concurrency=2, tolerate=Failures(1))
        except BaseException as raised:
            return type(raised).__name__
        return "tolerated"

    case = begin(mapping)
    finish(case)
    if error is StopIteration:
        assert case.result == "tolerated"
    elif error is GeneratorExit:
        assert case.result == "RuntimeError"
    else:
        assert case.result == error.__name__


def test_a_function_that_gives_nothing_to_await_fails_its_items() -> None:
    async def mapping(ctx: Context) -> str:
        try:
            await ctx.map(lambda n: n, range(3))  # type: ignore[arg-type,return-value]  # the mistake that is found
        except TypeError as error:
            return str(error)
        return "?"

    assert "awaitable" in begin(mapping).result


def test_one_future_for_several_items_is_the_outcome_of_each() -> None:
    async def mapping(ctx: Context) -> list[int]:
        shared = work(5)
        return await ctx.map(lambda n: shared, range(3), concurrency=2)

    case = begin(mapping)
    case.complete(2, 7)
    assert case.result == [7, 7, 7]


def test_items_are_told_as_they_end_to_any_number_of_listeners() -> None:
    async def mapping(ctx: Context) -> list[Any]:
        handle = ctx.map(work, range(4), concurrency=2, tolerate=Failures(1))
        heard: list[Any] = []

        async def listen(name: str) -> None:
            async for one in handle:
                heard.append([name, one.index, one.ok])  # noqa: PERF401  # another one listens, too

        cancelled, listening = asyncio.ensure_future(listen("a")), asyncio.ensure_future(listen("b"))
        await ctx.wait_for_signal(go)
        cancelled.cancel()
        await listening
        heard.append(len(await handle))
        return [*heard, *[one.index async for one in handle]]

    case = begin(mapping)
    case.complete(3, 1)
    case.signal("go", 1)
    finish(case, failing=(2,))
    told = case.result
    assert told[:2] == [["a", 1, True], ["b", 1, True]]
    assert told[2:] == [["b", 0, True], ["b", 2, False], ["b", 3, True], 4, 1, 0, 2, 3]


def test_who_is_cancelled_waiting_for_the_next_item_cancels_the_rest() -> None:
    async def mapping(ctx: Context) -> list[int]:
        heard: list[int] = []
        try:
            async for one in ctx.map(work, range(9), concurrency=2):
                heard.append(one.index)  # noqa: PERF401  # what was heard before the cancellation
        except asyncio.CancelledError:
            await ctx.wait_for_signal(go)  # puts things right; meanwhile nothing of the map is begun
        return heard

    case = begin(mapping)
    case.complete(2, 1)
    case.cancel()
    assert case.last[:2] == [events.ActivityCancelled(ref=3), events.ActivityCancelled(ref=5)]
    assert case.pending() == []
    case.signal("go", 1)
    assert case.result == [0]


def test_a_loop_that_is_left_leaves_the_rest_to_go_on() -> None:
    async def mapping(ctx: Context) -> list[int]:
        handle = ctx.map(work, range(3), concurrency=1)
        async for one in handle:
            if one.index == 0:
                break
        return await handle

    case = begin(mapping)
    finish(case)
    assert len(case.result) == 3


def test_iterating_ends_with_what_awaiting_would_raise() -> None:
    async def mapping(ctx: Context) -> list[Any]:
        heard: list[Any] = []
        for limit in (None, Failures(0)):
            handle: Any = ctx.map(work, range(2)) if limit is None else ctx.map(work, range(2), tolerate=limit)
            heard += await until_it_raises(handle)
        cancelled = ctx.map(work, range(2))
        cancelled.cancel()
        return heard + await until_it_raises(cancelled)

    async def until_it_raises(handle: Any) -> list[Any]:
        heard: list[Any] = []
        try:
            async for one in handle:
                heard.append(one.index)  # noqa: PERF401  # what was heard before the error
        except BaseException as error:
            heard.append(type(error).__name__)
        return heard

    case = begin(mapping)
    case.fail(3, "Boom", retryable=False)
    case.fail(case.pending()[1], "Boom", retryable=False)
    assert case.result == [1, "ActivityError", 1, "MapError", "CancelledError"]


def test_a_map_that_is_cancelled_cancels_what_runs_and_starts_nothing_more() -> None:
    async def mapping(ctx: Context) -> str:
        try:
            async with asyncio.timeout(5):
                await ctx.map(work, range(9), concurrency=2)
        except TimeoutError:
            return "late"
        return "?"

    case = begin(mapping)
    case.complete(3, 1)
    case.wake()
    assert case.last[:2] == [events.ActivityCancelled(ref=4), events.ActivityCancelled(ref=6)]
    assert case.result == "late"


def test_tasks_that_are_cancelled_may_clean_up_and_count_no_more() -> None:
    async def mapping(ctx: Context) -> list[Any]:
        cleaned: list[int] = []

        async def careful(n: int) -> int:
            try:
                return await work(n)
            except asyncio.CancelledError:
                await ctx.sleep(days(1))
                cleaned.append(n)
                raise

        handle = ctx.map(careful, range(3), enough=1)
        await handle
        before = list(cleaned)
        await ctx.sleep(days(2))
        return [before, cleaned, handle.progress.running]

    case = begin(mapping)
    case.complete(3, 1)
    for _ in range(3):
        case.wake()
    assert case.result == [[], [0, 2], 0]


def test_batches() -> None:
    async def mapping(ctx: Context) -> list[int]:
        return await ctx.map_batches(batch, range(7), size=3, concurrency=2)

    case = begin(mapping)
    assert [one[4] for one in state(case.run)["activities"].values()] == [b"[[0,1,2]]", b"[[3,4,5]]"]
    case.complete(3, [30, 40, 50])
    case.complete(2, [0, 10, 20])
    case.complete(5, [60])
    assert case.result == [0, 10, 20, 30, 40, 50, 60]


@pytest.mark.parametrize("given", [None, 5, "text"])
def test_a_batch_that_gives_no_list_is_an_error(given: Any) -> None:
    async def mapping(ctx: Context) -> str:
        async def loose(ns: list[int]) -> Any:
            await batch(ns)
            return given

        try:
            await ctx.map_batches(loose, range(4), size=2)
        except TypeError as error:
            return str(error)
        return "?"

    case = begin(mapping)
    for seq in (2, 3):
        case.complete(seq, [])
    assert case.result == f"ctx.map_batches: a call gave {type(given).__name__}, and not a list of results"


def test_its_progress_can_be_queried_unless_the_code_says_something_else() -> None:
    async def mapping(ctx: Context, own: bool) -> None:
        if own:
            ctx.expose(progress=lambda: "own")
        await ctx.map(functools.partial(work), range(2), concurrency=1)
        await ctx.map(work, range(3), tolerate=Failures(1))

    case = begin(mapping, False)
    case.complete(2, 1)
    assert case.query("progress") == [{"of": "partial", "total": 2, "done": 1, "failed": 0, "running": 1}]
    case.complete(4, 1)
    case.fail(7, "Boom", retryable=False)
    assert case.query("progress")[1] == {"of": "work", "total": 3, "done": 0, "failed": 1, "running": 2}
    assert begin(mapping, True).query("progress") == "own"


def test_only_the_newest_maps_are_shown() -> None:
    async def mapping(ctx: Context) -> None:
        for _ in range(150):
            await ctx.map(work, [])
        await work(1)

    assert len(begin(mapping).query("progress")) == 100


@pytest.mark.parametrize("end", ["return", "cancel", "terminate"])
def test_a_run_that_closes_meanwhile_cancels_what_runs(end: str) -> None:
    async def mapping(ctx: Context) -> None:
        handle = ctx.map(work, range(5), concurrency=2)
        async for _ in handle:
            return

    case = begin(mapping)
    ends: dict[str, Callable[[], Any]] = {"cancel": case.cancel, "terminate": case.terminate}
    ends.get(end, lambda: case.complete(2, 1))()
    cancelled = [event.ref for event in case.last if isinstance(event, events.ActivityCancelled)]
    assert cancelled == ([3, 5] if end == "return" else [2, 3])
    assert case.run.closed is not None


def test_each_of_many_items_costs_as_much_as_each_of_few() -> None:
    @app.workflow(name="many items")
    async def mapping(ctx: Context, count: int, limit: int) -> int:
        return len(await ctx.map(work, range(count), concurrency=limit))

    def cost(count: int, limit: int) -> float:
        def run() -> None:
            case = Case(app, mapping, count, limit, check=False)
            answered = 0
            while case.run.closed is None:
                seq = next(iter(case.run._program.scope.activities))
                case.complete(seq, 1)
                answered += 1
            assert answered == count

        return calls(run) / count

    assert cost(5_000, 5_000) < 1.05 * cost(500, 500)
    assert cost(5_000, 50) < 1.05 * cost(500, 50)
