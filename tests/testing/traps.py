"""Workflows whose order comes from a hash or an address: right in one process, other in the next."""

from __future__ import annotations

from everstep import App, Context, Retry

app = App("traps", retry=Retry(1))
NAMES = {f"warehouse-{n}" for n in range(30)}


class Shelf:
    """Has the hash of any object: its address."""

    def __init__(self, name: str) -> None:
        self.name = name


@app.activity
async def count(name: str) -> int:
    return len(name)


@app.activity
async def sweep(name: str) -> int:
    return len(name)


@app.workflow
async def by_hash(ctx: Context) -> int:
    total = 0
    for name in NAMES:
        total += await count(name)
    return total


@app.workflow
async def by_address(ctx: Context) -> int:
    shelves = {Shelf(f"{n}") for n in range(8)}
    first = next(iter(shelves))
    return await (count if int(first.name) % 2 else sweep)(first.name)


@app.workflow
async def in_order(ctx: Context) -> int:
    total = 0
    for name in sorted(NAMES):
        total += await count(name)
    return total


@app.workflow(name="versioned", version=1)
async def versioned_1(ctx: Context) -> int:
    return await count("one")


@app.workflow(name="versioned", version=2)
async def versioned_2(ctx: Context) -> int:
    return await sweep("two")
