"""Every line marked `# R` must be rejected by both checkers, and no other."""

import asyncio
from collections.abc import Awaitable

from everstep.testing import WorkflowEnvironment
from tests.api.examples.etl import Table, load_table
from tests.api.examples.order import (
    Order,
    Receipt,
    Shipped,
    check_inventory,
    fulfil_order,
    notify_customer,
    open_ledger,
    process_payment,
    shipping_confirmed,
)

from everstep import App, Client, Context, Failures, Query, Retry, Signal, Update, days, provided

app = App("x")
reset = Update[int, int]("reset")
total = Query[int]("total")


async def no_context(order: Order) -> None: ...


app.workflow(no_context)  # R


@app.activity
async def wrong_provider(*, pool: int = provided(open_ledger)) -> None: ...  # R


@app.activity(timeout=30)  # R
async def wrong_timeout() -> None: ...


@app.activity(raises=["CardDeclined"])  # R
async def wrong_raises() -> None: ...


@app.workflow  # R
def not_async(ctx: Context) -> None: ...


@app.workflow
async def w(ctx: Context, order: Order) -> None:
    await process_payment("no")  # R
    await process_payment()  # R
    await process_payment.options(timeout=30)(order)  # R
    await process_payment.options(retry=None)(order)  # R
    await process_payment.options(timeout=days(1))("no")  # R
    check_inventory(order).sku  # R
    (await process_payment(order)).nothing  # R
    (await ctx.wait_for_signal(shipping_confirmed, timeout=days(1), default=None)).carrier  # R
    await ctx.wait_for_signal(shipping_confirmed, timeout=3)  # R
    await ctx.wait_for_signal(shipping_confirmed, default=None)  # R
    results: list[str] = await asyncio.gather(process_payment(order))  # R
    await asyncio.sleep(0, results)
    await ctx.sleep(3)  # R
    await fulfil_order("no")  # R
    await load_table("no")  # R
    await load_table.options(on_parent_close="forget")(Table("a"))  # R
    await ctx.child(load_table, "no")  # R
    await ctx.child(load_table, Table("a"), 7, 8)  # R
    (await ctx.child("by name", 1, returns=Receipt)).nothing  # R
    await ctx.external("x").signal(shipping_confirmed, "no")  # R
    await ctx.map(process_payment, ["no"])  # R
    await ctx.map(process_payment, [order], tolerate=3)  # R
    await ctx.map(process_payment, [order], tolerate=Failures("3"))  # R
    receipts: list[str] = await ctx.map(process_payment, [order])  # R
    await asyncio.sleep(0, receipts)
    (await ctx.first(process_payment(order), check_inventory(order))).charge_id  # R
    await ctx.wait_until(True)  # R
    (await ctx.callback(Receipt)).nothing  # R
    ctx.on_update(reset, lambda to: to)  # R
    ctx.on_query(total, lambda: "no")  # R
    ctx.attributes["customer"] = order  # R
    async with ctx.saga() as saga:
        saga.on_failure(process_payment, 3)  # R
        await saga.step(process_payment(order), undo=check_inventory)  # R
    async with asyncio.TaskGroup() as group:
        task = group.create_task(process_payment(order))
    task.result().nothing  # R
    await notify_customer.fn(order)  # R
    ctx.continue_as_new(fulfil_order, 3)  # R


async def c(client: Client, env: WorkflowEnvironment) -> None:
    await client.start(fulfil_order, "no", id="x")  # R
    await client.start(fulfil_order, id="x")  # R
    await client.start(fulfil_order, Order("1", "a", 1))  # R
    run = await client.start(fulfil_order, Order("1", "a", 1), id="x")
    await run.signal(shipping_confirmed, "no")  # R
    await run.update(reset, "no")  # R
    (await run.update(reset, 1)).nothing  # R
    (await run.query(total)).nothing  # R
    await client.start(fulfil_order, Order("1", "a", 1), id="x", timeout=3)  # R
    await client.start(fulfil_order, Order("1", "a", 1), id="x", attributes={"a": None})  # R
    await client.callback("token").fail()  # R
    client.list("where")  # R
    (await run.result()).charge_id  # R
    (await client.run("x", of=fulfil_order).result()).charge_id  # R
    env.replace(process_payment, returns=3)  # R
    env.replace(process_payment, lambda order: 3)  # R
    env.replace(check_inventory, notify_customer)  # R
    env.provide(open_ledger, 3)  # R
    await env.skip(3)  # R
    env.spy(check_inventory).fail("no")  # R
    env.spy(check_inventory).delay(3)  # R


Retry("three")  # R
_unused: tuple[type[object], ...] = (Receipt, Shipped, Signal, Update, Awaitable)
