"""Activities that last until a file appears, and tell in another what happens to them."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

from everstep import App, Context, activity, hours, minutes

app = App("lasting")


def place() -> Path:
    return Path(os.environ["E2E_PLACE"])


def tell(what: str) -> None:
    """One line in the file that all processes write to."""
    with (place() / "told").open("a") as told:
        told.write(what + "\n")


@app.activity(timeout=hours(1))
async def lasting(name: str) -> str:
    attempt, before = activity.info().attempt, activity.last_heartbeat(int) or 0
    tell(f"began {name} by {os.getppid()} {os.getpid()} attempt {attempt} after {before}")
    activity.heartbeat(before + 1)
    try:
        while not (place() / f"finish {name}").exists():  # noqa: ASYNC110  # another process makes it
            await asyncio.sleep(0.02)
    except asyncio.CancelledError:
        tell(f"cancelled {name}")
        raise
    return f"{name} after {before}"


@app.activity(timeout=hours(1))
def in_a_thread() -> None:
    tell("began thread")
    while not activity.is_cancelled():
        time.sleep(0.02)
    tell("cancelled thread")


@app.activity(timeout=hours(1), executor="process")
def in_a_process() -> None:
    tell(f"began process {os.getpid()}")
    while True:
        time.sleep(0.02)


@app.activity(timeout=minutes(1))
async def quick(n: int) -> int:
    return n


@app.workflow
async def last(ctx: Context, name: str) -> str:
    return await lasting(name)


@app.workflow
async def count(ctx: Context, n: int) -> int:
    return sum(await asyncio.gather(*(quick(i) for i in range(n))))


@app.workflow
async def three_kinds(ctx: Context) -> None:
    await asyncio.gather(lasting("task"), in_a_thread(), in_a_process())
