"""How runs end: returned, failed, cancelled, terminated."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import msgspec
import pytest
from tests.engine.kit import Case

from everstep import App, Context
from everstep._core.engine import Activation
from everstep_schemas import events

app = App("closing")


@app.activity
async def work(n: int) -> int:
    raise AssertionError("workers run activities")


@app.activity
async def undo(n: int) -> None:
    raise AssertionError("workers run activities")


class OutOfStock(Exception): ...


def test_an_exception_fails_the_run_with_the_authors_frames_and_the_causes() -> None:
    @app.workflow
    async def failing(ctx: Context) -> None:
        try:
            await work(1)
        except Exception as error:
            raise OutOfStock("no more of it") from error

    case = Case(app, failing)
    case.fail(2, "Boom", "it broke", retryable=False)
    error = case.error
    assert error.type == f"{__name__}.OutOfStock"
    assert error.message == "no more of it"
    assert "raise OutOfStock" in error.traceback
    assert "everstep/_core" not in error.traceback
    assert error.cause is not None
    assert error.cause.type == "everstep.errors.ActivityError"
    assert case.run.closed == "failed"


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), BaseException("odd")])
def test_not_even_these_leave_the_run(error: BaseException) -> None:
    @app.workflow(name=f"leaving with {error!r}")
    async def leaving(ctx: Context, inner: bool) -> None:
        async def leave() -> None:
            raise error

        if inner:
            await asyncio.create_task(leave())
        raise error

    for inner in (False, True):
        case = Case(app, leaving, inner)
        assert case.error.type == type(error).__name__
        assert case.run.closed == "failed"


def test_arguments_that_do_not_fit_fail_the_run() -> None:
    @app.workflow
    async def typed(ctx: Context, n: int) -> None: ...

    @app.workflow(name="typed", version=2)
    async def other(ctx: Context, n: str) -> None: ...

    case = Case(app, typed, 1)
    started = case.history[0]
    assert isinstance(started, events.Started)
    run, activation = case.engine.start(msgspec.structs.replace(case.identity, version=2), started, case.now)
    assert activation.closed == "failed"
    assert run.closed == "failed"


def test_a_result_that_does_not_fit_fails_the_run() -> None:
    @app.workflow
    async def lying(ctx: Context) -> int:
        return "seven"  # type: ignore[return-value]  # the mistake that is found

    error = Case(app, lying).error
    assert error.type == "everstep.errors.PayloadError"
    assert error.message == "the result of workflow 'lying' does not fit: Expected `int`, got `str` - at `$`"


def test_a_result_over_the_limit_fails_the_run() -> None:
    @app.workflow
    async def huge(ctx: Context) -> str:
        return "x" * 1000

    assert "EVERSTEP_MAX_PAYLOAD_BYTES" in Case(app, huge, limit=500).error.message


@app.workflow
async def cancellable(ctx: Context) -> str:
    try:
        await work(1)
    except asyncio.CancelledError as error:
        await undo(1)
        raise asyncio.CancelledError(*error.args) from None
    return "done"


def test_cancellation_reaches_the_code_which_may_still_await_activities() -> None:
    case = Case(app, cancellable)
    case.cancel("customer asked")
    assert [type(e) for e in case.last] == [events.ActivityCancelled, events.ActivityScheduled]
    case.complete_all()
    assert case.history[-1] == events.Cancelled(reason="customer asked")
    assert case.run.closed == "cancelled"
    assert case.cancel() is None


def test_a_second_request_to_cancel_is_not_heard() -> None:
    case = Case(app, cancellable)
    assert case.cancel("first") is not None
    assert case.cancel("second") is None
    assert case.replayed().closed is None


def test_code_may_refuse_to_be_cancelled() -> None:
    @app.workflow
    async def stubborn(ctx: Context) -> str:
        with contextlib.suppress(asyncio.CancelledError):
            await work(1)
        return "finished anyway"

    case = Case(app, stubborn)
    case.cancel()
    assert case.result == "finished anyway"


def test_a_cancelled_error_that_nobody_asked_for_is_a_failure() -> None:
    @app.workflow
    async def confused(ctx: Context) -> None:
        handle = work(1)
        handle.cancel()
        await handle

    case = Case(app, confused)
    assert case.error.type == "asyncio.exceptions.CancelledError"


def test_shielded_work_survives_cancellation() -> None:
    @app.workflow
    async def shielded(ctx: Context) -> int:
        inner = asyncio.ensure_future(work(1))
        try:
            return await asyncio.shield(inner)
        except asyncio.CancelledError:
            return -(await inner)

    case = Case(app, shielded)
    case.cancel()
    assert case.pending() == [2]
    case.complete(2, 5)
    assert case.result == -5


def test_termination_closes_without_running_the_code() -> None:
    ran: list[str] = []

    @app.workflow
    async def doomed(ctx: Context) -> None:
        try:
            await work(1)
        finally:
            ran.append("plain")
            await undo(1)
            ran.append("awaited")

    case = Case(app, doomed, check=False)
    activation = case.terminate("enough")
    assert activation is not None
    assert case.history[-2:] == [events.Terminated(reason="enough"), events.ActivityCancelled(ref=2)]
    assert activation.closed == "terminated"
    assert ran == ["plain"], "eviction runs plain code in a finally, which can command nothing"
    assert case.replayed().closed == "terminated"


def test_a_closed_run_takes_nothing_and_waits_for_nothing() -> None:
    @app.workflow
    async def background(ctx: Context) -> str:
        asyncio.get_running_loop().create_task(forever(ctx))
        await asyncio.sleep(0)
        return "done"

    async def forever(ctx: Context) -> None:
        await asyncio.Event().wait()

    case = Case(app, background)
    assert case.result == "done"
    assert case.run.wakeup_at() is None
    assert case.run.due(case.now * 2) is None
    assert case.signal("x") is None
    assert case.cancel() is None
    assert case.terminate() is None


def test_the_run_ends_where_its_function_returns() -> None:
    heard: list[str] = []

    @app.workflow
    async def quick(ctx: Context) -> str:
        loop = asyncio.get_running_loop()
        loop.call_soon(loop.call_soon, heard.append, "late")
        return "done"

    assert Case(app, quick).result == "done"
    assert heard == []


def test_status_is_an_event_when_it_changes_and_is_published() -> None:
    @app.workflow
    async def talking(ctx: Context) -> None:
        ctx.set_status("one")
        ctx.set_status("one")
        await work(1)
        ctx.set_status("two")
        for bad in ("\0", "\ud800", "x" * 5000):
            with pytest.raises(ValueError, match="set_status"):
                ctx.set_status(bad)
        await work(2)

    def statuses(activation: Activation | None, case: Case) -> list[Any]:
        assert activation is not None
        sent = [m for m in activation.messages if m.topic == "everstep.lifecycle"]
        assert activation.custom_status == case.run.custom_status
        return [activation.status_changed, activation.custom_status, len(sent)]

    case = Case(app, talking)
    assert case.run.custom_status == "one"
    assert statuses(case.complete(3, 0), case) == [True, "two", 1]
    assert statuses(case.fail(6), case) == [False, "two", 1]
