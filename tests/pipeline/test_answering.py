"""Updates and starts as the orchestrator answers them: once, also when they come again, late or to nobody."""

from __future__ import annotations

from typing import Any

from tests.pipeline.kit import Installation

from everstep import App, Context, Retry, Signal, Update, hours, seconds

SECOND = 1_000_000
add = Update[int, int]("add")
go = Signal[int]("go")
app = App("answers")


def positive(n: int) -> None:
    if n < 1:
        raise ValueError("only numbers above 0")


@app.activity
async def work(n: int) -> int:
    return n


@app.workflow
async def counter(ctx: Context) -> int:
    total = 0

    @ctx.on_update(add, validate=positive)
    async def _(n: int) -> int:
        nonlocal total
        total += await work(n)
        return total

    await ctx.wait_for_signal(go)
    return total


@app.workflow
async def first(ctx: Context) -> int:
    return await ctx.wait_for_signal(go)


@app.workflow(timeout=hours(1))
async def slow(ctx: Context) -> None:
    await ctx.sleep(hours(2))


@app.workflow(retry=Retry(max_attempts=5), timeout=seconds(10))
async def hopeless(ctx: Context) -> None:
    raise ValueError("no")


def update(installation: Installation, n: Any, id: str, to: str = "r") -> None:
    installation.submit("update", to, name="add", value=n, update_id=id)


def rejections(installation: Installation) -> dict[str, str]:
    return {fact["submission_id"]: fact["reason"] for fact in installation.facts("submission.rejected")}


async def test_an_update_is_validated_carried_out_and_answered() -> None:
    installation = Installation()
    async with installation.running(app):
        installation.submit("start", "r", workflow="counter", args=[])
        update(installation, 0, "u0")
        update(installation, "x", "u1")
        update(installation, 3, "u2")
        await installation.until(lambda: installation.commands())
        installation.answer(installation.commands()[0], 3)
        await installation.until(lambda: installation.facts("update.completed"))
    refused = rejections(installation)
    assert refused["u0"] == "only numbers above 0"
    assert refused["u1"].startswith("the value of update 'add' does not fit: Expected `int`, got `str`")
    [done] = installation.facts("update.completed")
    assert (done["submission_id"], done["result"]) == ("u2", 3)
    row = installation.latest("r")
    assert row is not None
    assert installation.kinds(row.run_key).count("UpdateRequested") == 1


async def test_the_same_update_is_carried_out_once_and_answered_each_time() -> None:
    installation = Installation()
    async with installation.running(app):
        installation.submit("start", "r", workflow="counter", args=[])
        update(installation, 3, "u1")
        update(installation, 3, "u1")
        await installation.until(lambda: installation.commands())
        installation.answer(installation.commands()[0], 3)
        await installation.until(lambda: installation.facts("update.completed"))
    async with installation.running(app):
        await installation.settled()
        before = len(installation.facts("update.completed"))
        update(installation, 3, "u1")
        await installation.until(lambda: len(installation.facts("update.completed")) > before)
        again = installation.facts("update.completed")[-1]
    assert (again["submission_id"], again["result"]) == ("u1", 3)
    row = installation.latest("r")
    assert row is not None
    assert installation.kinds(row.run_key).count("ActivityScheduled") == 1


async def test_whoever_waits_for_an_update_hears_of_the_runs_end() -> None:
    installation = Installation()
    async with installation.running(app):
        installation.submit("start", "r", workflow="counter", args=[])
        update(installation, 3, "u1")
        installation.submit("signal", "r", name="go", value=1)
        update(installation, 3, "u2")
        await installation.until(lambda: installation.facts("run.completed"))
        await installation.settled()
    [failed] = installation.facts("update.failed")
    assert (failed["submission_id"], failed["error"]["type"]) == ("u1", "RunEnded")
    assert rejections(installation)["u2"] == "run 1 of 'r' has ended (completed)"


async def test_a_signal_may_come_with_the_start() -> None:
    installation = Installation()
    async with installation.running(app):
        signal = {"name": "go", "value": 7}
        installation.submit("start", "r", workflow="first", args=[], with_signal=signal, submission_id="s1")
        await installation.until(lambda: installation.facts("run.completed"))
        assert installation.facts("run.completed")[0]["result"] == 7


async def test_the_signal_of_a_start_reaches_a_run_that_is_there_once() -> None:
    installation = Installation()
    async with installation.running(app):
        installation.submit("start", "r", workflow="counter", args=[])
        again = {"workflow": "counter", "with_signal": {"name": "x", "value": 7}, "on_duplicate": "return_existing"}
        installation.submit("start", "r", **again, submission_id="s1")
        installation.submit("start", "r", **again, submission_id="s1")
        installation.submit("start", "r", workflow="counter", with_signal={"name": "x", "value": 8}, submission_id="s2")
        await installation.settled()
    row = installation.latest("r")
    assert row is not None
    assert installation.kinds(row.run_key).count("SignalReceived") == 1
    assert "s2" in rejections(installation)


async def test_a_start_may_lie_in_the_future() -> None:
    installation = Installation()
    at = "2023-11-14T23:13:20Z"  # an hour after the installation's clock
    async with installation.running(app):
        installation.submit("start", "r", workflow="counter", args=[], start_at=at, attributes={"customer": "C-9"})
        update(installation, 3, "u1")
        await installation.settled()
        row = installation.latest("r")
        assert row is not None
        assert (row.status, row.attributes) == ("running", '{"customer":"C-9"}')
        assert rejections(installation)["u1"] == "the run has not begun: its code starts at 2023-11-14T23:13:20+00:00"
        installation.now += 3601 * SECOND
        installation.submit("signal", "r", name="go", value=1)
        await installation.until(lambda: installation.facts("run.completed"))


async def test_a_start_that_cannot_be_is_rejected_with_the_field() -> None:
    installation = Installation()
    wrong: dict[str, dict[str, Any]] = {
        "s1": {"timeout_seconds": 0},
        "s2": {"start_at": "2023-11-14T23:13:20"},
        "s3": {"attributes": {"x": "a\0b"}},
        "s4": {"with_signal": {"name": ""}},
        "s5": {"memo": {"m": "x" * (1 << 21)}},
    }
    async with installation.running(app):
        for id, fields in wrong.items():
            installation.submit("start", id, workflow="first", submission_id=id, **fields)
        await installation.settled()
    assert {id: reason.split(" ")[0] for id, reason in rejections(installation).items()} == {
        "s1": "timeout_seconds",
        "s2": "start_at",
        "s3": "attribute",
        "s4": "with_signal.name",
        "s5": "args,",
    }


async def test_a_run_that_takes_too_long_is_closed() -> None:
    installation = Installation()
    async with installation.running(app):
        installation.submit("start", "r", workflow="slow", args=[])
        installation.submit("start", "q", workflow="slow", args=[], timeout_seconds=60)
        await installation.settled()
        await installation.until(lambda: len(installation.facts("run.timed_out")) == 2, passing_us=SECOND)
        await installation.settled()
    assert [installation.latest(id).status for id in ("q", "r")] == ["timed_out", "timed_out"]  # type: ignore[union-attr]


async def test_a_run_is_begun_again_only_within_its_timeout() -> None:
    installation = Installation()
    async with installation.running(app):
        installation.submit("start", "r", workflow="hopeless", args=[])
        await installation.until(lambda: installation.facts("run.failed"), passing_us=SECOND // 10)
        await installation.settled()
    assert 2 <= len(installation.runs("r")) < 5
