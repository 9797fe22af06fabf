"""The orders of `orders.jsonl` and what must become of each: the demo's measure of right and wrong."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from examples.orders import shop
from examples.orders.app import Order

FILE = Path(__file__).with_name("orders.jsonl")

Outcome = Literal["shipped", "out of stock", "declined", "refunded", "cancelled"]


@dataclass
class Afterwards:
    act: Literal["ships", "cancels"]
    when: Literal["submitted", "started", "waiting"]
    carrier: str = ""
    tracking: str = ""
    reason: str = ""


@dataclass
class Story:
    order: Order
    afterwards: Afterwards | None

    @property
    def outcome(self) -> Outcome:
        if not all(shop.in_stock(item.sku, item.quantity) for item in self.order.items):
            return "out of stock"
        if self.order.card == shop.DECLINED:
            return "declined"
        if self.afterwards is None:
            return "refunded"
        return "shipped" if self.afterwards.act == "ships" else "cancelled"

    @property
    def amount_cents(self) -> int:
        return sum(shop.price_cents(item.sku, item.quantity) for item in self.order.items)

    @property
    def may_be_unpaid(self) -> bool:
        """A customer who cancels at once may be faster than the payment; then there is nothing to give back."""
        return self.afterwards is not None and self.afterwards.when == "started"


def read(file: Path = FILE) -> list[Story]:
    decoder = msgspec.json.Decoder(Story)
    return [decoder.decode(line) for line in file.read_bytes().splitlines()]
