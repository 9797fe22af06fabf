"""Workflows for the end-to-end tests. `E2E_LEDGER` names the database in which activities leave their traces."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import asyncpg

from everstep import App, Backoff, Context, NonRetryable, Retry, Signal, activity, provided, seconds

app = App("e2e", retry=Retry(backoff=Backoff(timedelta(milliseconds=100))))
go = Signal[dict[str, Any]]("go")


class Declined(Exception):
    """A declared business error."""


@app.provide
@asynccontextmanager
async def ledger() -> AsyncIterator[asyncpg.Pool[asyncpg.Record]]:
    async with asyncpg.create_pool(os.environ["E2E_LEDGER"], min_size=1, max_size=4) as pool:
        yield pool


@app.activity
async def echo(x: Any) -> Any:
    return x


@app.activity(timeout=seconds(20))
async def book(what: str, *, pool: asyncpg.Pool[asyncpg.Record] = provided(ledger)) -> str:
    """Books once under its idempotency key, however often it is attempted."""
    key, who = activity.info().idempotency_key, activity.info().workflow_id
    await pool.execute("INSERT INTO attempts (key) VALUES ($1)", key)
    await pool.execute("INSERT INTO ledger (key, what) VALUES ($1, $2) ON CONFLICT DO NOTHING", key, f"{who}/{what}")
    return key


@app.activity
def in_a_thread(x: int) -> int:
    return x * 2


@app.activity(retry=Retry(max_attempts=3, backoff=Backoff(timedelta(milliseconds=50))))
async def fails(times: int) -> int:
    if activity.info().attempt <= times:
        raise ConnectionError(f"attempt {activity.info().attempt}")
    return activity.info().attempt


@app.activity(raises=[Declined])
async def declines() -> None:
    raise Declined("no money")


@app.activity
async def unserialisable() -> Any:
    return object()


@app.activity
async def gives_up() -> None:
    raise NonRetryable("never again")


@app.activity(timeout=seconds(60))
async def slow(duration: float) -> None:
    await asyncio.sleep(duration)


@app.workflow
async def three(ctx: Context, i: int) -> list[str]:
    return [await book(f"{step}") for step in range(3)]


@app.workflow
async def wait_for_go(ctx: Context, i: int) -> dict[str, Any]:
    """Books, waits for the signal, books again; what is cancelled is booked back."""
    await book("before")
    ctx.set_status("waiting")
    try:
        value = await ctx.wait_for_signal(go)
    except asyncio.CancelledError:
        await book("refund")
        raise
    await book("after")
    return value


@app.workflow
async def times_out(ctx: Context) -> str:
    got = await ctx.wait_for_signal(go, timeout=seconds(1), default=None)
    return "nobody came" if got is None else "somebody came"


@app.workflow
async def naps(ctx: Context, duration: float) -> float:
    before = ctx.now()
    await asyncio.sleep(duration)
    return (ctx.now() - before).total_seconds()


@app.workflow
async def retried(ctx: Context, times: int) -> int:
    return await fails(times)


@app.workflow
async def declined(ctx: Context) -> str:
    try:
        await declines()
    except Declined as error:
        return f"declined: {error}"
    return "paid"


@app.workflow
async def threaded(ctx: Context, n: int) -> int:
    return sum(await asyncio.gather(*(in_a_thread(i) for i in range(n))))


@app.workflow
async def fan(ctx: Context, n: int) -> int:
    return sum(await asyncio.gather(*(echo(i) for i in range(n))))


@app.workflow
async def returns_nothing_sensible(ctx: Context) -> None:
    await unserialisable()


@app.workflow
async def asks_the_clock(ctx: Context) -> str:
    try:
        late = time.time() > 0
    except Exception:  # the error is caught, and the run stalled nevertheless
        late = True
    went = await ctx.wait_for_signal(go)
    return f"{late} {went}"


@app.workflow
async def never_yields(ctx: Context) -> None:
    while True:
        pass


@app.workflow
async def sets_status(ctx: Context, text: str) -> str:
    ctx.set_status(text)
    return await ctx.wait_for_signal("go", type=str)


@app.workflow
async def echoes(ctx: Context, text: str) -> str:
    return await ctx.activity("echo", text, returns=str)


@app.workflow
async def large(ctx: Context, size: int) -> None:
    await echo("x" * size)


@app.workflow
async def gives_up_at_once(ctx: Context) -> None:
    await gives_up()


@app.workflow
async def cut_short(ctx: Context) -> str:
    try:
        async with asyncio.timeout(0.5):
            await slow(30)
    except TimeoutError:
        return "cut short"
    return "done"


@app.workflow
async def hangs_in_c(ctx: Context) -> int:
    return sum(range(10**13))
