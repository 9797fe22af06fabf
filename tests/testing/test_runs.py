"""Runs of an environment start, steer, end and follow each other by the rules of production."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import Any

import pytest

from everstep import (
    App,
    AttributeValue,
    CallbackClosed,
    CallbackError,
    ChildError,
    Context,
    Query,
    QueryError,
    Rejected,
    Retry,
    RunAlreadyExists,
    RunCancelled,
    RunFailed,
    RunNotFound,
    RunTerminated,
    Signal,
    Update,
    UpdateFailed,
    UpdateRejected,
    WaitTimeout,
    days,
    hours,
    seconds,
)
from everstep.testing import NothingHappens, RunStalled, WorkflowEnvironment

app = App("runs", retry=Retry(1))
go = Signal[str]("go")
total = Query[int]("total")
add = Update[int, int]("add")


@app.activity
async def echo(value: str) -> str:
    return value


@app.workflow
async def waits(ctx: Context) -> str:
    return await ctx.wait_for_signal(go)


@app.workflow
async def fails(ctx: Context) -> None:
    raise ValueError("no luck")


@app.workflow(retry=Retry(3))
async def fails_twice(ctx: Context) -> str:
    if ctx.info.attempt < 3:
        raise ValueError(f"attempt {ctx.info.attempt}")
    return f"run {ctx.info.run}"


@app.workflow
async def stubborn(ctx: Context) -> str:
    try:
        return await ctx.wait_for_signal(go)
    except asyncio.CancelledError:
        await echo("cleaned up")
        raise


@app.workflow
async def sums(ctx: Context) -> int:
    count = 0
    ctx.on_query(total, lambda: count)

    def positive(value: int) -> None:
        if value < 0:
            raise ValueError("not below 0")

    async def handle(value: int) -> int:
        nonlocal count
        await ctx.sleep(hours(1))
        if value == 13:
            raise ValueError("unlucky")
        count += value
        return count

    ctx.on_update(add, handle, validate=positive)
    ctx.expose(limit=10)
    await ctx.wait_until(lambda: count >= 10)
    return count


@app.workflow
async def parent(ctx: Context, name: str, id: str | None = None) -> str:
    try:
        return str(await ctx.child(name, id=id))
    except ChildError as error:
        return f"{error.workflow_id}: {error.cause}"


@app.workflow
async def grandparent(ctx: Context, depth: int) -> int:
    return 0 if depth == 0 else 1 + await grandparent(depth - 1)


@app.workflow
async def leaves_children(ctx: Context) -> str:
    waits.options(id="abandoned", on_parent_close="abandon")()
    waits.options(id="terminated")()
    waits.options(id="cancelled", on_parent_close="cancel")()
    await ctx.sleep(seconds(1))
    return "gone"


@app.workflow
async def cancels_child(ctx: Context) -> str:
    child = waits.options(id="child")()
    await ctx.sleep(seconds(1))
    child.cancel()
    return "done"


@app.workflow
async def sends(ctx: Context, to: str) -> str:
    try:
        await ctx.external(to).signal(go, "from a run")
        await ctx.external(to).cancel("and end")
    except (RunNotFound, Rejected) as error:
        return str(error)
    return "sent"


@app.workflow
async def counts_down(ctx: Context, n: int) -> str:
    if n:
        ctx.continue_as_new(counts_down, n - 1)
    return f"run {ctx.info.run} at {ctx.now().isoformat()}"


@app.workflow
async def asks(ctx: Context) -> str:
    answer = ctx.callback(int, timeout=days(1))
    await echo(answer.token)
    try:
        return f"got {await answer}"
    except CallbackError as error:
        return f"failed: {error.type}"
    except WaitTimeout:
        return "nobody answered"


@app.workflow
async def attributed(ctx: Context) -> str:
    ctx.set_status("begun")
    ctx.attributes["region"] = "eu"
    return await ctx.wait_for_signal(go)


# ---- starting


async def test_an_id_has_one_run_unless_the_start_says_otherwise() -> None:
    async with WorkflowEnvironment(app) as env:
        start = env.client.start
        run = await start(waits, id="w", submission_id="s1")
        with pytest.raises(RunAlreadyExists, match=r"duplicate: run 1 of 'w' exists \(running\)"):
            await start(waits, id="w")
        assert (await (await start(waits, id="w", on_duplicate="return_existing")).describe()).run == 1
        assert (await (await start(waits, id="w", submission_id="s1")).describe()).run == 1
        with pytest.raises(RunAlreadyExists):
            await start(waits, id="w", on_duplicate="allow_closed")
        second = await start(waits, id="w", on_duplicate="terminate_existing")
        with pytest.raises(RunTerminated, match="replaced by a new run"):
            await run.result()
        await second.signal(go, "on")
        assert await second.result() == "on"
        with pytest.raises(RunAlreadyExists):
            await start(waits, id="w")
        third = await start(waits, id="w", on_duplicate="allow_closed")
        assert (await third.describe()).run == 3
        # The identity of a start counts over all runs of the id, and tells how that one ended.
        first_again = await start(waits, id="w", submission_id="s1")
        with pytest.raises(RunTerminated):
            await first_again.result()


async def test_what_cannot_be_started_is_refused() -> None:
    async with WorkflowEnvironment(app) as env:
        with pytest.raises(Rejected, match="start_at has no time zone"):
            await env.client.start(waits, id="w", start_at=datetime(2030, 1, 1))
        with pytest.raises(Rejected, match="timeout_seconds is -1"):
            await env.client.start(waits, id="w", timeout=seconds(-1))
        with pytest.raises(Rejected, match="are allowed"):
            await env.client.start(parent, "x" * (1 << 20), id="w")
        with pytest.raises(RunNotFound):
            await env.client.run("w").result()


async def test_a_workflow_that_nobody_has_stalls() -> None:
    async with WorkflowEnvironment(app) as env:
        with pytest.raises(RunStalled, match=r"run 1 of 'x' .* no code for workflow 'unheard': this app"):
            await env.client.start("unheard", id="x")
        described = await env.client.run("x").describe()
        assert (described.status, described.condition) == ("running", "stalled")
        with pytest.raises(RunStalled):
            await env.client.run("x").result()
        await env.client.run("x").terminate("never mind")
        with pytest.raises(RunTerminated, match="never mind"):
            await env.client.run("x").result()


async def test_a_signal_comes_with_the_start() -> None:
    async with WorkflowEnvironment(app) as env:
        run = await env.client.start(waits, id="w", with_signal=(go, "at once"))
        assert await run.result() == "at once"
        other = await env.client.start(waits, id="v")
        again = await env.client.start(waits, id="v", on_duplicate="return_existing", with_signal=(go, "found"))
        assert await again.result() == await other.result() == "found"


async def test_a_signal_waits_a_minute_for_its_run() -> None:
    async with WorkflowEnvironment(app) as env:
        await env.client.run("w").signal(go, "early")
        await env.skip(seconds(59))
        assert await (await env.client.start(waits, id="w")).result() == "early"
        taken_at = env.now()
        with pytest.raises(NothingHappens):
            await (await env.client.start(waits, id="u")).result()
        assert env.now() == taken_at
        await env.client.run("v").signal(go, "too early")
        await env.skip(seconds(61))
        with pytest.raises(NothingHappens):
            await (await env.client.start(waits, id="v")).result()


async def test_a_signal_id_counts_once() -> None:
    async with WorkflowEnvironment(app) as env:
        run = await env.client.start(waits, id="w", start_at=datetime(2026, 1, 2, tzinfo=UTC))
        for value in ("first", "second"):
            await run.signal(go, value, signal_id="s")
        assert await run.result() == "first"
        received = [one.event for one in env.history(run) if type(one.event).__name__ == "SignalReceived"]
        assert len(received) == 1


# ---- steering


async def test_cancelling_lets_the_code_clean_up_and_terminating_does_not() -> None:
    async with WorkflowEnvironment(app) as env:
        echoed = env.spy(echo)
        run = await env.client.start(stubborn, id="c")
        await run.cancel("enough")
        with pytest.raises(RunCancelled, match="run 'c' was cancelled: enough"):
            await run.result()
        assert echoed.args == [("cleaned up",)]
        other = await env.client.start(stubborn, id="t")
        await other.terminate("at once")
        with pytest.raises(RunTerminated, match="at once"):
            await other.result()
        assert echoed.count == 1


async def test_what_reaches_no_run_is_refused() -> None:
    async with WorkflowEnvironment(app) as env:
        with pytest.raises(RunNotFound, match="no run has the id 'x'"):
            await env.client.run("x").cancel()
        with pytest.raises(RunNotFound):
            await env.client.run("x").update(add, 1)
        with pytest.raises(RunNotFound):
            await env.client.run("x").query(total)
        with pytest.raises(RunNotFound):
            await env.client.run("x").describe()
        run = await env.client.start(waits, id="w", with_signal=(go, "x"))
        await run.result()
        for ask in (run.signal(go, "late"), run.cancel(), run.terminate()):
            with pytest.raises(Rejected, match=r"run 1 of 'w' has ended \(completed\)"):
                await ask


async def test_failures_of_a_run_arrive_at_the_client() -> None:
    async with WorkflowEnvironment(app) as env:
        with pytest.raises(RunFailed, match="run 'f' failed: ValueError: no luck"):
            await (await env.client.start(fails, id="f")).result()


async def test_a_run_that_fails_is_begun_again() -> None:
    async with WorkflowEnvironment(app) as env:
        run = await env.client.start(fails_twice, id="f")
        assert await run.result() == "run 3"
        assert [one.status async for one in env.client.list()] == ["completed", "continued", "continued"]
        assert [len(env.history("f", number)) for number in (1, 2, 3)] == [2, 3, 3]


async def test_a_run_goes_on_as_new_and_the_first_caller_gets_the_last_result() -> None:
    async with WorkflowEnvironment(app) as env:
        run = await env.client.start(counts_down, 30, id="c")
        # After ten at one instant, the next one is held up a little: no loop keeps everybody else waiting.
        assert await run.result() == "run 31 at 2026-01-01T00:00:00.020000+00:00"


# ---- queries and updates


async def test_queries_are_answered_from_the_history_also_after_the_end() -> None:
    async with WorkflowEnvironment(app) as env:
        run = await env.client.start(sums, id="s")
        assert await run.query(total) == 0
        assert await run.query("limit", returns=int) == 10
        with pytest.raises(QueryError, match="answers no query 'colour'; those it answers: 'limit', 'total'"):
            await run.query("colour")
        assert await run.update(add, 11) == 11
        assert await run.result() == 11
        assert await run.query(total) == 11


async def test_updates_are_validated_carried_out_and_answered() -> None:
    async with WorkflowEnvironment(app) as env:
        started = env.now()
        run = await env.client.start(sums, id="s")
        with pytest.raises(UpdateRejected, match="not below 0"):
            await run.update(add, -1)
        with pytest.raises(UpdateRejected, match="takes no update 'subtract'; those it takes: 'add'"):
            await run.update("subtract", 1)
        assert await run.update(add, 3, update_id="u") == 3
        assert await run.update(add, 3, update_id="u") == 3  # the same again
        assert env.now() == started + hours(1)
        with pytest.raises(UpdateFailed, match=r"update 'add' of run 's' failed: .*unlucky"):
            await run.update(add, 13)
        with pytest.raises(TimeoutError, match="has not answered update 'add' after 0:30:00"):
            await run.update(add, 7, timeout=hours(0.5))
        assert await run.result() == 10
        with pytest.raises(Rejected, match="has ended"):
            await run.update(add, 1)


async def test_an_update_is_answered_the_same_after_the_end_and_by_the_runs_that_come_after() -> None:
    other = App("other")

    @other.workflow
    async def again(ctx: Context, left: int) -> int:
        async def handle(value: int) -> int:
            if value == 13:
                raise ValueError("unlucky")
            return value

        ctx.on_update(add, handle)
        await ctx.wait_for_signal(go)
        if left:
            ctx.continue_as_new(again, left - 1)
        return left

    async with WorkflowEnvironment(other) as env:
        run = await env.client.start(again, 1, id="a")
        assert await run.update(add, 3, update_id="u") == 3
        with pytest.raises(UpdateFailed, match="unlucky"):
            await run.update(add, 13, update_id="failed")
        for status in ("running", "completed"):
            await run.signal(go, "on")
            await env.settle()
            assert (await run.describe()).status == status
            assert await run.update(add, 3, update_id="u") == 3
            with pytest.raises(UpdateFailed, match="unlucky"):
                await run.update(add, 13, update_id="failed")
        with pytest.raises(Rejected, match="has ended"):
            await run.update(add, 3, update_id="new")


async def test_what_a_query_must_not_do_is_said_as_in_production() -> None:
    other = App("other")

    @other.workflow
    async def asked(ctx: Context) -> str:
        ctx.on_query("now", lambda: time.time())
        return await ctx.wait_for_signal(go)

    async with WorkflowEnvironment(other) as env:
        run = await env.client.start(asked, id="a")
        with pytest.raises(QueryError, match=r"^time.time\(\) is not possible within a workflow .*test_runs.py"):
            await run.query("now")
        await run.signal(go, "on")
        assert await run.result() == "on"


async def test_times_of_another_type_are_refused_by_name() -> None:
    async with WorkflowEnvironment(app) as env:
        start: Any = env.client.start
        with pytest.raises(TypeError, match=r"^timeout is a duration such as seconds\(30\), not 5$"):
            await start(waits, id="w", timeout=5)
        with pytest.raises(TypeError, match=r"^start_at is an instant such as datetime\(.*\), not 'tomorrow'$"):
            await start(waits, id="w", start_at="tomorrow")
        run: Any = await start(waits, id="w")
        with pytest.raises(TypeError, match=r"^timeout is a duration"):
            await run.result(timeout=5)


async def test_an_empty_identity_is_no_identity() -> None:
    async with WorkflowEnvironment(app) as env:
        with pytest.raises(ValueError, match="submission_id '' has 0 bytes"):
            await env.client.start(waits, id="w", submission_id="")
        run = await env.client.start(waits, id="w")
        with pytest.raises(ValueError, match="signal_id '' has 0 bytes"):
            await run.signal(go, "on", signal_id="")
        with pytest.raises(ValueError, match="update_id '' has 0 bytes"):
            await run.update(add, 1, update_id="")


async def test_an_update_that_nothing_answers_fails_at_once() -> None:
    other = App("other")

    @other.workflow
    async def stuck(ctx: Context) -> None:
        async def handle(value: int) -> int:
            await ctx.wait_for_signal("never")
            return value

        ctx.on_update(add, handle)
        await ctx.wait_for_signal(go)

    async with WorkflowEnvironment(other) as env:
        run = await env.client.start(stuck, id="s")
        with pytest.raises(NothingHappens, match="the answer to update 'add' can never come"):
            await run.update(add, 1)


# ---- callbacks


async def test_a_callback_is_completed_once() -> None:
    async with WorkflowEnvironment(app) as env:
        tokens = env.spy(echo)
        run = await env.client.start(asks, id="a")
        await env.settle()
        callback = env.client.callback(tokens.args[0][0])
        with pytest.raises(Rejected, match="the value does not fit"):
            await callback.complete("three")
        await callback.complete(3, submission_id="s")
        assert await run.result() == "got 3"
        await callback.complete(3, submission_id="s")  # the same again is answered again
        with pytest.raises(CallbackClosed, match=r"run 1 of 'a' has ended"):
            await callback.complete(4)
        forged = tokens.args[0][0][:-3] + "xyz"
        with pytest.raises(Rejected, match="no such callback"):
            await env.client.callback(forged).complete(3)


async def test_a_callback_fails_or_is_forgotten() -> None:
    async with WorkflowEnvironment(app) as env:
        tokens = env.spy(echo)
        failed = await env.client.start(asks, id="f")
        forgotten = await env.client.start(asks, id="g")
        await env.settle()
        await env.client.callback(tokens.args[0][0]).fail("no time", type="Busy")
        assert await failed.result() == "failed: Busy"
        assert await forgotten.result() == "nobody answered"
        with pytest.raises(Rejected, match="no such callback"):
            await env.client.callback("nonsense").complete(1)


# ---- runs and runs


async def test_children_give_results_and_errors() -> None:
    async with WorkflowEnvironment(app) as env:
        assert await (await env.client.start(parent, "fails", id="p")).result() == "p/1/2: ValueError: no luck"
        assert await (await env.client.start(grandparent, 5, id="g")).result() == 5
        started = await env.client.start(parent, "waits", "known", id="q")
        await env.client.run("known").signal(go, "from outside")
        assert await started.result() == "from outside"
        assert "exists (completed); choose another id" in str(
            await (await env.client.start(parent, "waits", "known", id="r")).result()
        )


async def test_a_child_that_goes_on_as_new_answers_its_parent_at_the_end() -> None:
    other = App("other")

    @other.workflow
    async def goes_on(ctx: Context, n: int) -> int:
        if n < 3:
            await ctx.sleep(hours(1))
            ctx.continue_as_new(goes_on, n + 1)
        return n

    @other.workflow
    async def waits_for_it(ctx: Context) -> int:
        return await goes_on(0)

    async with WorkflowEnvironment(other) as env:
        assert await (await env.client.start(waits_for_it, id="p")).result() == 3


async def test_a_circle_of_children_ends() -> None:
    async with WorkflowEnvironment(app, replay_every_event=False) as env:
        with pytest.raises(RunFailed, match="runs have started each other in a row"):
            await (await env.client.start(grandparent, 1000, id="g")).result()


async def test_children_fare_as_their_parent_has_said() -> None:
    async with WorkflowEnvironment(app) as env:
        assert await (await env.client.start(leaves_children, id="p")).result() == "gone"
        await env.settle()
        statuses = {id: (await env.client.run(id).describe()).status for id in ("abandoned", "terminated", "cancelled")}
        assert statuses == {"abandoned": "running", "terminated": "terminated", "cancelled": "cancelled"}
        await (await env.client.start(cancels_child, id="c")).result()
        await env.settle()
        assert (await env.client.run("child").describe()).status == "cancelled"


async def test_a_run_signals_and_cancels_others() -> None:
    async with WorkflowEnvironment(app) as env:
        target = await env.client.start(stubborn, id="t")
        assert await (await env.client.start(sends, "nobody", id="1")).result() == "no run has the id 'nobody'"
        sent = await env.client.start(sends, "t", id="2")
        assert await target.result() == "from a run"
        assert await sent.result() == "run 1 of 't' has ended (completed)"


# ---- reading


async def test_runs_can_be_described_listed_and_read() -> None:
    async with WorkflowEnvironment(app) as env:
        run = await env.client.start(attributed, id="a")
        described = await run.describe()
        assert (described.custom_status, described.next_wakeup_at) == ("begun", None)
        kinds = [type(one.event).__name__ for one in env.history(run)]
        assert kinds == ["Started", "StatusSet", "AttributesSet", "SignalAwaited"]
        assert [one async for one in run.history()] == env.history("a")
        await env.client.start(waits, id="w")
        assert [one.workflow_id async for one in env.client.list(workflow="attributed")] == ["a"]
        assert [one.workflow_id async for one in env.client.list(status="running")] == ["w", "a"]
        started = await env.client.start(
            waits, id="k", attributes={"customer": "C-9", "tags": ["eu", "new"], "n": 1}, memo={"note": [1]}
        )
        described = await started.describe()
        assert described.attributes == {"customer": "C-9", "tags": ["eu", "new"], "n": 1}
        assert {name: bytes(value) for name, value in described.memo.items()} == {"note": b"[1]"}

        async def having(**attributes: AttributeValue) -> list[str]:
            return [one.workflow_id async for one in env.client.list(attributes=attributes)]

        assert await having(customer="C-9", tags=["new"]) == ["k"]
        assert await having(n=True) == await having(customer="C-8") == await having(other=1) == []
        with pytest.raises(RunNotFound):
            env.history("nobody")


async def test_nothing_can_be_asked_after_the_end_but_the_history() -> None:
    async with WorkflowEnvironment(app) as env:
        run = await env.client.start(waits, id="w")
    assert len(env.history(run)) == 2
    for ask in (run.result(), run.signal(go, "x"), run.query(total), env.skip(seconds(1)), env.settle()):
        with pytest.raises(RuntimeError, match="the environment is closed"):
            await ask
    with pytest.raises(RuntimeError, match="opened before"):
        await env.__aenter__()


async def test_environments_do_not_see_each_other() -> None:
    async with WorkflowEnvironment(app) as one, WorkflowEnvironment(app) as other:
        run = await one.client.start(waits, id="w", with_signal=(go, "x"))
        with pytest.raises(RunNotFound):
            await other.client.run("w").result()
        assert await run.result() == "x"


async def test_the_same_chance_at_every_run_of_the_test() -> None:
    other, drawn = App("chance"), list[Any]()

    @other.workflow
    async def draws(ctx: Context) -> str:
        return f"{ctx.random.random()} {ctx.uuid4()}"

    for id in ("a", "b", "a"):
        async with WorkflowEnvironment(other) as env:
            drawn.append(await (await env.client.start(draws, id=id)).result())
    assert drawn[0] == drawn[2] != drawn[1]


async def test_what_a_workflow_logs_is_written_once(caplog: pytest.LogCaptureFixture) -> None:
    other = App("logs")

    @other.workflow
    async def logs(ctx: Context) -> None:
        ctx.log.info("first", n=1)
        await ctx.sleep(seconds(1))
        ctx.log.warning("second")

    with caplog.at_level("INFO", "everstep.workflow"):
        async with WorkflowEnvironment(other) as env:
            await (await env.client.start(logs, id="l")).result()
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("INFO", "first n=1 workflow_id='l' run=1 workflow='logs'"),
        ("WARNING", "second workflow_id='l' run=1 workflow='logs'"),
    ]
