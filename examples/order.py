"""One order, from the shelf to the customer: the workflow of the getting-started guide.

    everstep dev examples.order:app

The ledger is a SQLite file, so nothing else has to be installed; `examples/orders` is the same shop on PostgreSQL.
"""

import asyncio
import os
import sqlite3
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass

from everstep import App, Context, Retry, Signal, activity, days, provided, seconds

app = App("orders")

PRICES_CENTS = {"mug": 1450, "lamp": 8900, "chair": 24900}


@dataclass
class Order:
    order_id: str
    sku: str
    quantity: int
    card: str = "visa"


@dataclass
class Receipt:
    charge_id: str
    amount_cents: int


@dataclass
class Shipped:
    carrier: str


class CardDeclined(Exception):
    """The bank said no; asking again would not help."""


class Ledger:
    """Every movement of money once, whatever the number of times it is asked for."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._book("CREATE TABLE IF NOT EXISTS ledger (key TEXT PRIMARY KEY, amount_cents INTEGER NOT NULL)")

    def charge(self, order: Order, *, key: str) -> Receipt:
        if order.card == "declined":
            raise CardDeclined(f"the bank declined the card of order {order.order_id}")
        amount = PRICES_CENTS[order.sku] * order.quantity
        self._book("INSERT OR IGNORE INTO ledger VALUES (?, ?)", key, amount)
        return Receipt(key, amount)

    def refund(self, receipt: Receipt, *, key: str) -> None:
        self._book("INSERT OR IGNORE INTO ledger VALUES (?, ?)", key, -receipt.amount_cents)

    def _book(self, sql: str, *values: str | int) -> None:
        with closing(sqlite3.connect(self.path)) as database, database:
            database.execute(sql, values)


shipping_confirmed = Signal[Shipped]("ShippingConfirmed")


@app.provide
@asynccontextmanager
async def open_ledger() -> AsyncGenerator[Ledger]:
    yield Ledger(os.environ.get("LEDGER", "ledger.db"))


@app.activity
def check_inventory(order: Order) -> bool:
    return order.sku in PRICES_CENTS and order.quantity < 10


@app.activity(timeout=seconds(30), retry=Retry(max_attempts=3), raises=[CardDeclined])
def process_payment(order: Order, *, ledger: Ledger = provided(open_ledger)) -> Receipt:
    return ledger.charge(order, key=activity.info().idempotency_key)


@app.activity
def refund_payment(receipt: Receipt, *, ledger: Ledger = provided(open_ledger)) -> None:
    ledger.refund(receipt, key=activity.info().idempotency_key)


@app.activity
async def notify_customer(order: Order, shipped: Shipped) -> None:
    print(f"Dear customer, order {order.order_id} is on its way with {shipped.carrier}.")


@app.workflow
async def fulfil_order(ctx: Context, order: Order) -> str:
    if not await check_inventory(order):
        return "out of stock"
    try:
        receipt = await process_payment(order)
    except CardDeclined:
        return "declined"
    ctx.set_status("waiting on shipping confirmation")
    try:
        shipped = await ctx.wait_for_signal(shipping_confirmed, timeout=days(7), default=None)
    except asyncio.CancelledError:
        await refund_payment(receipt)
        raise
    if shipped is None:
        await refund_payment(receipt)
        return "refunded"
    await notify_customer(order, shipped)
    return "shipped"
