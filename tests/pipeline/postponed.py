"""A workflow that uses what runs can be started with; it fails at first and is begun again."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from everstep import App, Context, Retry, Signal
from everstep.retry import Backoff

app = App("postponed")
note = Signal[str]("note")


@app.activity
async def double(n: int) -> int:
    return 2 * n


def drawn() -> int:
    return 21


@app.workflow(retry=Retry(max_attempts=3, backoff=Backoff(timedelta(seconds=5), jitter=0)))
async def postponed(ctx: Context) -> list[str | int]:
    first = await ctx.wait_for_signal(note)
    doubled = await double(ctx.side_effect(drawn))
    ctx.attributes["attempt"] = ctx.info.attempt
    ctx.milestone(f"attempt {ctx.info.attempt}")
    if ctx.info.attempt < 2:
        ctx.external(ctx.info.workflow_id).signal(note, "again")
        await asyncio.sleep(1)
        raise ConnectionError("the first attempt fails")
    return [first, doubled, ctx.info.attempt]
