"""The workloads as Everstep workflows."""

import asyncio
import sys
import time
from pathlib import Path
from typing import Any

from everstep import App, Context, minutes, seconds

sys.path.append(str(Path(__file__).resolve().parents[2]))

from benchmarks.harness import workloads

app = App("bench")

Echo = dict[str, int]
GATE_POLL_SECONDS = 1.0


@app.activity
async def echo(x: Echo) -> Echo:
    return x


@app.activity
async def stamp() -> float:
    return time.time()


@app.activity(timeout=minutes(10))
async def gated_echo(x: Echo) -> Echo:
    workloads.mark()
    while not workloads.gate_open():  # noqa: ASYNC110 - a file that another process makes
        await asyncio.sleep(GATE_POLL_SECONDS)
    return x


@app.activity
async def arrive() -> None:
    workloads.mark()


@app.workflow
async def seq(ctx: Context, i: int) -> list[Echo]:
    return [await echo({"i": i, "s": s}) for s in range(3)]


@app.workflow
async def stamps(ctx: Context, _: None) -> list[float]:
    return [await stamp() for _ in range(3)]


@app.workflow
async def fan(ctx: Context, k: int) -> int:
    return sum(x["i"] for x in await asyncio.gather(*[echo({"i": i}) for i in range(k)]))


@app.workflow
async def wait(ctx: Context, _: None) -> Any:
    await arrive()
    return await ctx.wait_for_signal("go")


@app.workflow
async def timer(ctx: Context, s: float) -> list[float]:
    began = await stamp()
    await ctx.sleep(seconds(s))
    return [began, await stamp()]


@app.workflow
async def gated(ctx: Context, i: int) -> list[Echo]:
    return [await echo({"i": i, "s": 0}), await gated_echo({"i": i, "s": 1}), await echo({"i": i, "s": 2})]
