"""What runs say to each other crosses shards and commits: children, requests, and runs that go on as new ones."""

from __future__ import annotations

import asyncio

import msgspec
from tests.pipeline.kit import Installation

from everstep import App, ChildError, Context, Retry, Signal, seconds
from everstep_schemas.names import shard_of

SHARDS = 4
go = Signal[int]("go")
app = App("families")


@app.activity
async def work(n: int) -> int:
    return n


@app.workflow
async def child(ctx: Context, n: int) -> int:
    return await work(n)


@app.workflow
async def waiting(ctx: Context) -> int:
    return await ctx.wait_for_signal(go)


@app.workflow
async def failing(ctx: Context) -> None:
    raise ValueError("no")


@app.workflow
async def parent(ctx: Context, ids: list[str]) -> list[int]:
    return list(await asyncio.gather(*(child.options(id=id)(n) for n, id in enumerate(ids))))


@app.workflow
async def careful(ctx: Context, workflow: str, id: str) -> str:
    try:
        return f"ended with {await ctx.child(workflow, id=id)}"
    except ChildError as error:
        return f"{error.workflow_id}: {type(error.cause).__name__}: {error.cause}"


@app.workflow
async def leaving(ctx: Context, on_parent_close: str) -> str:
    ctx.child("waiting", id="left", on_parent_close=on_parent_close)  # type: ignore[call-overload]
    await ctx.sleep(seconds(1))
    return "gone"


@app.workflow
async def caller(ctx: Context, id: str) -> str:
    try:
        await ctx.external(id).signal(go, 7)
        await ctx.external(id).cancel("enough")
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "told"


@app.workflow
async def count(ctx: Context, n: int, until: int) -> int:
    if n < until:
        ctx.attributes["n"] = n
        await ctx.wait_for_signal(go)
        ctx.continue_as_new(count, n + 1, until)
    return n


@app.workflow
async def spin(ctx: Context, n: int) -> int:
    if n:
        ctx.continue_as_new(spin, n - 1)
    return n


@app.workflow(retry=Retry(max_attempts=3))
async def shaky(ctx: Context) -> int:
    if ctx.info.attempt < 3:
        raise ValueError(f"attempt {ctx.info.attempt}")
    return ctx.info.attempt


@app.workflow
async def waits_for_count(ctx: Context) -> int:
    result: int = await ctx.child("count", 0, 2, id="counted", returns=int)
    return result


def ids_in_all_shards() -> list[str]:
    found: dict[int, str] = {}
    for n in range(1000):
        found.setdefault(shard_of(f"child-{n}", SHARDS), f"child-{n}")
    return [found[shard] for shard in range(SHARDS)]


def start(installation: Installation, workflow: str, *args: object, id: str = "p", **more: object) -> None:
    installation.submit("start", id, workflow=workflow, args=list(args), **more)


def result_of(installation: Installation, id: str) -> object:
    ended = [fact for fact in installation.facts("run.completed") if fact["workflow_id"] == id]
    return ended[-1]["result"]


async def answer_all(installation: Installation) -> None:
    answered = 0
    while len(commands := installation.commands()) > answered:
        for command in commands[answered:]:
            [n] = msgspec.json.decode(command.args)
            installation.answer(command, n)
        answered = len(commands)
        await installation.settled()


async def test_children_in_every_shard_answer_their_parent() -> None:
    installation = Installation(SHARDS)
    ids = ids_in_all_shards()
    async with installation.running(app):
        start(installation, "parent", ids)
        await installation.settled()
        await installation.until(lambda: len(installation.commands()) == SHARDS)
        await answer_all(installation)
        await installation.until(lambda: installation.facts("run.completed") and installation.latest("p"))
        await installation.settled()
    assert result_of(installation, "p") == [0, 1, 2, 3]
    rows = [installation.runs(id) for id in ids]
    assert [len(row) for row in rows] == [1, 1, 1, 1]
    assert all(msgspec.json.decode(row[0].parent or b"")["workflow_id"] == "p" for row in rows)


async def test_a_child_start_that_comes_again_is_no_second_start() -> None:
    installation = Installation()
    async with installation.running(app):
        start(installation, "careful", "waiting", "c")
        await installation.until(lambda: installation.latest("c"))
        [started] = [m for m in installation.publisher.sent if b"child_start" in m.value]
        installation.logs.write(started.topic, 0, started.value)
        await installation.settled()
        installation.submit("signal", "c", name="go", value=3)
        await installation.until(lambda: installation.facts("run.completed")[1:])
    assert len(installation.runs("c")) == 1
    assert result_of(installation, "p") == "ended with 3"


async def test_an_id_that_is_taken_is_an_error_that_the_parent_can_catch() -> None:
    installation = Installation()
    async with installation.running(app):
        start(installation, "waiting", id="c")
        await installation.settled()
        start(installation, "careful", "waiting", "c")
        await installation.until(lambda: installation.facts("run.completed"))
    assert str(result_of(installation, "p")).startswith("c: RunAlreadyExists: run 1 of 'c' exists (running)")
    assert len(installation.runs("c")) == 1


async def test_a_child_that_fails_is_cancelled_or_terminated_says_so() -> None:
    installation = Installation()
    async with installation.running(app):
        start(installation, "careful", "failing", "c1", id="p1")
        for n, kind in ((2, "cancel"), (3, "terminate")):
            start(installation, "careful", "waiting", f"c{n}", id=f"p{n}")
            await installation.until(lambda id=f"c{n}": installation.latest(id))  # type: ignore[misc]
            installation.submit(kind, f"c{n}", reason="because")
        await installation.until(lambda: len(installation.facts("run.completed")) == 3)
    assert result_of(installation, "p1") == "c1: RemoteError: ValueError: no"
    assert result_of(installation, "p2") == "c2: RunCancelled: run 'c2' was cancelled: because"
    assert result_of(installation, "p3") == "c3: RunTerminated: run 'c3' was terminated: because"


async def test_what_becomes_of_a_child_when_its_parent_ends() -> None:
    for policy, status in (("terminate", "terminated"), ("cancel", "cancelled"), ("abandon", "running")):
        installation = Installation(SHARDS)
        async with installation.running(app):
            start(installation, "leaving", policy)
            await installation.until(lambda: installation.latest("left"))  # noqa: B023
            installation.now += 2_000_000
            await installation.until(lambda: installation.facts("run.completed"))  # noqa: B023
            await installation.settled()
            await installation.until(lambda: installation.latest("left").status == status)  # type: ignore[union-attr]  # noqa: B023


async def test_a_parent_that_is_terminated_without_its_code_takes_its_children_with_it() -> None:
    installation = Installation(SHARDS)
    async with installation.running(app):
        start(installation, "careful", "waiting", "c")
        await installation.until(lambda: installation.latest("c"))
        await installation.settled()
    async with installation.running(App("without the code")):
        installation.submit("terminate", "p")
        await installation.until(lambda: len(installation.facts("run.terminated")) == 2)
        await installation.settled()
    assert [run.status for id in ("p", "c") for run in installation.runs(id)] == ["terminated", "terminated"]


async def test_requests_to_other_runs_are_answered() -> None:
    installation = Installation(SHARDS)
    async with installation.running(app):
        start(installation, "caller", "nobody", id="p1")
        start(installation, "waiting", id="w")
        await installation.settled()
        start(installation, "caller", "w", id="p2")
        await installation.until(lambda: len(installation.facts("run.completed")) == 3)
        await installation.settled()
        start(installation, "caller", "w", id="p3")
        await installation.until(lambda: len(installation.facts("run.completed")) == 4)
    assert result_of(installation, "p1") == "RunNotFound: no run has the id 'nobody'"
    assert result_of(installation, "w") == 7
    assert str(result_of(installation, "p2")) == "Rejected: run 1 of 'w' has ended (completed)"
    assert result_of(installation, "p3") == "Rejected: run 1 of 'w' has ended (completed)"


async def test_the_next_run_begins_in_the_commit_that_ends_the_one_before() -> None:
    installation = Installation()
    async with installation.running(app):
        start(installation, "count", 0, 2)
        await installation.settled()
        for value in (1, 2):
            installation.submit("signal", "p", name="go", value=value)
        await installation.until(lambda: installation.facts("run.completed"))
        await installation.settled()
    assert [(run.run, run.status) for run in installation.runs("p")] == [
        (1, "continued"),
        (2, "continued"),
        (3, "completed"),
    ]
    assert [fact["run"] for fact in installation.facts("run.continued")] == [1, 2]
    assert result_of(installation, "p") == 2
    assert [run.attributes for run in installation.runs("p")] == ['{"n":0}', '{"n":1}', '{"n":1}']


async def test_signals_that_were_not_read_go_along() -> None:
    installation = Installation()
    async with installation.running(app):
        start(installation, "count", 0, 2)
        await installation.settled()
        installation.submit("signal", "p", name="go", value=1, signal_id="s1")
        installation.submit("signal", "p", name="go", value=2, signal_id="s2")
        await installation.until(lambda: installation.facts("run.completed"))
        assert result_of(installation, "p") == 2


async def test_a_run_that_never_waits_lets_others_have_their_turn() -> None:
    installation = Installation()
    async with installation.running(app):
        start(installation, "spin", 25)
        start(installation, "child", 1, id="other")
        await installation.until(lambda: installation.commands())
        assert not installation.facts("run.completed")
        await installation.until(lambda: installation.facts("run.completed"), passing_us=1_000)
    assert len(installation.runs("p")) == 26


async def test_a_run_that_fails_is_begun_again_as_its_workflow_says() -> None:
    installation = Installation()
    async with installation.running(app):
        start(installation, "shaky")
        await installation.until(lambda: installation.facts("run.completed"), passing_us=100_000)
        await installation.settled()
    assert [run.status for run in installation.runs("p")] == ["continued", "continued", "completed"]
    assert [fact["error"]["message"] for fact in installation.facts("run.continued")] == ["attempt 1", "attempt 2"]


async def test_a_parent_waits_for_the_last_run_of_its_child() -> None:
    installation = Installation(SHARDS)
    async with installation.running(app):
        start(installation, "waits_for_count")
        await installation.until(lambda: installation.latest("counted"))
        for value in (1, 2):
            installation.submit("signal", "counted", name="go", value=value)
            await installation.settled()
        await installation.until(lambda: len(installation.facts("run.completed")) == 2)
    assert result_of(installation, "p") == 2
    assert len(installation.runs("counted")) == 3


async def test_everything_goes_on_with_another_owner_after_every_turn() -> None:
    """The orchestrator is replaced whenever everything is durable, so each step runs on a replayed run."""
    installation = Installation(SHARDS)
    async with installation.running(app):
        start(installation, "waits_for_count")
        await installation.until(lambda: installation.latest("counted"))
        await installation.settled()
    for value in (1, 2):
        async with installation.running(app):
            installation.submit("signal", "counted", name="go", value=value)
            await installation.until(lambda n=value: len(installation.runs("counted")) == n + 1)  # type: ignore[misc]
            await installation.settled()
    async with installation.running(app):
        await installation.until(lambda: installation.latest("p").status == "completed")  # type: ignore[union-attr]
