"""A workflow whose activities are JavaScript: to it they are signatures."""

from __future__ import annotations

import asyncio
from typing import Any

from everstep import App, Context

QUEUE = "conformance"
app = App("mixed")


class Declined(Exception): ...


@app.remote(queue=QUEUE)
async def echo(value: Any) -> Any:
    raise NotImplementedError


@app.remote(queue=QUEUE)
async def pair(first: int, second: int) -> list[int]:
    raise NotImplementedError


@app.remote(queue=QUEUE, raises=[Declined])
async def decline(message: str) -> None: ...


@app.remote(queue=QUEUE)
async def until_cancelled() -> None: ...


@app.workflow
async def mixed(ctx: Context, name: str) -> list[Any]:
    seen = [await echo({"name": name}), await pair(1, second=2)]
    try:
        await decline("no credit")
    except Declined as error:
        seen.append(str(error))
    try:
        async with asyncio.timeout(0.5):
            await until_cancelled()
    except TimeoutError:
        seen.append("cut short")
    return seen
