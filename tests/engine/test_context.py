"""`ctx`: facts, randomness and log are functions of the history."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

from tests.engine.kit import NONCE, Case, Recorder

from everstep import App, Context

app = App("context")


@app.activity
async def work(n: int) -> int:
    raise AssertionError("workers run activities")


@app.workflow
async def facts(ctx: Context) -> list[Any]:
    info = ctx.info
    first = [info.workflow, info.workflow_id, info.run, info.version, info.history_events]
    await work(1)
    return [*first, ctx.info.history_events, info.started_at.isoformat(), ctx.now().isoformat()]


def test_info_and_now() -> None:
    case = Case(app, facts)
    case.complete(2, 1)
    assert case.result == [
        *["facts", "order-17", 1, 1, 1, 3],
        *["2023-11-14T22:13:20+00:00", "2023-11-14T22:13:20.001000+00:00"],
    ]


@app.workflow
async def chances(ctx: Context) -> list[Any]:
    draws: list[Any] = [ctx.random.random(), str(ctx.uuid4()), str(ctx.uuid4())]
    ctx.random.seed(1)
    return [*draws, str(ctx.uuid4())]


def test_randomness_belongs_to_the_run() -> None:
    one, again, other = (Case(app, chances, nonce=nonce).result for nonce in (NONCE, NONCE, "other"))
    assert one == again
    assert set(one).isdisjoint(other)
    assert len(set(one)) == 4, "seeding ctx.random does not repeat ids"
    assert all(UUID(text).version == 4 for text in one[1:])


@app.workflow
async def chatty(ctx: Context) -> None:
    ctx.log.debug("one", n=1)
    ctx.log.info("two")
    await work(1)
    ctx.log.warning("three")
    ctx.log.error("four")


def test_lines_of_a_log_name_the_run_and_are_written_once() -> None:
    log = Recorder()
    case = Case(app, chatty, log=log)
    case.complete(2, 1)
    bound = {"workflow_id": "order-17", "run": 1, "workflow": "chatty"}
    assert log.lines == [
        ("debug", "one", bound | {"n": 1}),
        ("info", "two", bound),
        ("warning", "three", bound),
        ("error", "four", bound),
    ]


@app.workflow
async def careless(ctx: Context) -> None:
    async def fail() -> None:
        raise ValueError("nobody looked")

    task = asyncio.create_task(fail())
    await asyncio.sleep(0)
    del task
    asyncio.get_running_loop().call_soon(int, "x")
    await work(1)


def test_exceptions_that_nobody_looks_at_are_logged() -> None:
    log = Recorder()
    case = Case(app, careless, log=log, check=False)
    case.complete(2, 1)
    assert ("warning", "invalid literal for int() with base 10: 'x'") in [
        (level, str(fields.get("error"))[12:-2]) for level, _, fields in log.lines
    ]
