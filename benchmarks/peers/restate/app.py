"""Restate services.  Served by hypercorn with the settings the documentation gives for production;
the tuned variant is served by granian (see run.py) and gathers 100 futures at a time."""
import asyncio
import os
import sys
import time
from datetime import timedelta
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[3]))
import restate
from benchmarks.harness import workloads

CHUNK = int(os.environ.get("PEER_RESTATE_CHUNK", 0))         # 0: one gather over everything
seq, stamps, fan = restate.Workflow("seq"), restate.Workflow("stamps"), restate.Workflow("fan")
wait, timer, gated = restate.Workflow("wait"), restate.Workflow("timer"), restate.Workflow("gated")


async def echo(x):
    return x


async def stamp():
    return time.time()


async def gated_echo(x):
    workloads.mark()
    while not workloads.gate_open():
        await asyncio.sleep(1)
    return x


@seq.main("run")
async def seq_run(ctx: restate.WorkflowContext, i):
    return [await ctx.run_typed("echo", echo, x={"i": i, "s": s}) for s in range(3)]


@stamps.main("run")
async def stamps_run(ctx: restate.WorkflowContext, _):
    return [await ctx.run_typed("stamp", stamp) for _ in range(3)]


@fan.main("run")
async def fan_run(ctx: restate.WorkflowContext, k):
    done = []
    for a in range(0, k, CHUNK or k):           # the SDK's gather is quadratic in its width
        done += await restate.gather(*[ctx.run_typed("echo", echo, x={"i": i})
                                       for i in range(a, min(k, a + (CHUNK or k)))])
    return sum([(await d)["i"] for d in done])


@wait.main("run")
async def wait_run(ctx: restate.WorkflowContext, _):
    workloads.mark()
    return await ctx.promise("go").value()


@wait.handler("go")
async def wait_go(ctx: restate.WorkflowSharedContext, payload):
    await ctx.promise("go").resolve(payload)


@timer.main("run")
async def timer_run(ctx: restate.WorkflowContext, s):
    a = await ctx.run_typed("stamp", stamp)
    await ctx.sleep(timedelta(seconds=s))
    return [a, await ctx.run_typed("stamp", stamp)]


@gated.main("run")
async def gated_run(ctx: restate.WorkflowContext, i):
    return [await ctx.run_typed("a", echo, x={"i": i, "s": 0}),
            await ctx.run_typed("b", gated_echo, x={"i": i, "s": 1}),
            await ctx.run_typed("c", echo, x={"i": i, "s": 2})]


app = restate.app([seq, stamps, fan, wait, timer, gated])

if __name__ == "__main__":
    import hypercorn
    import hypercorn.asyncio
    conf = hypercorn.Config()
    conf.bind = [f"127.0.0.1:{sys.argv[1]}"]
    conf.h2_max_concurrent_streams = conf.keep_alive_max_requests = conf.keep_alive_timeout = 2147483647
    asyncio.run(hypercorn.asyncio.serve(app, conf))
