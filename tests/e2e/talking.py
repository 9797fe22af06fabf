"""Workflows that are asked and told things while they run, and go on as others."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import timedelta

from everstep import App, Context, Query, Retry, Signal, Update, hours, seconds
from everstep.retry import Backoff

app = App("talking", retry=Retry(max_attempts=2, backoff=Backoff(timedelta(milliseconds=50))))
total = Query[int]("total")
add = Update[int, int]("add")
go = Signal[str]("go")


@dataclass
class Verdict:
    approved: bool
    by: str = "nobody"


class Refused(Exception):
    """Why an update cannot be carried out."""


@app.activity
async def slow(n: int, pause: float) -> int:
    await asyncio.sleep(pause)
    return n


def positive(n: int) -> None:
    if n < 1:
        raise ValueError("only numbers above 0")


@app.workflow
async def account(ctx: Context, balance: int = 0, pause: float = 0.0) -> int:
    """Adds what it is told to until it hears `go`; at "again" it goes on as a new run."""
    ctx.on_query(total, lambda: balance)
    ctx.on_query("plus", lambda n: balance + n)

    @ctx.on_update(add, validate=positive)
    async def _(n: int) -> int:
        nonlocal balance
        if n == 13:
            raise Refused("unlucky")
        balance += await slow(n, pause)
        ctx.attributes["balance"] = balance
        ctx.milestone(f"balance {balance}")
        return balance

    if await ctx.wait_for_signal(go) == "again":
        ctx.continue_as_new(account, balance, pause)
    return balance


@app.workflow
async def approval(ctx: Context) -> Verdict:
    """Gives its token as its status, and waits for whoever has it."""
    verdict = ctx.callback(Verdict, timeout=hours(1), heartbeat_timeout=hours(1))
    ctx.set_status(verdict.token)
    given = await verdict
    await ctx.wait_for_signal(go)
    return given


@app.workflow(timeout=seconds(1))
async def hurried(ctx: Context) -> str:
    return await ctx.wait_for_signal(go)


@app.workflow(retry=Retry(max_attempts=3, backoff=Backoff(timedelta(milliseconds=50))))
async def flaky(ctx: Context) -> int:
    """Fails twice."""
    if ctx.info.attempt < 3:
        raise Refused(f"attempt {ctx.info.attempt}")
    return ctx.info.run


@app.workflow
async def parent(ctx: Context) -> int:
    return await account.options(id=f"{ctx.info.workflow_id}/child")(7)
