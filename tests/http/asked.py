"""A workflow that answers queries, in every way that queries can go."""

from __future__ import annotations

import asyncio
from typing import Any

from msgspec import Raw

from everstep import App, Context
from everstep_schemas import events

app = App("asked")


@app.workflow
async def counter(ctx: Context, count: int) -> int:
    """Adds what comes until that is 0."""
    ctx.on_query("total", lambda: count)
    ctx.on_query("plus", lambda a, b=0: {"sum": count + a + b})
    ctx.on_query("fails", lambda: 1 // 0)
    ctx.on_query("commands", lambda: ctx.set_status("seen"))
    ctx.on_query("sleeps", lambda: asyncio.sleep(1))
    while n := await ctx.wait_for_signal("add", type=int):
        count += n
    return count


def history(count: int, *added: int) -> list[list[events.AnyEvent]]:
    """The rows of such a run."""
    began = events.Started(
        workflow="counter", version=1, nonce="n", source="s", python="3.11", args=Raw(f"[{count}]".encode())
    )
    awaited = events.SignalAwaited(name="add")
    rows: list[list[events.AnyEvent]] = [[began, awaited]]
    for number, n in enumerate(added):
        signal = events.SignalReceived(name="add", value=Raw(str(n).encode()), signal_id=f"s{number}")
        count += n
        closing: Any = awaited if n else events.Completed(value=Raw(str(count).encode()))
        rows.append([signal, closing])
    return rows
