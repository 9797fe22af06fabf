from everstep.testing import WorkflowEnvironment, attempt
from tests.api.examples.order import (
    CardDeclined,
    Ledger,
    Order,
    Receipt,
    Shipped,
    app,
    fulfil_order,
    notify_customer,
    process_payment,
    refund_payment,
    shipping_confirmed,
)

from everstep import days

order = Order("17", "A", 1)


async def test_seven_days_without_confirmation_refund() -> None:
    async with WorkflowEnvironment(app) as env:
        env.replace(process_payment, returns=Receipt("c1", 100))
        refunds = env.replace(refund_payment, returns=None)
        started = env.now()
        run = await env.client.start(fulfil_order, order, id="order-17")
        assert await run.result() == "refunded"  # time jumped by itself
        assert env.now() - started >= days(7)
        assert refunds.count == 1


async def test_confirmed() -> None:
    async with WorkflowEnvironment(app) as env:
        env.replace(process_payment, returns=Receipt("c1", 100)).fail(ConnectionError(), times=2)
        told = env.spy(notify_customer)
        run = await env.client.start(fulfil_order, order, id="order-17")
        await run.signal(shipping_confirmed, Shipped("DHL"))
        assert await run.result() == "shipped" and told.args == [(order, Shipped("DHL"))]


async def test_declined() -> None:
    async with WorkflowEnvironment(app) as env:
        payments = env.replace(process_payment, returns=Receipt("c1", 100)).fail(CardDeclined())
        run = await env.client.start(fulfil_order, order, id="order-17")
        assert await run.result() == "declined" and payments.count == 1


class FakeLedger(Ledger):
    async def charge(self, order: Order, *, idempotency_key: str) -> Receipt:
        return Receipt(idempotency_key, 1)


async def test_the_activity_alone() -> None:
    with attempt(idempotency_key="k"):
        assert (await process_payment(order, ledger=FakeLedger())).charge_id == "k"
