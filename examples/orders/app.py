"""The order workflow and the daily summary: the whole of the code that a shop would write."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

from everstep import ActivityError, App, Context, Retry, Signal, activity, days, provided, seconds
from examples.orders import shop
from examples.orders.ledger import Balance, Ledger, open_books
from examples.orders.shop import CardDeclined

app = App("shop")
open_ledger = app.provide(open_books)


@dataclass
class Item:
    sku: str
    quantity: int


@dataclass
class Order:
    order_id: str
    customer: str
    email: str
    city: str
    items: list[Item]
    card: str
    placed_at: datetime
    confirm_within_seconds: float | None = None  # instead of seven days


@dataclass
class Receipt:
    order_id: str
    charge_id: str
    amount_cents: int


@dataclass
class Shipped:
    carrier: str
    tracking: str


@dataclass
class Summary:
    orders: int
    paid: int
    charged_cents: int
    refunded_cents: int

    @property
    def revenue_cents(self) -> int:
        return self.charged_cents - self.refunded_cents


shipping_confirmed = Signal[Shipped]("ShippingConfirmed")


@app.activity
def check_inventory(order: Order) -> bool:
    return all(shop.in_stock(item.sku, item.quantity) for item in order.items)


@app.activity(timeout=seconds(30), retry=Retry(max_attempts=3), raises=[CardDeclined])
async def process_payment(order: Order, *, ledger: Ledger = provided(open_ledger)) -> Receipt:
    info = activity.info()
    amount_cents = sum(shop.price_cents(item.sku, item.quantity) for item in order.items)
    shop.ask_bank(order.card, info.attempt)
    await ledger.charge(order.order_id, amount_cents, key=info.idempotency_key)
    shop.hear_bank(order.card, info.attempt)
    return Receipt(order.order_id, info.idempotency_key, amount_cents)


@app.activity
async def refund_payment(receipt: Receipt, *, ledger: Ledger = provided(open_ledger)) -> None:
    await ledger.refund(receipt.order_id, receipt.amount_cents, key=activity.info().idempotency_key)


@app.activity
async def notify_customer(order: Order, shipped: Shipped, *, ledger: Ledger = provided(open_ledger)) -> None:
    body = f"Dear {order.customer}, your order is on its way to {order.city} with {shipped.carrier} {shipped.tracking}."
    await ledger.write_letter(order.order_id, body, key=activity.info().idempotency_key)


@app.activity
async def balance_of(order_id: str, *, ledger: Ledger = provided(open_ledger)) -> Balance:
    return await ledger.balance(order_id)


async def pay(order: Order) -> Receipt:
    """The receipt; or, if the customer cancels while the bank is being asked, the money back once it has answered."""
    payment = process_payment(order)
    try:
        return await asyncio.shield(payment)
    except asyncio.CancelledError:
        with suppress(CardDeclined, ActivityError):
            await refund_payment(await payment)
        raise


@app.workflow
async def fulfil_order(ctx: Context, order: Order) -> str:
    if not await check_inventory(order):
        return "out of stock"
    try:
        receipt = await pay(order)
    except CardDeclined:
        return "declined"
    ctx.set_status("waiting on shipping confirmation")
    patience = days(7) if order.confirm_within_seconds is None else seconds(order.confirm_within_seconds)
    try:
        shipped = await ctx.wait_for_signal(shipping_confirmed, timeout=patience, default=None)
    except asyncio.CancelledError:
        await refund_payment(receipt)
        raise
    if shipped is None:
        await refund_payment(receipt)
        return "refunded"
    await notify_customer(order, shipped)
    return "shipped"


@app.workflow
async def daily_summary(ctx: Context, order_ids: list[str]) -> Summary:
    balances = await asyncio.gather(*[balance_of(order_id) for order_id in order_ids])
    return Summary(
        orders=len(balances),
        paid=sum(balance.charged_cents > balance.refunded_cents for balance in balances),
        charged_cents=sum(balance.charged_cents for balance in balances),
        refunded_cents=sum(balance.refunded_cents for balance in balances),
    )
