"""Lines that both checkers must accept, with the types that they must find."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any, assert_type

from tests.api.order import Order, Receipt, Shipped, check_inventory, fulfil_order, notify_customer, process_payment, shipping_confirmed

from everstep import (
    ActivityError,
    App,
    AsyncActivity,
    AttributeValue,
    Backoff,
    Client,
    Context,
    Handle,
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


async def outside(client: Client, order: Order, pool: Pool) -> None:
    assert_type(await charge(order, pool=pool), Receipt)
    assert_type(await charge.fn(order, pool=pool), Receipt)
    assert_type(audit.fn(order), list[str])
    assert_type(check_inventory.fn(order), bool)
    run = await client.start(fulfil_order, order, id="x")
    assert_type(run, Run[str])
    assert_type(await run.result(timeout=seconds(1)), str)
    assert_type(await (await client.start(second, order, id="x")).result(), Receipt)
    assert_type(await (await client.start(second, order, True, id="x", on_duplicate="return_existing")).result(), Receipt)
    assert_type(await client.start("by name", 1, id="x"), Run[Any])
    assert_type(await client.start("by name", 1, id="x", returns=Receipt), Run[Receipt])
    assert_type(client.run("x", of=fulfil_order), Run[str])
    assert_type(client.run("x"), Run[Any])
    await run.signal(shipping_confirmed, Shipped("DHL"), signal_id="1")
    await run.signal(answer, Receipt("1", 1))
    await run.signal("name", 3)
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


def definitions() -> tuple[AsyncActivity[..., Receipt], SyncActivity[..., list[str]], Workflow[..., Receipt], Provider[Pool]]:
    return charge, audit, second, open_pool
