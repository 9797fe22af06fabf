"""The smallest app that has both a workflow and an activity."""

from __future__ import annotations

from everstep import App, Context

app = App("greeting")


@app.activity
async def compose(name: str) -> str:
    return f"Hello, {name}"


@app.workflow
async def greet(ctx: Context, name: str) -> str:
    return await compose(name)
