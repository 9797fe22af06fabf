"""Lines that both checkers must accept, with the types that they must find."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any, assert_type

from tests.api.examples.etl import Loaded, Table, load_table
from tests.api.examples.order import (
    Order,
    Receipt,
    Shipped,
    check_inventory,
    fulfil_order,
    notify_customer,
    process_payment,
    shipping_confirmed,
)

from everstep import (
    ActivityError,
    App,
    AsyncActivity,
    AttributeValue,
    Backoff,
    ChildHandle,
    Client,
    Context,
    Failures,
    Handle,
    MapResult,
    NonRetryable,
    Provider,
    Query,
    Retry,
    Run,
    Signal,
    SyncActivity,
    Update,
    WaitTimeout,
    Workflow,
    days,
    hours,
    minutes,
    provided,
    seconds,
)

billing = App("billing")
app = App("app", queue="fast", retry=Retry(3), timeout=seconds(5), include=[billing])
answer = Signal[Receipt | Shipped]("answer")
reserve = Update[Order, Receipt]("reserve")
total = Query[int]("total")
waits_for = Query[list[str]]("waits_for")
raise_limit = Update[int, Receipt]("raise_limit")


class Pool:
    pass


class Refused(NonRetryable):
    pass


@app.provide
async def open_pool() -> AsyncIterator[Pool]:
    yield Pool()


patient = Backoff(minutes(1), factor=1.5, maximum=hours(1), jitter=0)
picky = Retry(4, patient, give_up_on=[KeyError, "Elsewhere"], retry_if=lambda error: "busy" in str(error))


@app.activity(name="charge", queue="money", retry=picky, timeout=seconds(30), raises=[Refused])
async def charge(order: Order, how: str = "card", *, pool: Pool = provided(open_pool)) -> Receipt:
    return Receipt(how, order.quantity)


@app.activity
def audit(order: Order, /, *notes: str, urgent: bool = False) -> list[str]:
    raise Refused(order.order_id)


@app.workflow(name="second", version=2)
async def second(ctx: Context, order: Order, full: bool = False) -> Receipt:
    return await charge(order)


@app.workflow
async def everything(ctx: Context, order: Order) -> None:
    first, both = process_payment(order), check_inventory(order)
    assert_type(first, Handle[Receipt])
    assert_type(await first, Receipt)
    assert_type(await asyncio.gather(first, both), tuple[Receipt, bool])
    async with asyncio.TaskGroup() as group:
        task = group.create_task(process_payment(order))
    assert_type(task.result(), Receipt)
    done, _ = await asyncio.wait({first}, return_when=asyncio.FIRST_COMPLETED)
    assert_type(done, set[Handle[Receipt]])
    assert_type(await asyncio.wait_for(charge(order, how="cash"), 3), Receipt)
    async with asyncio.timeout(5):
        assert_type(await audit(order, "a", "b", urgent=True), list[str])
    assert_type(await charge.options(queue="x", timeout=days(1), retry=Retry())(order, "cash"), Receipt)
    assert_type(await ctx.activity("elsewhere", 1, "x", returns=Receipt), Receipt)
    assert_type(await ctx.activity("elsewhere", queue="x", timeout=days(1), retry=Retry(1)), Any)
    assert_type(await ctx.wait_for_signal(shipping_confirmed), Shipped)
    assert_type(await ctx.wait_for_signal(shipping_confirmed, timeout=days(1), default=None), Shipped | None)
    assert_type(await ctx.wait_for_signal(answer), Receipt | Shipped)
    assert_type(await ctx.wait_for_signal("name", type=int, timeout=days(1), default="no"), int | str)
    assert_type(await ctx.wait_for_signal("name"), Any)
    async for shipped in ctx.signals(shipping_confirmed):
        assert_type(shipped, Shipped)
        break
    assert_type(await ctx.signals("name", type=int).receive(timeout=seconds(1)), int)
    await ctx.sleep(days(7))
    await ctx.sleep_until(datetime(2030, 1, 1, tzinfo=UTC))
    assert_type(ctx.now(), datetime)
    assert_type(ctx.random.random(), float)
    ctx.set_status(f"{ctx.info.workflow_id} {ctx.uuid4()}")
    ctx.log.info("done", order=order.order_id)
    try:
        await notify_customer(order, Shipped("DHL"))
    except ActivityError as error:
        assert_type(error.attempts, int)
        ctx.log.warning(error.type, cause=error.cause, traceback=error.traceback)
    except WaitTimeout:
        raise


@app.remote(queue="node")
async def resize(path: str, *widths: int) -> list[str]:
    raise NotImplementedError


async def charge_all(orders: list[Order]) -> list[Receipt]:
    return [await process_payment(one) for one in orders]


@app.workflow
async def between(ctx: Context, table: Table) -> None:
    child = load_table(table, full=True)
    assert_type(child, ChildHandle[Loaded])
    assert_type(child.id, str)
    assert_type(await child, Loaded)
    assert_type(await load_table.options(id="x", on_parent_close="abandon")(table), Loaded)
    assert_type(await ctx.child(load_table, table), Loaded)
    assert_type(await ctx.child("by name", table, returns=Loaded), Loaded)
    assert_type(await ctx.external("y").signal(shipping_confirmed, Shipped("DHL")), None)
    assert_type(await resize("a.png", 1, 2), list[str])
    ctx.continue_as_new(between, table)


@app.workflow
async def many(ctx: Context, orders: list[Order]) -> None:
    assert_type(await ctx.map(process_payment, orders), list[Receipt])
    result = await ctx.map(process_payment, orders, concurrency=5, tolerate=Failures(3), enough=2)
    assert_type(result, MapResult[Order, Receipt])
    assert_type(result.values, list[Receipt])
    assert_type([one.item for one in result.failed], list[Order])
    async for one in ctx.map(load_table, [Table("a")]):
        assert_type(one.value, Loaded)
    assert_type(await ctx.map_batches(charge_all, orders, size=10), list[Receipt])
    assert_type(await ctx.first(process_payment(orders[0]), check_inventory(orders[0])), Receipt | bool)
    assert_type(await ctx.poll(lambda: check_inventory(orders[0]), until=lambda there: there, every=patient), bool)
    assert_type(await ctx.retry(lambda: process_payment(orders[0]), Retry(2)), Receipt)
    async with ctx.saga() as saga:
        assert_type(await saga.step(process_payment(orders[0]), undo=refund), Receipt)
        saga.on_failure(notify_customer, orders[0], Shipped("DHL"))


async def refund(receipt: Receipt) -> None:
    await process_payment(Order("refund", receipt.charge_id, 1))


@app.workflow
async def answering(ctx: Context, order: Order) -> None:
    async def reserved(wanted: Order) -> Receipt:
        return await process_payment(wanted)

    ctx.on_update(reserve, reserved, validate=lambda wanted: None)
    ctx.on_query(total, lambda: 3)
    ctx.on_signal(shipping_confirmed, lambda shipped: ctx.set_status(shipped.carrier))
    ctx.expose(order=order)
    ctx.attributes["customer"] = order.order_id
    ctx.attributes["due"] = ctx.now()
    callback = ctx.callback(Receipt, timeout=days(1))
    assert_type(callback.token, str)
    assert_type(await callback, Receipt)
    await ctx.wait_until(lambda: "customer" in ctx.attributes, timeout=days(1))


async def outside(client: Client, order: Order, pool: Pool) -> None:
    assert_type(await charge(order, pool=pool), Receipt)
    assert_type(await charge.fn(order, pool=pool), Receipt)
    assert_type(audit.fn(order), list[str])
    assert_type(check_inventory.fn(order), bool)
    run = await client.start(fulfil_order, order, id="x")
    assert_type(run, Run[str])
    assert_type(await run.result(timeout=seconds(1)), str)
    assert_type(await (await client.start(second, order, id="x")).result(), Receipt)
    assert_type(
        await (await client.start(second, order, True, id="x", on_duplicate="return_existing")).result(), Receipt
    )
    assert_type(await client.start("by name", 1, id="x"), Run[Any])
    assert_type(await client.start("by name", 1, id="x", returns=Receipt), Run[Receipt])
    assert_type(client.run("x", of=fulfil_order), Run[str])
    assert_type(client.run("x"), Run[Any])
    await run.signal(shipping_confirmed, Shipped("DHL"), signal_id="1")
    await run.signal(answer, Receipt("1", 1))
    await run.signal("name", 3)
    assert_type(await run.update(reserve, order), Receipt)
    assert_type(await run.query(total), int)
    assert_type(await run.query(waits_for), list[str])
    assert_type(await run.query("name", 1, returns=Receipt), Receipt)
    assert_type(await run.query("name", 1), Any)
    assert_type(await run.update(raise_limit, 3), Receipt)
    assert_type(await run.update(raise_limit, 3, update_id="u1", timeout=seconds(1)), Receipt)
    assert_type(await run.update("name", 3), Any)
    await client.callback("token").complete(Shipped("DHL"))
    await client.callback("token").fail("lost", type="Lost")
    await client.callback("token").heartbeat()
    later = datetime(2030, 1, 1, tzinfo=UTC)
    kept: dict[str, AttributeValue] = {"customer": "C-9", "due": later, "tags": ["eu"], "n": 1, "ratio": 0.5, "vip": True}
    first = (shipping_confirmed, Shipped("DHL"))
    run = await client.start(
        fulfil_order, order, id="x", attributes=kept, memo={"any": order}, start_at=later, timeout=days(1), with_signal=first
    )
    assert_type(run, Run[str])
    async for summary in client.list(workflow="w", status="running", attributes={"customer": "C-9"}, limit=3):
        assert_type(summary.attributes, dict[str, str | int | float | bool | list[str]])
    await run.cancel("customer asked")
    await run.terminate("…")


def definitions() -> tuple[
    AsyncActivity[..., Receipt], SyncActivity[..., list[str]], Workflow[..., Receipt], Provider[Pool]
]:
    return charge, audit, second, open_pool
