"""Signals are declared with the type of their value."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from everstep import PayloadError, RegistrationError, Signal


@dataclass
class Shipped:
    carrier: str


@dataclass
class Lost:
    why: str


def test_the_type_in_brackets_is_the_values() -> None:
    signal = Signal[Shipped]("ShippingConfirmed")
    assert signal.name == "ShippingConfirmed"
    assert signal.codec.decode(signal.codec.encode(Shipped("DHL"))) == Shipped("DHL")
    with pytest.raises(PayloadError, match=r"at `\$\.carrier`"):
        signal.codec.decode(b'{"carrier":1}')


def test_unions_need_nothing_more() -> None:
    signal = Signal[Shipped | Lost | None]("outcome")
    for value in (Shipped("DHL"), Lost("sea"), None):
        assert signal.codec.decode(signal.codec.encode(value)) == value


def test_without_a_type_any_value_fits() -> None:
    signal: Signal[object] = Signal("anything")
    assert signal.codec.decode(b'{"a":[1]}') == {"a": [1]}


def test_a_type_that_cannot_cross_is_refused() -> None:
    with pytest.raises(RegistrationError, match="`complex`"):
        _ = Signal[complex]("x").codec
