"""No order comes from an address or from PYTHONHASHSEED, and the hashes that make it so cost nothing."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

from tests.engine.kit import Case

from everstep import App, Context
from everstep._core.loop import RunLoop, new_loop

ROOT = Path(__file__).parents[2]
PROGRAM = """
import asyncio, random
from everstep import ActivityError, App, Context
from tests.engine.kit import Case

app = App("order")

@app.activity
async def work(n: int) -> int: ...

@app.workflow
async def aborting(ctx: Context) -> list[str]:
    log = []
    async def child(n):
        try:
            await work(n)
        except asyncio.CancelledError:
            log.append(f"child {n}")
            raise
    async def failing():
        await work(99)
    try:
        async with asyncio.TaskGroup() as group:
            for n in range(30):
                group.create_task(child(n))
            group.create_task(failing())
    except* Exception:
        pass
    handles = [work(n) for n in range(30)]
    done, pending = await asyncio.wait(handles, return_when=asyncio.FIRST_COMPLETED)
    log += [str(handles.index(one)) for one in pending]
    log += [one.get_name() for one in asyncio.all_tasks()]
    for coro in asyncio.as_completed([child(n) for n in range(5)]):
        coro.close()
    try:
        await ctx.map(child, range(20), concurrency=15)
    except ActivityError:
        pass
    flags = set()
    waits = [asyncio.ensure_future(ctx.wait_until(lambda n=n: n in flags)) for n in range(20)]
    await asyncio.sleep(0)
    flags.update(range(20))
    done, _ = await asyncio.wait(waits)
    log += [str(waits.index(one)) for one in done]
    await ctx.first(*(child(n) for n in range(30, 50)))
    await asyncio.sleep(0)
    return log

disturbance = [object() for _ in range(random.randrange(10_000))]
case = Case(app, aborting, check=False)
case.fail(32, retryable=False)
case.complete(case.pending()[0], 1)
case.fail(case.pending()[-2], retryable=False)
case.complete(case.pending()[-5], 1)
print([type(e).__name__ + str(getattr(e, "ref", "")) for e in case.history], case.result)
"""


def test_aborting_a_task_group_gives_one_order_in_twenty_processes() -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM],
            cwd=ROOT,
            env=os.environ | {"PYTHONHASHSEED": str(seed)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in range(20)
    ]
    outputs = [process.communicate(timeout=100)[0] for process in processes]
    assert len(set(outputs)) == 1
    assert ", ".join(f"'child {n}'" for n in range(30)) in outputs[0]


def collisions(loops: list[RunLoop]) -> int:
    """How many slots a set of the loops' first tasks has to try beyond the first, counted by comparing hashes."""
    hashes = {loop.next_number() for loop in loops}
    return len(loops) - len(hashes)


def test_the_hundred_thousandth_runs_tasks_collide_no_more_than_the_firsts() -> None:
    loops = [new_loop(f"{n:016x}", lambda context: None) for n in range(100_000)]
    assert collisions(loops[:100]) == 0
    # The birthdays of 100,000 in 2**32: one pair or two.
    assert collisions(loops) < 10


def test_numbers_rise_within_a_run_so_small_sets_iterate_in_order_of_creation() -> None:
    app = App("sets")

    @app.workflow
    async def sets(ctx: Context) -> list[bool]:
        loop = asyncio.get_running_loop()
        futures = [loop.create_future() for _ in range(60)]
        numbers = [hash(future) for future in futures]
        return [numbers == sorted(numbers), list(dict.fromkeys(set(futures))) == futures]

    rising, _ = Case(app, sets).result
    assert rising
