"""Values cross the wire as their annotations say, or are refused where they enter, with the path of the field."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum, IntEnum
from typing import Annotated, Any, Generic, Literal, NamedTuple, NewType, NotRequired, TypedDict, TypeVar
from uuid import UUID

import attrs
import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typing_extensions import TypeAliasType

from everstep import PayloadError, RegistrationError
from everstep._core.payloads import codec_for

T = TypeVar("T")


@dataclass
class Line:
    sku: str
    quantity: int = 1


@dataclass(frozen=True)
class Order:
    id: str
    lines: list[Line] = field(default_factory=list)
    note: str | None = None


@dataclass
class Approved:
    by: str


@dataclass
class Rejected:
    by: str
    reason: str


Answer = Approved | Rejected


@dataclass
class Case:
    name: str
    answer: Answer | None = None
    history: list[Answer] = field(default_factory=list)


@dataclass
class Leaf:
    value: int


@dataclass
class Tree:
    left: Tree | Leaf
    right: Tree | Leaf


@dataclass
class Page(Generic[T]):
    items: list[T]
    next: str | None = None


class Struct(msgspec.Struct, rename="camel"):
    order_id: int
    answer: Answer | None = None


class Cat(msgspec.Struct, tag=True):
    name: str


class Dog(msgspec.Struct, tag=True):
    name: str


@attrs.define
class Parcel:
    _weight: int
    answer: Answer | None = None


class Address(TypedDict):
    street: str
    number: NotRequired[int]


class Verdict(TypedDict):
    answer: Answer
    note: NotRequired[str]


class Point(NamedTuple):
    x: int
    y: int = 0


class Pair(NamedTuple):
    first: Answer
    second: int


class Colour(Enum):
    RED = "red"


class Level(IntEnum):
    HIGH = 3


class Person(pydantic.BaseModel):
    name: str = pydantic.Field(alias="fullName", min_length=1)
    born: date | None = None
    tags: set[str] = set()


class Company(pydantic.BaseModel):
    vat: str


@dataclass
class Card:
    kind: Literal["card"]
    number: str


@dataclass
class Voucher:
    kind: Literal["voucher"]
    number: str


OrderId = NewType("OrderId", str)
Names = TypeAliasType("Names", list[str])
UUID_1 = UUID("00000000-0000-0000-0000-000000000001")

ROUND_TRIPS: list[tuple[Any, Any, str]] = [
    (Any, {"b": [1, None, True], "a": 2.5}, '{"b":[1,null,true],"a":2.5}'),
    (object, [1, "x"], '[1,"x"]'),
    (None, None, "null"),
    (bool, True, "true"),
    (int, 2**200, str(2**200)),
    (float, 2, "2"),
    (str, "a\0b", '"a\\u0000b"'),
    (bytes, b"\xff", '"/w=="'),
    (datetime, datetime(2030, 1, 2, 3, 4, 5, 6, UTC), '"2030-01-02T03:04:05.000006Z"'),
    (date, date(2030, 1, 2), '"2030-01-02"'),
    (timedelta, timedelta(days=1, microseconds=1), '"P1DT0.000001S"'),
    (UUID, UUID_1, '"00000000-0000-0000-0000-000000000001"'),
    (Decimal, Decimal("1.10"), '"1.10"'),
    (Colour, Colour.RED, '"red"'),
    (Level, Level.HIGH, "3"),
    (Literal["a", 1], 1, "1"),
    (OrderId, OrderId("17"), '"17"'),
    (Names, ["a"], '["a"]'),
    (Annotated[int, msgspec.Meta(gt=0)], 1, "1"),
    (list[int], [1, 2], "[1,2]"),
    (tuple[int, str], (1, "a"), '[1,"a"]'),
    (tuple[int, ...], (1, 2), "[1,2]"),
    (Sequence[int], [1], "[1]"),
    (Mapping[str, int], {"b": 1, "a": 2}, '{"b":1,"a":2}'),
    (dict[int, str], {2: "b", 1: "a"}, '{"2":"b","1":"a"}'),
    (set[str], {"c", "a", "b"}, '["a","b","c"]'),
    (frozenset[int], frozenset({3, 1}), "[1,3]"),
    (dict[str, set[str]], {"x": {"b", "a"}}, '{"x":["a","b"]}'),
    (Line, Line("A"), '{"sku":"A","quantity":1}'),
    (Order, Order("1", [Line("A", 2)]), '{"id":"1","lines":[{"sku":"A","quantity":2}],"note":null}'),
    (Page[Line], Page([Line("A")]), '{"items":[{"sku":"A","quantity":1}],"next":null}'),
    (Struct, Struct(1), '{"orderId":1,"answer":null}'),
    (Cat | Dog, Dog("Rex"), '{"type":"Dog","name":"Rex"}'),
    (Address, {"street": "A"}, '{"street":"A"}'),
    (Point, Point(1), "[1,0]"),
    (Line | int | None, 3, "3"),
    (Line | int | None, Line("A"), '{"sku":"A","quantity":1}'),
    # what msgspec does not read by itself
    (Answer, Approved("x"), '{"by":"x"}'),
    (Answer, Rejected("x", "y"), '{"by":"x","reason":"y"}'),
    (Answer | str | None, None, "null"),
    (Answer | str | None, "x", '"x"'),
    (list[Answer], [Rejected("x", "y"), Approved("x")], '[{"by":"x","reason":"y"},{"by":"x"}]'),
    (Case, Case("c", Approved("x"), [Approved("y")]), '{"name":"c","answer":{"by":"x"},"history":[{"by":"y"}]}'),
    (
        Tree,
        Tree(Leaf(1), Tree(Leaf(2), Leaf(3))),
        '{"left":{"value":1},"right":{"left":{"value":2},"right":{"value":3}}}',
    ),
    (Page[Answer], Page([Approved("x")], "n"), '{"items":[{"by":"x"}],"next":"n"}'),
    (Struct, Struct(1, Approved("x")), '{"orderId":1,"answer":{"by":"x"}}'),
    (Parcel, Parcel(3, Approved("x")), '{"_weight":3,"answer":{"by":"x"}}'),
    (Verdict, {"answer": Approved("x")}, '{"answer":{"by":"x"}}'),
    (Pair, Pair(Approved("x"), 2), '[{"by":"x"},2]'),
    (Card | Voucher, Voucher("voucher", "1"), '{"kind":"voucher","number":"1"}'),
    (Cat | Dog | Approved, Dog("Rex"), '{"type":"Dog","name":"Rex"}'),
    (Person, Person(fullName="A", tags={"z", "x", "y"}), '{"fullName":"A","born":null,"tags":["x","y","z"]}'),
    (Person | None, None, "null"),
    (list[Person | Company | int], [Company(vat="1"), 3], '[{"vat":"1"},3]'),
]


@pytest.mark.parametrize(("annotation", "value", "written"), ROUND_TRIPS)
def test_a_value_comes_back_as_it_was(annotation: Any, value: Any, written: str) -> None:
    codec = codec_for(annotation)
    data = codec.encode(value)
    assert data.decode() == written
    assert codec.decode(data) == value
    assert type(codec.decode(data)) is type(value) or annotation in (float, Sequence[int])
    assert codec.decode(msgspec.Raw(data)) == value


def test_fields_that_an_older_writer_lacks_take_their_defaults() -> None:
    assert codec_for(Order).decode(b'{"id":"1"}') == Order("1")
    assert codec_for(Case).decode(b'{"name":"c"}') == Case("c")
    assert codec_for(Parcel).decode(b'{"_weight":1}') == Parcel(1)


def test_fields_of_a_newer_writer_are_passed_over() -> None:
    assert codec_for(Line).decode(b'{"sku":"A","colour":"red"}') == Line("A")
    assert codec_for(Answer).decode(b'{"by":"x","reason":"y","new":1}') == Rejected("x", "y")
    assert codec_for(Answer).decode(b'{"by":"x","new":1}') == Approved("x")


NEITHER = "Expected one of `Approved`, `Rejected` to fit the fields that are there"
EITHER = "Expected only one of `Approved`, `Leaf` to fit the fields that are there"
BAD_ANSWERS = b'[{"name":"c","history":[{"by":"x"},{"by":1}]}]'

WRONG: list[tuple[Any, bytes, str]] = [
    (Order, b'{"id":"1","lines":[{"sku":"A","quantity":"2"}]}', "Expected `int`, got `str` - at `$.lines[0].quantity`"),
    (Order, b"{}", "Object missing required field `id` - at `$`"),
    (int, b'"1"', "Expected `int`, got `str` - at `$`"),
    (Line, b"{", "Input data was truncated - at `$`"),
    (int, b"\xff", "JSON is malformed: invalid character (byte 0) - at `$`"),
    (Any, b"[" * 50_000, "the value is nested too deeply, or holds itself - at `$`"),
    (Case, b'{"name":"c","answer":{"by":1}}', "Expected `str`, got `int` - at `$.answer.by`"),
    (list[Case], BAD_ANSWERS, "Expected `str`, got `int` - at `$[0].history[1].by`"),
    (Case, b'{"name":1}', "Expected `str`, got `int` - at `$.name`"),
    (list[Answer], b'[{"reason":"y"}]', f"{NEITHER}: reason - at `$[0]`"),
    (Approved | Leaf, b'{"by":"x","value":1}', f"{EITHER}: by, value - at `$`"),
    (Answer, b"3", "Expected `object`, got `int` - at `$`"),
    (Answer | str, b"3", "Expected `str`, got `int` - at `$`"),
    (list[Person], b'[{"fullName":""}]', "String should have at least 1 character - at `$[0].fullName`"),
]


@pytest.mark.parametrize(("annotation", "data", "message"), WRONG)
def test_what_does_not_fit_is_refused_with_its_path(annotation: Any, data: bytes, message: str) -> None:
    with pytest.raises(PayloadError) as caught:
        codec_for(annotation).decode(data)
    assert str(caught.value) == message


class Secret:
    pass


ring: list[Any] = []
ring.append(ring)

UNWRITABLE: list[tuple[Any, Any, str]] = [
    (Line, Line("A", "2"), "Expected `int`, got `str` - at `$.quantity`"),  # type: ignore[arg-type]  # the point
    (Line, "A", "Expected `object`, got `str` - at `$`"),
    (int, True, "Expected `int`, got `bool` - at `$`"),
    (None, 3, "Expected `null`, got `int` - at `$`"),
    (str, "\ud800", "the text holds half of a surrogate pair, which is not valid Unicode - at `$`"),
    (Line, Line("\ud800"), "the text holds half of a surrogate pair, which is not valid Unicode - at `$.sku`"),
    (dict[str, int], {"\ud800": 1}, "the text holds half of a surrogate pair, which is not valid Unicode - at `$`"),
    (float, float("nan"), "JSON has no nan - at `$`"),
    (float | None, float("inf"), "JSON has no inf - at `$`"),
    (Any, {"a": [1.0, float("-inf")]}, "JSON has no -inf - at `$.a[1]`"),
    (Any, {"a": {"b": Secret()}}, "a `Secret` cannot be written as JSON - at `$.a.b`"),
    (list[Line], [Line("A"), Line(Secret())], "a `Secret` cannot be written as JSON - at `$[1].sku`"),  # type: ignore[arg-type]  # the point
    (Any, ring, "the value is nested too deeply, or holds itself - at `$`"),
    (list[Any], ring, "the value is nested too deeply, or holds itself - at `$`"),
    (Answer, Leaf(1), "Expected one of `Approved`, `Rejected` to fit the fields that are there: value - at `$`"),
    (Case, Case("c", Approved(1)), "Expected `str`, got `int` - at `$.answer.by`"),  # type: ignore[arg-type]  # the point
    (Any, {(1, 2): 3}, "a `tuple` cannot be written as JSON - at `$`"),
]


@pytest.mark.parametrize(("annotation", "value", "message"), UNWRITABLE)
def test_what_the_reader_would_refuse_is_not_written(annotation: Any, value: Any, message: str) -> None:
    with pytest.raises(PayloadError) as caught:
        codec_for(annotation).encode(value)
    assert str(caught.value) == message


@dataclass
class Positive:
    n: int

    def __post_init__(self) -> None:
        if self.n < 1:
            raise KeyError(self.n)


def test_an_error_of_the_class_itself_is_refused_too() -> None:
    with pytest.raises(PayloadError, match="KeyError: 0"):
        codec_for(Positive).decode(b'{"n":0}')


@dataclass
class Twin:
    by: str


@dataclass
class Maybe:
    by: str = ""
    note: str = ""


UNREADABLE: list[tuple[Any, str]] = [
    (complex, "`complex` in `complex` cannot cross the wire: use a dataclass"),
    (Callable[[], int], "`Callable` in"),
    (list[Secret], r"`Secret` in `list\["),
    (Page[Secret], "`Secret` in"),
    (str | datetime, "may not contain more than one str-like type"),
    (list[int] | set[int], "may not contain more than one array-like"),
    (Approved | Twin, "`Approved` and `Twin` cannot be told apart in JSON: give one of them a required field"),
    (Approved | Maybe, "`Approved` and `Maybe` cannot be told apart"),
    (list[Case | Approved | dict[str, int]], "an object could be a dict or another member of"),
]


@pytest.mark.parametrize(("annotation", "message"), UNREADABLE)
def test_an_annotation_that_json_cannot_serve_is_refused_at_registration(annotation: Any, message: str) -> None:
    with pytest.raises(RegistrationError, match=message):
        codec_for(annotation)


class Text(str):
    __slots__ = ()


class Number(int):
    pass


class Share(float):
    pass


def test_subclasses_of_plain_types_are_written_as_these() -> None:
    assert codec_for(Any).encode([Text("a"), Number(1), Share(0.5)]) == b'["a",1,0.5]'
    assert codec_for(Line).encode(Line(Text("a"), Number(2))) == b'{"sku":"a","quantity":2}'


def test_sets_are_sorted_wherever_they_are() -> None:
    value = {"set": {"b", "a"}, "deep": [Page([{3, 1, 2}]), Struct(1, answer={"z", "y"})]}  # type: ignore[arg-type]  # Any
    written = b'{"set":["a","b"],"deep":[{"items":[[1,2,3]],"next":null},{"orderId":1,"answer":["y","z"]}]}'
    assert codec_for(Any).encode(value) == written


HASH_SEEDS = """
from everstep._core.payloads import codec_for
from typing import Any
print(codec_for(set[str]).encode({"alpha", "beta", "gamma", "delta"}), codec_for(Any).encode({"x": {"b", "a", "c"}}))
"""


def test_a_walk_is_only_taken_where_it_is_needed() -> None:
    """What is compared after reading back keeps the order of dicts and the kind of numbers."""
    assert codec_for(Any).encode({"b": 1.0, "a": True, "c": (1, {2, 1})}) == b'{"b":1.0,"a":true,"c":[1,[1,2]]}'
    assert codec_for(dict[str, float | None]).encode({"b": 1.0, "a": None}) == b'{"b":1.0,"a":null}'


def test_equal_values_give_equal_bytes_in_every_process() -> None:
    def output(seed: str) -> bytes:
        return subprocess.check_output([sys.executable, "-c", HASH_SEEDS], env=os.environ | {"PYTHONHASHSEED": seed})

    assert len({output(seed) for seed in ("1", "2", "3")}) == 1


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(json_values)
def test_any_json_value_comes_back(value: Any) -> None:
    codec = codec_for(Any)
    assert codec.decode(codec.encode(value)) == value


orders = st.builds(Order, st.text(), st.lists(st.builds(Line, st.text(), st.integers())), st.none() | st.text())


@given(orders)
def test_any_dataclass_comes_back(order: Order) -> None:
    codec = codec_for(Order)
    assert codec.decode(codec.encode(order)) == order


@given(st.one_of(st.builds(Approved, st.text()), st.builds(Rejected, st.text(), st.text())))
def test_any_member_of_a_union_comes_back(answer: Answer) -> None:
    codec = codec_for(Answer)
    assert codec.decode(codec.encode(answer)) == answer
