"""Activities run in the test's process, through their own definitions; fakes take the same way."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any
from unittest.mock import AsyncMock

import pytest

from everstep import (
    ActivityTimeout,
    App,
    Backoff,
    Context,
    NonRetryable,
    PayloadError,
    Retry,
    RetryAfter,
    RunCancelled,
    RunFailed,
    activity,
    hours,
    minutes,
    provided,
    seconds,
)
from everstep.testing import NothingHappens, WorkflowEnvironment
from everstep_schemas.events import ActivityCompleted

app = App("activities", retry=Retry(3, Backoff(seconds(1), jitter=0)))


@dataclass
class Item:
    name: str
    price: int = 1


class OutOfStock(Exception):
    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


class Pool:
    def __init__(self) -> None:
        self.uses = 0
        self.closed_in: asyncio.Task[Any] | None = None


opened: list[Pool] = []


@app.provide
async def open_pool() -> AsyncIterator[Pool]:
    pool, task = Pool(), asyncio.current_task()
    opened.append(pool)
    yield pool
    assert asyncio.current_task() is task
    pool.closed_in = task


@app.provide
async def open_broken() -> AsyncIterator[Pool]:
    raise ConnectionError("no database")
    yield Pool()


@app.activity(raises=[OutOfStock])
async def buy(item: Item, count: int = 1, *, pool: Pool = provided(open_pool)) -> Item:
    pool.uses += 1
    return Item(item.name, item.price * count)


@app.activity
def weigh(item: Item, *, pool: Pool = provided(open_pool)) -> float:
    pool.uses += 1
    return item.price / 2


@app.activity(executor="process")
def render(item: Item) -> str:
    return f"{item.name} in {threading.current_thread().name}"


@app.activity
async def needs_broken(*, pool: Pool = provided(open_broken)) -> None: ...


@app.activity(timeout=seconds(10), heartbeat_timeout=seconds(4), total_timeout=minutes(5))
async def long(n: int) -> int:
    return n


@app.activity(queue_timeout=seconds(2), timeout=hours(1))
async def queued() -> str:
    return "begun"


@app.activity(retry=Retry(retry_if=lambda error: "again" in str(error)))
async def choosy() -> str:
    return "x"


@app.remote(queue="elsewhere")
def archive(item: Item) -> str:
    raise NotImplementedError


@app.workflow
async def shop(ctx: Context, item: Item) -> tuple[Item, float]:
    return await buy(item, 3), await weigh(item)


ANY: dict[str, Callable[..., Any]] = {
    one.name: one for one in (buy, weigh, render, needs_broken, long, queued, choosy, archive)
}


@app.workflow
async def one(ctx: Context, name: str, *args: Any) -> Any:
    return await ANY[name](*(Item(**arg) for arg in args))


@app.workflow
async def buys(ctx: Context, item: dict[str, Any]) -> str:
    try:
        bought = await buy(Item(**item))
    except OutOfStock as error:
        return f"no {error.name}"
    return bought.name


@app.workflow
async def by_name(ctx: Context, name: str) -> Any:
    return await ctx.activity(name, {"name": "mug"}, 3)


@app.workflow
async def longs(ctx: Context, n: int) -> int | str:
    try:
        return await long(n)
    except ActivityTimeout as error:
        return f"{error.which} after {error.attempts}"


@app.workflow
async def side_by_side(ctx: Context, count: int) -> list[float]:
    return await asyncio.gather(*(weigh(Item("x", price)) for price in range(count)))


@pytest.fixture(autouse=True)
def fresh() -> None:
    opened.clear()


async def test_real_activities_get_decoded_values_and_opened_resources() -> None:
    async with WorkflowEnvironment(app) as env:
        run = await env.client.start(shop, Item("mug", 5), id="s")
        assert await run.result() == (Item("mug", 15), 2.5)
        again = await env.client.start(shop, Item("cup", 5), id="t")
        await again.result()
        [pool] = opened
        assert (pool.uses, pool.closed_in) == (4, None)
    assert pool.closed_in is not None


async def test_resources_can_be_given() -> None:
    async with WorkflowEnvironment(app) as env:
        env.provide(open_pool, pool := Pool())
        await (await env.client.start(shop, Item("mug", 5), id="s")).result()
        assert (pool.uses, opened) == (2, [])


async def test_a_resource_that_cannot_be_opened_fails_the_attempt() -> None:
    async with WorkflowEnvironment(app) as env:
        run = await env.client.start(one, "needs_broken", id="n")
        with pytest.raises(RunFailed, match=r"failed after 3 attempts: ConnectionError: no database"):
            await run.result()


async def test_what_is_marked_for_processes_runs_in_a_thread() -> None:
    async with WorkflowEnvironment(app) as env:
        run = await env.client.start(one, "render", Item("mug"), id="r")
        assert (await run.result()).startswith("mug in everstep-activity")


async def test_plain_functions_end_in_the_order_in_which_they_began() -> None:
    async with WorkflowEnvironment(app) as env:
        weighed = env.spy(weigh)
        run = await env.client.start(side_by_side, 50, id="s")
        assert await run.result() == [price / 2 for price in range(50)]
        assert [info.seq for info in weighed.infos] == sorted(info.seq for info in weighed.infos)
        completed = [one.event.ref for one in env.history(run) if isinstance(one.event, ActivityCompleted)]
        assert completed == sorted(completed)


async def test_a_plain_function_that_takes_long_holds_up_nobody() -> None:
    released = threading.Event()
    other = App("threads")

    @other.activity
    def waits() -> bool:
        return released.wait(20)

    @other.activity
    def releases() -> None:
        released.set()

    @other.workflow
    async def both(ctx: Context) -> bool:
        first, second = waits(), releases()
        await second
        return await first

    async with WorkflowEnvironment(other) as env:
        assert await (await env.client.start(both, id="b")).result() is True


async def test_a_plain_function_sees_that_nobody_waits() -> None:
    other, seen = App("cancelled"), threading.Event()

    @other.activity
    def polls() -> None:
        while not activity.is_cancelled():
            time.sleep(0.001)
        seen.set()

    @other.workflow
    async def cancels(ctx: Context) -> str:
        work = polls()
        await ctx.wait_for_signal("stop")
        work.cancel()
        return "stopped"

    async with WorkflowEnvironment(other) as env:
        run = await env.client.start(cancels, id="c")
        await run.signal("stop")
        assert await run.result() == "stopped"
        assert await asyncio.to_thread(seen.wait, 20)


async def test_an_async_activity_is_cancelled_and_cleans_up() -> None:
    other, said = App("cancelled"), list[str]()

    @other.activity
    async def works() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            said.append(f"{activity.is_cancelled()}")
            await asyncio.sleep(0)
            said.append("cleaned up")

    @other.workflow
    async def cancels(ctx: Context) -> None:
        await works()

    async with WorkflowEnvironment(other) as env:
        run = await env.client.start(cancels, id="c")
        await asyncio.sleep(0)
        await run.cancel("enough")
        with pytest.raises(RunCancelled, match="enough"):
            await run.result()
        await env.settle()
        assert said == ["True", "cleaned up"]


async def test_what_still_runs_at_the_end_is_broken_off() -> None:
    other, said = App("left"), list[str]()

    @other.activity
    async def works() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            said.append("closed")

    @other.workflow
    async def waits(ctx: Context) -> None:
        await works()

    async with WorkflowEnvironment(other) as env:
        await env.client.start(waits, id="c")
        await asyncio.sleep(0)
    assert said == ["closed"]


# ---- retries and times, by the engine, in the environment's time


async def test_retries_follow_the_policy() -> None:
    async with WorkflowEnvironment(app) as env:
        started = env.now()
        bought = env.replace(buy, returns=Item("mug")).fail(ConnectionError("down"), times=2)
        run = await env.client.start(buys, {"name": "mug"}, id="b")
        assert await run.result() == "mug"
        assert bought.count == 3
        assert env.now() - started == seconds(1 + 2)
        assert [info.attempt for info in bought.infos] == [1, 2, 3]
        assert len({info.idempotency_key for info in bought.infos}) == 1


async def test_declared_errors_arrive_as_themselves_and_final_ones_are_not_repeated() -> None:
    async with WorkflowEnvironment(app) as env:
        bought = env.replace(buy, returns=Item("x")).fail(OutOfStock("mug"))
        assert await (await env.client.start(buys, {"name": "mug"}, id="1")).result() == "no mug"
        bought.fail(NonRetryable("never"))
        with pytest.raises(RunFailed, match=r"failed after 1 attempt: everstep\.errors\.NonRetryable: never"):
            await (await env.client.start(buys, {"name": "mug"}, id="2")).result()
        assert bought.count == 2


async def test_the_code_says_when_to_try_again_and_retry_if_says_whether() -> None:
    async with WorkflowEnvironment(app) as env:
        started = env.now()
        tried = env.replace(choosy, returns="ok").fail(RetryAfter(hours(2), "again")).fail(OSError("no"))
        with pytest.raises(RunFailed, match="failed after 2 attempts: OSError: no"):
            await (await env.client.start(one, "choosy", id="c")).result()
        assert env.now() - started == hours(2)
        assert tried.count == 2


async def test_an_attempt_that_takes_too_long_fails() -> None:
    async with WorkflowEnvironment(app) as env:
        slow = env.replace(long, returns=1).delay(seconds(3))
        assert await (await env.client.start(longs, 1, id="1")).result() == 1
        slow.delay(seconds(5))
        started = env.now()
        assert await (await env.client.start(longs, 1, id="2")).result() == "heartbeat after 3"
        # Three attempts of 4 s without a heartbeat, and two pauses.
        assert env.now() - started == seconds(3 * 4 + 3)

        async def beats(n: int) -> int:
            for frame in range(10):
                await env.sleep(seconds(3))
                activity.heartbeat(frame)
            return n

        env.replace(long, beats)
        started = env.now()
        assert await (await env.client.start(longs, 1, id="3")).result() == "attempt after 3"
        assert env.now() - started == seconds(3 * 10 + 3)


async def test_a_heartbeat_is_remembered_by_the_next_attempt() -> None:
    reached: list[Any] = []

    async def beats(n: int) -> int:
        reached.append(activity.last_heartbeat(Item))
        await env.sleep(seconds(3))
        activity.heartbeat(Item("frame", 3))
        await env.sleep(seconds(3))
        activity.heartbeat(Item("frame", 6))
        await env.sleep(seconds(8))
        return n

    async with WorkflowEnvironment(app) as env:
        env.replace(long, beats)
        run = await env.client.start(longs, 1, id="1")
        assert await run.result() == "attempt after 3"
        assert reached == [None, Item("frame", 6), Item("frame", 6)]
        kinds = [type(entry.event).__name__ for entry in env.history(run)]
        assert kinds.count("ActivityStarted") == 3  # long attempts are checked out, as in production


async def test_a_heartbeat_from_a_thread() -> None:
    other = App("threads", retry=Retry(2))

    @other.activity
    def beats() -> int:
        if (reached := activity.last_heartbeat(int)) is not None:
            return reached
        activity.heartbeat(7)
        raise OSError("crash")

    @other.workflow
    async def w(ctx: Context) -> int:
        return await beats()

    async with WorkflowEnvironment(other) as env:
        assert await (await env.client.start(w, id="w")).result() == 7


async def test_a_delayed_attempt_has_begun_and_does_not_wait_for_a_worker() -> None:
    async with WorkflowEnvironment(app) as env:
        env.replace(queued, returns="late").delay(minutes(30))
        assert await (await env.client.start(one, "queued", id="q")).result() == "late"


async def test_an_attempt_that_no_worker_takes_in_time_does_not_begin() -> None:
    async with WorkflowEnvironment(app) as env:
        started = env.now()
        calls = env.replace(queued, returns="late").queue(minutes(1))
        with pytest.raises(RunFailed, match="no worker began it within its queue timeout of 2 s") as failed:
            await (await env.client.start(one, "queued", id="q")).result()
        assert failed.value.type == "everstep.errors.ActivityTimeout"
        assert env.now() - started == seconds(2)
        await env.skip(hours(1))
        assert calls.count == 0


async def test_an_attempt_that_waits_for_a_worker_begins_late() -> None:
    async with WorkflowEnvironment(app) as env:
        started = env.now()
        env.replace(queued, returns="done").queue(seconds(1)).delay(seconds(3))
        assert await (await env.client.start(one, "queued", id="q")).result() == "done"
        assert env.now() - started == seconds(4)


async def test_an_attempt_that_is_cancelled_while_it_waits_for_a_worker_does_not_begin() -> None:
    async with WorkflowEnvironment(app) as env:
        calls = env.replace(long, returns=1).queue(seconds(3))
        run = await env.client.start(longs, 1, id="1")
        await env.skip(seconds(2))
        await run.cancel()
        with pytest.raises(RunCancelled):
            await run.result()
        await env.skip(hours(1))
        assert calls.count == 0


async def test_all_attempts_together_end_at_the_total_timeout() -> None:
    async with WorkflowEnvironment(app) as env:
        started = env.now()
        env.replace(long, returns=1).delay(minutes(10))
        run = await env.client.start(by_hand, id="t")
        assert await run.result() == "total"
        assert env.now() - started == minutes(5)


@app.workflow
async def by_hand(ctx: Context) -> str:
    patient = long.options(timeout=hours(1), heartbeat_timeout=hours(1))
    try:
        return str(await patient(1))
    except ActivityTimeout as error:
        return error.which


async def test_an_attempt_that_is_cancelled_while_it_is_delayed_does_nothing() -> None:
    async with WorkflowEnvironment(app) as env:
        done: list[int] = []

        def never(n: int) -> int:
            done.append(n)
            return n

        env.replace(long, never).delay(seconds(3))
        run = await env.client.start(longs, 1, id="1")
        await env.skip(seconds(2))
        await run.cancel()
        with pytest.raises(RunCancelled):
            await run.result()
        await env.skip(hours(1))
        assert done == []


# ---- fakes


async def test_results_and_arguments_pass_the_activitys_annotations() -> None:
    async with WorkflowEnvironment(app) as env:
        with pytest.raises(PayloadError, match=r"Expected `object`, got `str` - at `\$`"):
            env.replace("buy", returns="mug")
        bought = env.replace("buy", lambda item, count=1: {"name": 3})
        with pytest.raises(RunFailed, match=r"failed after 1 attempt: everstep.errors.PayloadError: .*at `\$.name`"):
            await (await env.client.start(buys, {"name": "mug"}, id="b")).result()
        assert bought.args == [(Item("mug"),)]


async def test_arguments_that_do_not_fit_are_refused_as_in_production() -> None:
    async with WorkflowEnvironment(app) as env:
        replaced = env.replace("buy", returns=Item("x"))
        run = await env.client.start(by_name, "buy", id="b")
        assert await run.result() == {"name": "x", "price": 1}
        assert replaced.args == [(Item("mug"), 3)]
        env.replace("weigh", returns=2.0)
        with pytest.raises(RunFailed, match=r"the arguments do not fit the activity 'weigh'"):
            await (await env.client.start(by_name, "weigh", id="w")).result()


async def test_a_fake_may_be_async_may_leave_out_what_is_provided_or_take_it() -> None:
    async with WorkflowEnvironment(app) as env:

        async def patient(item: Item, count: int = 1) -> Item:
            await asyncio.sleep(0)
            return Item(f"fake {item.name}")

        env.replace(buy, patient)
        assert await (await env.client.start(buys, {"name": "mug"}, id="1")).result() == "fake mug"

        def takes_pool(item: Item, count: int = 1, *, pool: Pool = provided(open_pool)) -> Item:
            pool.uses += 10
            return item

        env.replace(buy, takes_pool)
        assert await (await env.client.start(buys, {"name": "mug"}, id="2")).result() == "mug"
        assert opened[0].uses == 10
        env.replace(buy, mock := AsyncMock(return_value=Item("mocked")))
        assert await (await env.client.start(buys, {"name": "mug"}, id="3")).result() == "mocked"
        mock.assert_awaited_once_with(Item("mug"))


async def test_a_spy_sees_the_real_code_and_can_make_it_fail_first() -> None:
    async with WorkflowEnvironment(app) as env:
        bought = env.spy(buy).fail(OSError("down"))
        assert await (await env.client.start(buys, {"name": "mug"}, id="1")).result() == "mug"
        assert (bought.count, opened[0].uses) == (2, 1)
        assert repr(bought) == "<2 calls of 'buy'>"


async def test_a_fake_that_cannot_be_called_is_found_at_once_or_at_the_call() -> None:
    async with WorkflowEnvironment(app) as env:
        with pytest.raises(TypeError, match=r"the fake for activity 'buy' takes \(\), but is called like the activity"):
            env.replace(buy, lambda: Item("x"))
        with pytest.raises(TypeError, match=r"for a value say returns=3"):
            env.replace(buy, 3)  # type: ignore[call-overload]  # wrong on purpose
        with pytest.raises(TypeError, match="takes a fake or returns="):
            env.replace(buy)  # type: ignore[call-overload]  # wrong on purpose
        env.replace(buy, lambda item: item)
        await env.client.start(shop, Item("mug"), id="1")
        with pytest.raises(TypeError, match="the fake for activity 'buy' takes"):
            await env.settle()


async def test_an_activity_of_another_app_cannot_be_replaced() -> None:
    async with WorkflowEnvironment(App("other")) as env:
        with pytest.raises(LookupError, match="has no activity 'buy': is it registered with another app"):
            env.replace(buy, returns=Item("x"))


async def test_what_is_no_activity_and_no_provider_is_refused() -> None:
    async with WorkflowEnvironment(app) as env:
        replace: Any = env.replace
        provide: Any = env.provide
        with pytest.raises(TypeError, match=r"an activity is what @app\.activity made of a function, or its name"):
            replace(buy.fn, returns=Item("x"))
        with pytest.raises(TypeError, match=r"a provider is what @app\.provide made of a function, not <class"):
            provide(Pool, Pool())


async def test_an_assertion_in_a_fake_fails_the_test_and_not_the_run() -> None:
    async with WorkflowEnvironment(app) as env:

        def checks(item: Item, count: int = 1) -> Item:
            assert item.name == "cup", "not a cup"
            return item

        env.replace(buy, checks)
        run = await env.client.start(buys, {"name": "mug"}, id="1")
        with pytest.raises(AssertionError, match="not a cup"):
            await run.result()


async def test_pytest_can_skip_and_fail_from_within_a_fake() -> None:
    async with WorkflowEnvironment(app) as env:
        env.replace(buy, lambda item, count=1: pytest.fail("enough"))
        run = await env.client.start(buys, {"name": "mug"}, id="1")
        with pytest.raises(pytest.fail.Exception, match="enough"):
            await run.result()


async def buys_badly(complaint: str) -> None:
    """A test whose fake complains, while the test itself waits for nothing."""
    async with WorkflowEnvironment(app) as env:
        env.replace(buy, lambda item, count=1: pytest.fail(complaint))
        await env.client.start(buys, {"name": "mug"}, id="1")
        for _ in range(20):
            await asyncio.sleep(0)
        if complaint == "in the fake":
            raise ZeroDivisionError


async def test_a_problem_that_nobody_waits_for_is_raised_at_the_end() -> None:
    with pytest.raises(pytest.fail.Exception, match="never called"):
        await buys_badly("never called")


async def test_a_problem_beside_a_failed_assertion_is_a_note() -> None:
    with pytest.raises(ZeroDivisionError) as raised:
        await buys_badly("in the fake")
    assert raised.value.__notes__ == ["and in the environment: in the fake"]


async def test_what_is_elsewhere_has_to_be_replaced() -> None:
    async with WorkflowEnvironment(app) as env:
        for name, why in (("archive", "its code is elsewhere"), ("unheard", "this app has no activity of that name")):
            workflow, args = (one, (Item("mug"),)) if name == "archive" else (by_name, ())
            run = await env.client.start(workflow, name, *args, id=name)
            with pytest.raises(RunFailed, match=rf"{why}.*env.replace\('{name}', …\)") as failed:
                await run.result()
            assert failed.value.cause is not None
        archived = env.replace(archive, lambda item: f"{item.name} archived")
        assert await (await env.client.start(one, "archive", Item("mug"), id="2")).result() == "mug archived"
        assert archived.args == [(Item("mug"),)]


async def test_an_activity_by_name_takes_the_annotations_of_its_fake() -> None:
    async with WorkflowEnvironment(app) as env:

        def unheard(item: Item, count: int) -> Item:
            return Item(item.name, count)

        calls = env.replace("unheard", unheard)
        assert await (await env.client.start(by_name, "unheard", id="1")).result() == {"name": "mug", "price": 3}
        assert calls.args == [(Item("mug"), 3)]
        env.replace("unheard", lambda *args: list(args))
        assert await (await env.client.start(by_name, "unheard", id="2")).result() == [{"name": "mug"}, 3]
        env.replace("unheard", returns=7)
        assert await (await env.client.start(by_name, "unheard", id="3")).result() == 7


async def test_a_fake_can_act_between_two_events() -> None:
    """The moment between the call of an activity and its result is a fake's: it may steer the very run."""
    async with WorkflowEnvironment(app) as env:

        async def cancels(item: Item, count: int = 1) -> Item:
            await env.client.run("b").cancel("from within")
            return item

        env.replace(buy, cancels)
        run = await env.client.start(buys, {"name": "mug"}, id="b")
        with pytest.raises(RunCancelled, match="from within"):
            await run.result()


async def test_an_activity_that_fails_for_ever_is_not_followed_for_ever() -> None:
    other = App("endless")

    @other.activity
    async def broken() -> None:
        raise OSError("down")

    @other.workflow
    async def w(ctx: Context) -> None:
        await broken()

    async with WorkflowEnvironment(other, replay_every_event=False) as env:
        run = await env.client.start(w, id="w")
        with pytest.raises(
            NothingHappens, match=r"no max_attempts, or a loop\?\n.*broken: attempt \d+ failed .OSError: down"
        ):
            await run.result()


async def test_an_error_in_retry_if_is_a_problem_of_the_test() -> None:
    other = App("retry-if")

    def defect(error: BaseException) -> bool:
        raise KeyError("typo")

    @other.activity(retry=Retry(2, retry_if=defect))
    async def broken() -> None:
        raise OSError("down")

    @other.workflow
    async def w(ctx: Context) -> None:
        await broken()

    async with WorkflowEnvironment(other) as env:
        run = await env.client.start(w, id="w")
        with pytest.raises(KeyError, match="typo"):
            await run.result()


async def test_a_result_that_is_too_large_is_refused() -> None:
    async with WorkflowEnvironment(app) as env:
        env.replace(render, lambda item: "x" * (1 << 20))
        with pytest.raises(RunFailed, match="PayloadTooLarge: the activity 'render' returned 1048578 bytes"):
            await (await env.client.start(one, "render", Item("mug"), id="r")).result()


def test_what_calls_cannot_be_told() -> None:
    env = WorkflowEnvironment(app)
    calls = env.replace(buy, returns=Item("x"))
    with pytest.raises(ValueError, match="times is 0"):
        calls.fail(OSError(), times=0)
    with pytest.raises(TypeError, match="takes an exception such as"):
        calls.fail("no")  # type: ignore[arg-type]  # wrong on purpose
    with pytest.raises(TypeError, match="takes a duration such as"):
        calls.delay(3)  # type: ignore[arg-type]  # wrong on purpose
    with pytest.raises(ValueError, match="0 or more"):
        calls.delay(seconds(-1))
    with pytest.raises(TypeError, match=r"queue\(\) takes a duration such as"):
        calls.queue(3)  # type: ignore[arg-type]  # wrong on purpose
    with pytest.raises(RuntimeError, match="not open"):
        _ = env.client
