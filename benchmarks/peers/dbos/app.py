"""DBOS application: the engine is a library, so workflows, steps and the load generator share a process."""
import asyncio
import os
import sys
import time
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[3]))
import psycopg
from benchmarks.harness import workloads
from dbos import DBOS, SetWorkflowID

URL = os.environ["PEER_DB"]
MODE = os.environ.get("PEER_MODE", "")
QUEUE = MODE == "queue"      # start through a durable queue, as a separate client would, instead of directly


@DBOS.step()
async def echo(x):
    return x


@DBOS.step()
async def stamp():
    return time.time()


@DBOS.step()
async def gated_echo(x):
    workloads.mark()
    while not workloads.gate_open():
        await asyncio.sleep(1)
    return x


@DBOS.workflow()
async def seq(i):
    return [await echo({"i": i, "s": s}) for s in range(3)]


@DBOS.workflow()
async def stamps(_):
    return [await stamp() for _ in range(3)]


@DBOS.workflow()
async def fan(k):
    return sum(r["i"] for r in await asyncio.gather(*[echo({"i": i}) for i in range(k)]))


@DBOS.workflow()
async def wait(_):
    workloads.mark()
    return await DBOS.recv_async("go", timeout_seconds=600)


@DBOS.workflow()
async def timer(s):
    a = await stamp()
    await DBOS.sleep_async(s)
    return [a, await stamp()]


@DBOS.workflow()
async def gated(i):
    return [await echo({"i": i, "s": 0}), await gated_echo({"i": i, "s": 1}), await echo({"i": i, "s": 2})]


KINDS = {"seq": seq, "stamps": stamps, "fan": fan, "wait": wait, "timer": timer, "gated": gated}


class Client(workloads.Client):
    async def start(self, kind, wid, arg):
        with SetWorkflowID(wid):
            if QUEUE:
                return await DBOS.enqueue_workflow_async("bench", KINDS[kind], arg)
            return await DBOS.start_workflow_async(KINDS[kind], arg)

    async def result(self, handle):
        if QUEUE:
            return await handle.get_result(polling_interval_sec=0.1)
        return await handle.get_result()

    async def signal(self, wid, payload):
        await DBOS.send_async(wid, payload, "go")

    async def finish(self, wids, tokens):
        prefix = wids[0].rsplit("-", 1)[0] + "-"
        async with await psycopg.AsyncConnection.connect(URL, autocommit=True) as c:
            while True:
                cur = await c.execute("select count(*) from dbos.workflow_status where status = 'SUCCESS'"
                                      " and starts_with(workflow_uuid, %s) and name like '%%gated'", [prefix])
                if (await cur.fetchone())[0] >= len(wids):
                    return
                await asyncio.sleep(0.1)


async def main():
    config = {"name": "peer-bench", "system_database_url": URL, "log_level": "WARNING"}
    if MODE in ("tuned", "queue"):
        config["max_executor_threads"] = 8       # the default is unbounded: one thread per concurrent step
    DBOS(config=config)
    DBOS.launch()
    if QUEUE:
        await DBOS.register_queue_async("bench", polling_interval_sec=0.1)
    await workloads.serve_embedded(Client())


asyncio.run(main())
