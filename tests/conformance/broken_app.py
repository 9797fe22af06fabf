"""A worker that confuses its arguments."""

from __future__ import annotations

from typing import Any

from everstep import App

app = App("broken")


@app.activity
async def echo(value: Any) -> Any:
    return value


@app.activity
async def pair(first: int, second: int) -> list[int]:
    return [second, first]
