"""Time passes when nothing else can happen and somebody waits, and only then."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from everstep import App, Context, Retry, RunTimedOut, Signal, days, hours, minutes, seconds
from everstep.testing import NothingHappens, WorkflowEnvironment

app = App("time", retry=Retry(1))
go = Signal[str]("go")
log: list[object] = []


@app.activity
async def work(n: int) -> int:
    return n


@app.activity
def blocking(n: int) -> int:
    return n


@app.workflow
async def sleeps(ctx: Context, *lengths: float) -> list[str]:
    instants: list[str] = []
    for length in lengths:
        await ctx.sleep(seconds(length))
        instants.append(ctx.now().isoformat())
    return instants


@app.workflow
async def waits(ctx: Context) -> str:
    return await ctx.wait_for_signal(go)


@app.workflow
async def waits_a_week(ctx: Context) -> str | None:
    return await ctx.wait_for_signal(go, timeout=days(7), default=None)


@app.workflow
async def for_ever(ctx: Context) -> None:
    while True:
        await ctx.sleep(hours(1))


@app.workflow
async def works_then_sleeps(ctx: Context) -> int:
    done = await work(1)
    await ctx.sleep(days(1))
    return done


@app.workflow
async def blocks_then_sleeps(ctx: Context) -> int:
    done = await blocking(1)
    await ctx.sleep(days(1))
    return done


@app.workflow
async def never(ctx: Context) -> None:
    await ctx.wait_until(lambda: False)


async def test_time_stands_still_until_somebody_waits() -> None:
    async with WorkflowEnvironment(app) as env:
        started = env.now()
        run = await env.client.start(sleeps, 5, 10, id="s")
        await env.settle()
        for _ in range(100):
            await asyncio.sleep(0)
        assert env.now() == started
        assert await run.result() == ["2026-01-01T00:00:05+00:00", "2026-01-01T00:00:15+00:00"]
        assert env.now() == started + seconds(15)


async def test_time_begins_where_the_test_says() -> None:
    start = datetime(2031, 5, 1, 12, tzinfo=UTC)
    async with WorkflowEnvironment(app, start=start) as env:
        run = await env.client.start(sleeps, 1, id="s")
        assert env.now() == start
        assert await run.result() == ["2031-05-01T12:00:01+00:00"]


async def test_without_auto_skip_only_skip_moves_time() -> None:
    async with WorkflowEnvironment(app, auto_skip=False) as env:
        run = await env.client.start(waits_a_week, id="w")
        waiting = asyncio.create_task(run.result())
        await env.skip(days(6))
        assert not waiting.done()
        await env.skip(days(1))
        assert await waiting is None


async def test_without_auto_skip_a_result_that_needs_time_fails_at_once() -> None:
    async with WorkflowEnvironment(app, auto_skip=False) as env:
        run = await env.client.start(waits_a_week, id="w")
        with pytest.raises(NothingHappens, match=r"does not skip time by itself: call `await env.skip\(…\)`") as raised:
            await run.result()
        assert "waits for signal go until 2026-01-08" in str(raised.value)


async def test_skip_fires_what_is_due_on_the_way_in_order() -> None:
    async with WorkflowEnvironment(app) as env:
        started = env.now()
        a = await env.client.start(sleeps, 10, 20, id="a")
        b = await env.client.start(sleeps, 20, 10, id="b")
        await env.skip(seconds(30))
        assert env.now() == started + seconds(30)
        fired = [
            (one.at, name) for name in "ab" for one in env.history(name) if type(one.event).__name__ == "TimerFired"
        ]
        assert [((at - started).total_seconds(), name) for at, name in sorted(fired)] == [
            (10, "a"),
            (20, "b"),
            (30, "a"),
            (30, "b"),
        ]
        # What is due at the very end of the skip has happened, and what followed from it.
        assert [(await run.describe()).status for run in (a, b)] == ["completed", "completed"]


async def test_skip_waits_for_what_runs() -> None:
    async with WorkflowEnvironment(app) as env:
        started = env.now()
        for workflow in (works_then_sleeps, blocks_then_sleeps):
            run = await env.client.start(workflow, id=workflow.name)
            before = env.now()
            await env.skip(hours(23))
            assert (await run.describe()).status == "running"
            await env.skip(hours(1))
            assert (await run.describe()).status == "completed"
            assert env.history(run)[-1].at == before + days(1)
        assert env.now() == started + days(2)


async def test_a_running_activity_holds_time_up() -> None:
    async with WorkflowEnvironment(app) as env:
        started, gate, begun = env.now(), asyncio.Event(), asyncio.Event()

        async def slow(n: int) -> int:
            begun.set()
            await gate.wait()
            return n

        env.replace(work, slow)
        run = await env.client.start(works_then_sleeps, id="w")
        other = await env.client.start(sleeps, 5, id="s")
        both = asyncio.gather(run.result(), other.result())
        await begun.wait()
        for _ in range(100):
            await asyncio.sleep(0)
        assert env.now() == started
        gate.set()
        await both
        assert env.now() == started + days(1)


async def test_a_test_that_is_about_to_act_gets_its_turn() -> None:
    """Somebody waits already, but nothing jumps while the test itself can go on."""
    async with WorkflowEnvironment(app) as env:
        run = await env.client.start(waits_a_week, id="w")
        waiting = asyncio.create_task(run.result())
        await env.settle()
        await run.signal(go, "now")
        assert await waiting == "now"
        assert env.now() == datetime(2026, 1, 1, tzinfo=UTC)


async def test_a_result_that_nothing_brings_fails_at_once_and_says_what_is_missing() -> None:
    async with WorkflowEnvironment(app) as env:
        run = await env.client.start(waits, id="w")
        other = await env.client.start(never, id="n")
        with pytest.raises(NothingHappens) as raised:
            await run.result()
        assert str(raised.value).splitlines() == [
            "the result of run 'w' can never come: nothing is left to do, and nobody waits for a time.",
            "run 1 of 'w' (waits) waits for signal go",
            f"run 1 of 'n' (never) waits for a condition in never (line {never.fn.__code__.co_firstlineno + 2})",
        ]
        await run.signal(go, "after all")
        assert await run.result() == "after all"
        await other.terminate()


async def test_all_who_wait_in_vain_are_told() -> None:
    async with WorkflowEnvironment(app) as env:
        runs = [await env.client.start(waits, id=f"w{i}") for i in range(3)]
        told = await asyncio.gather(*(run.result() for run in runs), return_exceptions=True)
        assert [type(one) for one in told] == [NothingHappens] * 3


async def test_the_timeout_of_a_result_is_the_environments_time() -> None:
    async with WorkflowEnvironment(app) as env:
        started = env.now()
        run = await env.client.start(waits_a_week, id="w")
        with pytest.raises(TimeoutError, match="run 'w' is still running after 2 days"):
            await run.result(timeout=days(2))
        assert env.now() == started + days(2)
        # At the same instant, what happens in the run comes before the end of the waiting for it.
        assert await run.result(timeout=days(5)) is None
        assert await run.result(timeout=timedelta()) is None


async def test_a_timeout_within_a_timeout_that_fires() -> None:
    async with WorkflowEnvironment(app) as env:
        run = await env.client.start(waits, id="w")
        for _ in range(3):
            with pytest.raises(TimeoutError):
                await run.result(timeout=minutes(1))
        assert env.now() == datetime(2026, 1, 1, 0, 3, tzinfo=UTC)


async def test_a_cancelled_waiter_leaves_nothing_behind() -> None:
    async with WorkflowEnvironment(app) as env:
        started = env.now()
        run = await env.client.start(waits_a_week, id="w")
        waiting = asyncio.create_task(run.result(timeout=days(1)))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await env.settle()
        assert env.now() == started
        with pytest.raises(NothingHappens):
            await (await env.client.start(waits, id="never", on_duplicate="reject")).result(timeout=None)
        assert env.now() == started + days(7)


async def test_a_run_begins_at_its_time_and_ends_at_its_timeout() -> None:
    async with WorkflowEnvironment(app) as env:
        started = env.now()
        run = await env.client.start(sleeps, 1, id="s", start_at=started + hours(3))
        assert await run.result() == ["2026-01-01T03:00:01+00:00"]
        late = await env.client.start(waits, id="w", start_at=started + hours(5), timeout=minutes(30))
        with pytest.raises(RunTimedOut, match="run 'w' has reached its timeout"):
            await late.result()
        assert env.now() == started + hours(5) + minutes(30)


async def test_a_run_that_goes_on_for_ever_is_not_followed_for_ever() -> None:
    async with WorkflowEnvironment(app, replay_every_event=False) as env:
        run = await env.client.start(for_ever, id="f")
        with pytest.raises(
            NothingHappens, match=r"does not come: time has jumped 10,000 times.*\n.*waits for the time"
        ):
            await run.result()


async def test_what_cannot_be_asked_of_time() -> None:
    with pytest.raises(ValueError, match="start needs a time zone"):
        WorkflowEnvironment(app, start=datetime(2026, 1, 1))
    async with WorkflowEnvironment(app) as env:
        with pytest.raises(ValueError, match="time cannot be turned back"):
            await env.skip(seconds(-1))
        with pytest.raises(TypeError, match=r"skip\(\) takes a duration"):
            await env.skip(3)  # type: ignore[arg-type]  # wrong on purpose
        with pytest.raises(RuntimeError, match="is for fakes of activities"):
            await env.sleep(seconds(1))


async def test_skipping_nothing_settles() -> None:
    async with WorkflowEnvironment(app) as env:
        run = await env.client.start(works_then_sleeps, id="w")
        await env.skip(timedelta())
        assert [type(one.event).__name__ for one in env.history(run)][-1] == "TimerStarted"
