"""Sagas: undone in reverse, once, past failures and in spite of cancellations."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.engine.kit import Case, begin, state

from everstep import ActivityError, App, CompensationError, Context, Signal, days
from everstep_schemas import events

app = App("saga")
go = Signal[int]("go")


@app.activity
async def book(what: str) -> str:
    raise AssertionError("workers run activities")


@app.activity
async def undo(what: str) -> None:
    raise AssertionError("workers run activities")


def pending(case: Case) -> dict[str, int]:
    """What waits for an answer, as `book flight`, with its number."""
    return {f"{one[0]} {one[4][2:-2].decode()}": seq for seq, one in state(case.run)["activities"].items()}


def answer(case: Case, what: str, value: Any = None) -> None:
    case.complete(pending(case)[what], value)


def refuse(case: Case, what: str) -> None:
    case.fail(pending(case)[what], "Boom", f"no {what}", retryable=False)


async def trip(ctx: Context, *, wait: bool = False) -> Any:
    try:
        async with ctx.saga() as saga:
            saga.on_failure(undo, "hold")
            flight = await saga.step(book("flight"), undo=undo)
            hotel = await saga.step(book("hotel"), undo=undo)
            car = await saga.step(book("car"), undo=undo)
            return [flight, hotel, car]
    except CompensationError as error:
        return [str(error), [name for name, _ in error.failures], str(error.cause)]
    except ActivityError as error:
        return f"not booked: {error.cause}"


def test_what_succeeds_is_kept() -> None:
    case = begin(trip)
    for what in ("flight", "hotel", "car"):
        answer(case, f"book {what}", what[0])
    assert case.result == ["f", "h", "c"]


def test_what_was_done_is_undone_in_reverse_one_by_one() -> None:
    case = begin(trip)
    answer(case, "book flight", "f")
    answer(case, "book hotel", "h")
    refuse(case, "book car")
    assert list(pending(case)) == ["undo h"]
    answer(case, "undo h")
    assert list(pending(case)) == ["undo f"]
    answer(case, "undo f")
    assert list(pending(case)) == ["undo hold"]
    answer(case, "undo hold")
    assert case.result == "not booked: Boom: no book car"


def test_an_undo_that_fails_does_not_keep_the_others_from_being_tried() -> None:
    case = begin(trip)
    answer(case, "book flight", "f")
    answer(case, "book hotel", "h")
    refuse(case, "book car")
    refuse(case, "undo h")
    answer(case, "undo f")
    refuse(case, "undo hold")
    message, names, cause = case.result
    assert message.startswith(
        "2 of the saga's compensations failed (undo: activity 'undo' failed after 1 attempt: Boom"
    )
    assert names == ["undo", "undo"]
    assert cause == "activity 'book' failed after 1 attempt: Boom: no book car"


@pytest.mark.parametrize("odd", ["refused", "raises", "gives nothing", "cancelled"])
def test_whatever_an_undo_does_the_others_are_tried(odd: str) -> None:
    async def cancelled() -> None:
        handle = undo("x")
        handle.cancel()
        await handle

    def compensate(result: str) -> Any:
        match odd:
            case "refused":
                return undo(5)  # type: ignore[arg-type]  # the mistake that is found
            case "raises":
                raise ValueError
            case "gives nothing":
                return None
            case _:
                return cancelled()

    async def odd_trip(ctx: Context) -> list[str]:
        try:
            async with ctx.saga() as saga:
                await saga.step(book("flight"), undo=undo)
                await saga.step(book("hotel"), undo=compensate)
                raise RuntimeError("enough")
        except CompensationError as error:
            failures = [f"{name} {type(one).__name__}" for name, one in error.failures]
            return [*failures, str(error.cause), str(error)]

    case = begin(odd_trip)
    answer(case, "book flight", "f")
    answer(case, "book hotel", "h")
    assert list(pending(case)) == ["undo f"]
    answer(case, "undo f")
    error = {"refused": "PayloadError", "raises": "ValueError", "gives nothing": "TypeError"}.get(odd, "CancelledError")
    *told, message = case.result
    assert told == [f"{compensate.__qualname__} {error}", "enough"]
    assert odd != "gives nothing" or "it gave None, nothing to await" in message


def test_a_run_that_is_cancelled_is_undone_and_ends_as_cancelled() -> None:
    case = begin(trip)
    answer(case, "book flight", "f")
    case.cancel("customer asked")
    assert case.kinds == ["ActivityCancelled", "ActivityScheduled"]
    answer(case, "undo f")
    answer(case, "undo hold")
    assert case.history[-1] == events.Cancelled(reason="customer asked")


def test_a_cancellation_while_undoing_waits_until_all_is_undone() -> None:
    case = begin(trip)
    answer(case, "book flight", "f")
    answer(case, "book hotel", "h")
    refuse(case, "book car")
    case.cancel("now")
    assert case.kinds == []
    for what in ("h", "f", "hold"):
        answer(case, f"undo {what}")
    assert case.history[-1] == events.Cancelled(reason="now")


def test_a_cancellation_while_undoing_fails_is_told_as_the_failure() -> None:
    async def trip(ctx: Context) -> None:
        async with ctx.saga() as saga:
            await saga.step(book("flight"), undo=undo)
            raise ValueError("enough")

    case = begin(trip)
    answer(case, "book flight", "f")
    case.cancel("now")
    refuse(case, "undo f")
    assert case.error.type == "everstep.errors.CompensationError"
    assert case.error.cause is not None
    assert case.error.cause.message == "enough"


def test_a_timeout_while_undoing_comes_after_it() -> None:
    async def hurried(ctx: Context) -> str:
        try:
            async with asyncio.timeout(5):
                async with ctx.saga() as saga:
                    await saga.step(book("flight"), undo=undo)
                    raise ValueError("enough")
        except TimeoutError:
            return "late"
        return "?"

    case = begin(hurried)
    answer(case, "book flight", "f")
    case.wake()
    assert list(pending(case)) == ["undo f"]
    answer(case, "undo f")
    assert case.result == "late"


def test_a_step_that_has_succeeded_while_its_task_is_cancelled_is_undone() -> None:
    async def overtaken(ctx: Context) -> str:
        async def booking() -> None:
            async with ctx.saga() as saga:
                handle = book("flight")
                handle.add_done_callback(lambda _: task.cancel())
                await saga.step(handle, undo=undo)

        task = asyncio.create_task(booking())
        try:
            await task
        except asyncio.CancelledError:
            return "cancelled"
        return "?"

    case = begin(overtaken)
    answer(case, "book flight", "f")
    assert list(pending(case)) == ["undo f"]
    answer(case, "undo f")
    assert case.result == "cancelled"


def test_a_step_that_was_cancelled_has_nothing_to_undo() -> None:
    async def impatient(ctx: Context) -> str:
        try:
            async with ctx.saga() as saga, asyncio.timeout(5):
                await saga.step(book("flight"), undo=undo)
        except TimeoutError:
            return "late"
        return "?"

    case = begin(impatient)
    case.wake()
    assert case.result == "late"
    assert case.kinds == ["ActivityCancelled", "Completed"]


def test_steps_side_by_side_are_undone_in_the_reverse_of_their_success() -> None:
    async def parallel(ctx: Context) -> str:
        try:
            async with ctx.saga() as saga, asyncio.TaskGroup() as group:
                for what in ("a", "b", "c"):
                    group.create_task(saga.step(book(what), undo=undo))
        except ExceptionGroup as errors:
            return f"{len(errors.exceptions)} failed"
        return "?"

    case = begin(parallel)
    answer(case, "book b", "b")
    answer(case, "book a", "a")
    refuse(case, "book c")
    assert list(pending(case)) == ["undo a"]
    answer(case, "undo a")
    answer(case, "undo b")
    assert case.result == "1 failed"


def test_sagas_can_be_nested_and_used_again() -> None:
    async def nested(ctx: Context) -> str:
        async with ctx.saga() as outer:
            await outer.step(book("a"), undo=undo)
        try:
            async with outer:
                async with ctx.saga() as inner:
                    await inner.step(book("b"), undo=undo)
                await outer.step(book("c"), undo=undo)
                raise ValueError
        except ValueError:
            return "done"

    case = begin(nested)
    for what in ("a", "b", "c"):
        answer(case, f"book {what}", what)
    assert list(pending(case)) == ["undo c"], "what its first use or another saga has done is done"
    answer(case, "undo c")
    assert case.result == "done"


def test_undoing_may_take_whole_programs() -> None:
    async def long_undo(ctx: Context) -> str:
        async def slowly(what: str) -> None:
            await ctx.sleep(days(1))
            await ctx.map(undo, [what, what])

        try:
            async with ctx.saga() as saga:
                await saga.step(book("flight"), undo=slowly)
                await ctx.wait_for_signal(go)
                raise ValueError
        except ValueError:
            return "undone"

    case = begin(long_undo)
    answer(case, "book flight", "f")
    case.signal("go", 1)
    case.wake()
    case.complete_all()
    assert case.result == "undone"


@pytest.mark.parametrize("end", ["terminate", "time out"])
def test_a_run_that_is_closed_from_outside_undoes_nothing(end: str) -> None:
    case = begin(trip, begin={"timeout_seconds": 60.0})
    answer(case, "book flight", "f")
    case.terminate() if end == "terminate" else case.wake()
    assert case.kinds == ["ActivityCancelled"]


def test_a_run_that_leaves_memory_undoes_nothing_and_goes_on_where_it_was() -> None:
    case = begin(trip)
    answer(case, "book flight", "f")
    before = case.run.next_seq
    case.run.evict()
    assert case.run.next_seq == before
    case.run = case.replayed()
    refuse(case, "book hotel")
    case.run.evict()
    case.run = case.replayed()
    answer(case, "undo f")
    answer(case, "undo hold")
    assert case.result == "not booked: Boom: no book hotel"


def test_what_cannot_undo_is_found_before_the_step_is_done() -> None:
    async def mistaken(ctx: Context) -> str:
        async with ctx.saga() as saga:
            step: Any = saga.step
            on_failure: Any = saga.on_failure
            with pytest.raises(TypeError, match=r"saga\.on_failure: the first argument is a function .* this is 5$"):
                on_failure(5)
            with pytest.raises(TypeError, match=r"saga\.step: undo is a function or an activity, not called yet"):
                await step(book("flight"), undo=undo("flight"))
            with pytest.raises(TypeError, match=r"this is None$"):
                await step(book("hotel"), undo=None)
            return "told"

    assert begin(mistaken).result == "told"


def test_a_saga_outside_of_its_block_says_that_it_would_undo_nothing() -> None:
    async def mistaken(ctx: Context) -> str:
        saga = ctx.saga()
        with pytest.raises(RuntimeError, match=r"within its block: `async with ctx\.saga\(\) as saga`"):
            await saga.step(book("flight"), undo=undo)
        async with saga:
            saga.on_failure(undo, "hold")
        with pytest.raises(RuntimeError, match=r"within its block"):
            saga.on_failure(undo, "hold")
        return "told"

    assert begin(mistaken).result == "told"
