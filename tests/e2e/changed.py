"""The same shop after a bad deploy: `wait_for_go` does something else first. One workflow is new, and one is mended."""

from __future__ import annotations

from typing import Any

from tests.e2e import shop

from everstep import App, Context

app = App("e2e-changed")


@app.activity
async def book(what: str) -> str:
    return what


@app.activity
async def think(about: str) -> str:
    return about


@app.workflow
async def wait_for_go(ctx: Context, i: int) -> dict[str, Any]:
    await think(f"{i}")
    await book("before")
    return await ctx.wait_for_signal(shop.go)


@app.workflow
async def newcomer(ctx: Context, name: str) -> str:
    return f"hello {name}"


@app.workflow
async def asks_the_clock(ctx: Context) -> str:
    went = await ctx.wait_for_signal(shop.go)
    return f"{ctx.now().year > 2000} {went}"
