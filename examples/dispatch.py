"""Two versions of a workflow side by side, and a change within one: runs keep to what they began with.

everstep dev examples.dispatch:app
everstep start dispatch '"o-1"' --id d-1 --wait
everstep start dispatch '"o-1"' --id d-2 --version 1 --wait
"""

from everstep import App, Context

app = App("dispatch")


@app.activity
async def check_fraud(order: str) -> bool:
    return not order.startswith("stolen")


@app.activity
async def ship(order: str) -> str:
    return f"shipped {order}"


@app.workflow(name="dispatch", version=1)
async def dispatch_v1(ctx: Context, order: str) -> str:
    return await ship(order)


@app.workflow(version=2)
async def dispatch(ctx: Context, order: str) -> str:
    # Added while runs of version 2 were open: those that had passed here replay without it.
    if ctx.patched("fraud-check") and not await check_fraud(order):
        return f"held back {order}"
    return await ship(order)
