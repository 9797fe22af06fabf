"""What in a real shop are other people's systems: the warehouse's stock and the bank. Both answer by fixed rules, so
that the outcome of every order can be told beforehand."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Product:
    name: str
    price_cents: int
    in_stock: int


CATALOGUE = {
    "MUG-01": Product("Stoneware mug", 1450, 40),
    "LMP-07": Product("Desk lamp", 8900, 12),
    "CHR-22": Product("Oak chair", 24900, 6),
    "NBK-03": Product("Ruled notebook", 690, 200),
    "PEN-11": Product("Fountain pen", 5400, 25),
    "BAG-05": Product("Canvas bag", 3200, 30),
    "KET-09": Product("Enamel kettle", 4750, 15),
    "CLK-02": Product("Wall clock", 6100, 0),
    "RUG-14": Product("Wool rug", 38900, 3),
    "TEA-30": Product("Darjeeling, 250 g", 1890, 80),
}

DECLINED = "tok_declined"
UNRELIABLE = "tok_unreliable"


class CardDeclined(Exception):
    """The bank said no; asking again would not help."""


class BankUnavailable(Exception):
    """The bank did not answer in time; asking again may help."""


def in_stock(sku: str, quantity: int) -> bool:
    return sku in CATALOGUE and quantity <= CATALOGUE[sku].in_stock


def price_cents(sku: str, quantity: int) -> int:
    return CATALOGUE[sku].price_cents * quantity


def ask_bank(card: str, attempt: int) -> None:
    """Returns if the card can be charged. An unreliable bank cannot be reached at the first attempt."""
    if card == DECLINED:
        raise CardDeclined("insufficient funds")
    if card == UNRELIABLE and attempt == 1:
        raise BankUnavailable("503 from the bank")


def hear_bank(card: str, attempt: int) -> None:
    """Returns once the bank's answer is here. An unreliable bank's answer is lost at the second attempt: the money has
    moved, but nobody knows, which is what idempotency keys are for."""
    if card == UNRELIABLE and attempt == 2:
        raise BankUnavailable("the connection broke before the bank's answer came")
