"""asyncio within a workflow: what authors know works, durably, the same on every Python."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, cast

import pytest
from tests.engine.kit import Case

from everstep import ActivityError, App, Context
from everstep_schemas import events

Body = Callable[[Context], Coroutine[Any, Any, Any]]
_apps = App("asyncio")


@_apps.activity
async def work(n: int) -> int:
    raise AssertionError("workers run activities")


def begin(body: Body) -> Case:
    """A case of a workflow with that body."""
    app = App("one", include=[_apps])

    @app.workflow
    async def workflow(ctx: Context) -> Any:
        return await body(ctx)

    return Case(app, workflow)


def number(case: Case, n: int) -> int:
    """The number of the pending activity `work(n)`."""
    pending = case.run._program.scope.activities._pending
    return next(seq for seq, one in pending.items() if bytes(one.scheduled.args) == b"[%d]" % n)


def test_gather_keeps_the_order_of_its_arguments() -> None:
    async def body(ctx: Context) -> tuple[int, ...]:
        async def double(n: int) -> int:
            return 2 * await work(n)

        shared = work(3)
        return await asyncio.gather(work(1), double(2), shared, shared)

    case = begin(body)
    for n in (3, 1, 2):
        case.complete(number(case, n), n)
    assert case.result == [1, 4, 3, 3]


def test_gather_of_nothing_of_done_ones_and_with_exceptions() -> None:
    async def body(ctx: Context) -> list[Any]:
        assert await asyncio.gather() == []
        done = work(1)
        await done
        failed = work(2)
        cancelled = work(3)
        cancelled.cancel()
        outcomes = await asyncio.gather(done, failed, cancelled, return_exceptions=True)
        with pytest.raises(ActivityError):
            await asyncio.gather(failed, done)
        with pytest.raises(asyncio.CancelledError):
            await asyncio.gather(cancelled)
        return [outcomes[0], type(outcomes[1]).__name__, type(outcomes[2]).__name__]

    case = begin(body)
    case.complete(2, 1)
    case.fail(4, retryable=False)
    assert case.result == [1, "ActivityError", "CancelledError"]


def test_gather_raises_the_first_error_and_lets_the_others_go_on() -> None:
    async def body(ctx: Context) -> int:
        first, second = work(1), work(2)
        with pytest.raises(ActivityError):
            await asyncio.gather(first, second)
        return await second

    case = begin(body)
    case.fail(2, retryable=False)
    case.complete(3, 5)
    assert case.result == 5


def test_cancelling_gather_cancels_what_it_gathers() -> None:
    async def body(ctx: Context) -> str:
        gathering = asyncio.gather(work(1), asyncio.sleep(60), work(2))
        await asyncio.sleep(0)
        assert gathering.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gathering
        assert not gathering.cancel()
        return "cancelled"

    case = begin(body)
    assert case.result == "cancelled"
    assert [type(e) for e in case.history if "Cancelled" in type(e).__name__] == [
        events.ActivityCancelled,
        events.ActivityCancelled,
        events.TimerCancelled,
    ]


def test_wait_gives_what_is_done_and_what_is_not() -> None:
    async def body(ctx: Context) -> list[Any]:
        handles = [work(n) for n in range(3)]
        done, pending = await asyncio.wait(handles, return_when=asyncio.FIRST_COMPLETED)
        first = [await one for one in done]
        late, rest = await asyncio.wait(pending, timeout=5)
        for one in rest:
            one.cancel()
        return [first, len(late), len(rest)]

    case = begin(body)
    case.complete(number(case, 1), 10)
    case.complete(number(case, 0), 20)
    case.wake()
    assert case.result == [[10], 1, 1]


def test_wait_for_in_time_and_too_late() -> None:
    async def body(ctx: Context) -> list[Any]:
        async def slowly() -> int:
            return await work(2)

        outcomes: list[Any] = [await asyncio.wait_for(work(1), 5)]
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(slowly(), 5)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(work(3), 0)
        done = asyncio.get_running_loop().create_future()
        done.set_result("done")
        outcomes.append(await asyncio.wait_for(done, 0))
        outcomes.append(await asyncio.wait_for(work(4), None))
        return outcomes

    case = begin(body)
    case.complete(number(case, 1), 1)
    case.wake()
    case.complete(number(case, 4), 4)
    assert case.result == [1, "done", 4]
    assert [e.ref for e in case.history if isinstance(e, events.ActivityCancelled)] == [7, 10]


def test_wait_for_with_code_that_refuses_to_be_cancelled() -> None:
    async def body(ctx: Context) -> int:
        async def stubborn() -> int:
            try:
                return await work(1)
            except asyncio.CancelledError:
                return await work(2)

        return await asyncio.wait_for(stubborn(), 5)

    case = begin(body)
    case.wake()
    case.complete(number(case, 2), 7)
    # Python 3.12 and later: the result wins over the timeout.
    assert case.result == 7


@pytest.mark.parametrize("style", ["for", "async for"])
def test_as_completed_gives_results_in_order_of_completion(style: str) -> None:
    async def body(ctx: Context) -> list[int]:
        async def double(n: int) -> int:
            return 2 * await work(n)

        calls = [work(1), double(2), work(3)]
        if style == "for":
            return [await one for one in asyncio.as_completed(calls)]
        completed: Any = asyncio.as_completed(calls)
        return [await one async for one in completed]

    case = begin(body)
    for n in (3, 2, 1):
        case.complete(number(case, n), n)
    assert case.result == [3, 4, 1]


def test_as_completed_can_run_out_of_time() -> None:
    async def body(ctx: Context) -> list[Any]:
        got: list[Any] = []
        for one in asyncio.as_completed([work(1), work(2)], timeout=5):
            try:
                got.append(await one)
            except TimeoutError:
                got.append("late")
        with pytest.raises(TypeError):
            asyncio.as_completed(cast(Any, work(3)))
        return got

    case = begin(body)
    case.complete(number(case, 1), 1)
    case.wake()
    assert case.result == [1, "late"]


def test_as_completed_stops_its_clock_when_all_are_done() -> None:
    async def body(ctx: Context) -> int:
        return sum([await one for one in asyncio.as_completed([work(1), work(2)], timeout=5)])

    case = begin(body)
    case.complete_all(1)
    assert case.result == 2
    assert any(isinstance(e, events.TimerCancelled) for e in case.history)


def test_a_task_group_takes_handles_and_coroutines() -> None:
    async def body(ctx: Context) -> list[int]:
        async def double(n: int) -> int:
            return 2 * await work(n)

        async with asyncio.TaskGroup() as group:
            handle = group.create_task(work(1), name="first")
            task = group.create_task(double(2))
            assert handle.get_name() == "first"
        return [handle.result(), task.result()]

    case = begin(body)
    case.complete_all(5)
    assert case.result == [5, 10]


def test_a_failing_task_cancels_its_siblings_in_the_order_of_their_creation() -> None:
    async def body(ctx: Context) -> list[str]:
        cancelled: list[str] = []

        async def child(name: str, n: int) -> None:
            try:
                await work(n)
            except asyncio.CancelledError:
                cancelled.append(name)
                raise

        try:
            async with asyncio.TaskGroup() as group:
                for n in range(100):
                    group.create_task(child(f"child {n}", n))
                group.create_task(work(1000))
        except* ActivityError as errors:
            cancelled.append(str(len(errors.exceptions)))
        return cancelled

    case = begin(body)
    case.fail(number(case, 50), retryable=False)
    names = [f"child {n}" for n in range(100) if n != 50]
    assert case.result == [*names, "1"]
    refs = [e.ref for e in case.history if isinstance(e, events.ActivityCancelled)]
    assert sorted(refs) == [n for n in range(2, 103) if n != 53]


def test_a_body_that_fails_cancels_its_tasks() -> None:
    async def body(ctx: Context) -> list[str]:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(work(1))
                raise ValueError("body")
        except ExceptionGroup as group_error:
            return [group_error.message, *map(repr, group_error.exceptions)]

    assert begin(body).result == ["unhandled errors in a TaskGroup", "ValueError('body')"]


def test_a_task_group_refuses_misuse() -> None:
    async def body(ctx: Context) -> str:
        group = asyncio.TaskGroup()
        coroutine = asyncio.sleep(1)
        with pytest.raises(RuntimeError, match="entered"):
            group.create_task(coroutine)
        coroutine.close()
        async with group:
            pass
        with pytest.raises(RuntimeError, match="finished"):
            group.create_task(asyncio.sleep(1))
        with pytest.raises(RuntimeError, match="finished"):
            group.create_task(work(1))
        with pytest.raises(RuntimeError, match="once"):
            async with group:
                pass
        with pytest.raises(ExceptionGroup):
            await failing()
        return "refused"

    async def failing() -> None:
        async with asyncio.TaskGroup() as group:
            try:
                group.create_task(work(2))
                group.create_task(fail())
                await asyncio.sleep(1)
            finally:
                with pytest.raises(RuntimeError, match="shutting down"):
                    group.create_task(asyncio.sleep(1))

    async def fail() -> None:
        raise ValueError

    assert begin(body).result == "refused"


def test_cancelling_the_run_while_a_group_aborts_is_not_lost() -> None:
    async def body(ctx: Context) -> str:
        async def tidy() -> None:
            try:
                await work(1)
            except asyncio.CancelledError:
                await work(2)
                raise

        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(tidy())
                group.create_task(work(3))
        except* ActivityError:
            pass
        await work(4)
        return "not cancelled"

    case = begin(body)
    await_tidy = number(case, 3)
    case.fail(await_tidy, retryable=False)
    case.cancel("now")
    case.complete(number(case, 2), 0)
    assert case.run.closed == "cancelled"


def test_system_exit_in_a_group_comes_out_as_itself() -> None:
    async def body(ctx: Context) -> str:
        async def leave() -> None:
            raise SystemExit(3)

        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(work(1))
                group.create_task(leave())
        except SystemExit as error:
            return f"exit {error.code}"
        return "?"

    assert begin(body).result == "exit 3"


def test_nested_timeouts_end_the_inner_first_and_uncancel() -> None:
    async def body(ctx: Context) -> list[Any]:
        seen: list[Any] = []
        try:
            async with asyncio.timeout(10) as outer:
                try:
                    async with asyncio.timeout(5):
                        await work(1)
                except TimeoutError:
                    task = asyncio.current_task()
                    assert task is not None
                    seen.append(task.cancelling())
                await work(2)
        except TimeoutError:
            seen.append(outer.expired())
        async with asyncio.timeout(None) as moved:
            moved.reschedule(asyncio.get_running_loop().time() + 3)
            seen.append(await work(3))
        return seen

    case = begin(body)
    case.wake()
    case.wake()
    case.complete(number(case, 3), 3)
    assert case.result == [0, True, 3]


def test_queue_event_lock_semaphore_condition_and_barrier() -> None:
    async def body(ctx: Context) -> list[str]:
        log: list[str] = []
        queue: asyncio.Queue[int] = asyncio.Queue(maxsize=1)
        event, lock, semaphore = asyncio.Event(), asyncio.Lock(), asyncio.Semaphore(2)
        condition, barrier = asyncio.Condition(), asyncio.Barrier(2)

        async def producer() -> None:
            for n in range(3):
                await queue.put(await work(n))
            event.set()

        async def consumer() -> None:
            for n in range(3):
                got = n + await queue.get()
                log.append(f"got {got}")
            await event.wait()
            await barrier.wait()

        async def limited(n: int) -> None:
            async with semaphore:
                log.append(f"in {n}")
                await work(10 + n)
            async with lock:
                await work(20 + n)
            async with condition:
                condition.notify_all()

        async def watcher() -> None:
            async with condition:
                await condition.wait()
                log.append("notified")
            await barrier.wait()

        async with asyncio.TaskGroup() as group:
            for one in (watcher(), producer(), consumer(), *(limited(n) for n in range(3))):
                group.create_task(one)
        return log

    case = begin(body)
    case.complete_all(1)
    assert case.result == ["in 0", "in 1", "got 1", "in 2", "got 2", "notified", "got 3"]


def test_a_semaphore_does_not_lose_the_place_of_a_waiter_that_is_cancelled_when_woken() -> None:
    async def body(ctx: Context) -> list[str]:
        log: list[str] = []
        semaphore = asyncio.Semaphore(1)

        async def enter(name: str) -> None:
            async with semaphore:
                log.append(name)

        await semaphore.acquire()
        first, second = asyncio.create_task(enter("first")), asyncio.create_task(enter("second"))
        await asyncio.sleep(0)
        semaphore.release()
        first.cancel()
        await asyncio.wait([first, second])
        return [*log, str(semaphore.locked())]

    assert begin(body).result == ["second", "False"]


def test_a_condition_passes_on_a_notification_that_a_cancelled_waiter_cannot_use() -> None:
    async def body(ctx: Context) -> list[str]:
        log: list[str] = []
        condition = asyncio.Condition()

        async def wait(name: str) -> None:
            async with condition:
                await condition.wait()
                log.append(name)

        first, second = asyncio.create_task(wait("first")), asyncio.create_task(wait("second"))
        await asyncio.sleep(0)
        async with condition:
            condition.notify(1)
        first.cancel()
        await asyncio.wait([first, second], timeout=1)
        with pytest.raises(RuntimeError, match="un-acquired"):
            await condition.wait()
        return log

    assert begin(body).result == ["second"]


def test_shield_and_uncancel() -> None:
    async def body(ctx: Context) -> list[int]:
        inner = work(1)

        async def outer() -> int:
            try:
                return await asyncio.shield(inner)
            except asyncio.CancelledError:
                task = asyncio.current_task()
                assert task is not None
                task.uncancel()
                return await work(2)

        task = asyncio.create_task(outer())
        await asyncio.sleep(0)
        task.cancel()
        return [await task, await inner]

    case = begin(body)
    case.complete(number(case, 2), 2)
    case.complete(number(case, 1), 1)
    assert case.result == [2, 1]


def test_tasks_of_a_run_are_its_own() -> None:
    async def body(ctx: Context) -> list[str]:
        task = asyncio.create_task(asyncio.sleep(5), name="napping")
        names = sorted(one.get_name() for one in asyncio.all_tasks())
        unnamed = asyncio.create_task(asyncio.sleep(0))
        assert unnamed.get_name().startswith("Task-")
        task.cancel()
        return names

    assert begin(body).result == ["main", "napping"]


async def test_outside_of_workflows_asyncio_is_as_it_was() -> None:
    async def one() -> int:
        await asyncio.sleep(0)
        return 1

    assert list(await asyncio.gather(one(), one())) == [1, 1]
    assert await asyncio.wait_for(one(), 5) == 1
    assert [await f for f in asyncio.as_completed([one()])] == [1]
    async with asyncio.TaskGroup() as group:
        task = group.create_task(one())
        assert task in asyncio.all_tasks()
    async with asyncio.Semaphore(1):
        pass
    condition = asyncio.Condition()
    async with condition:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(condition.wait(), 0.001)


def test_callbacks_and_loop_facts() -> None:
    async def body(ctx: Context) -> list[Any]:
        loop = asyncio.get_running_loop()
        heard: list[Any] = []
        loop.call_soon(heard.append, 1)
        loop.call_soon(heard.append, 2).cancel()
        loop.set_exception_handler(lambda loop, context: heard.append(str(context["exception"])))
        assert loop.get_exception_handler() is not None
        loop.call_soon(int, "x")
        await asyncio.sleep(0)
        assert loop.is_running()
        assert not loop.is_closed()
        assert not loop.get_debug()
        assert loop.get_task_factory() is None
        return heard

    assert begin(body).result == [1, "invalid literal for int() with base 10: 'x'"]
