"""Everything that can be wrong with a declaration is found when it is made, and the message says what to write."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from everstep import App, Context, Provider, RegistrationError, Retry, Signal, minutes, provided, seconds


@dataclass
class Order:
    id: str


class Declined(Exception):
    pass


def untyped(value: object) -> Any:
    """For what a type checker refuses as well: not all code has seen one."""
    return value


@pytest.fixture
def app() -> App:
    return App("test")


# ---- what becomes of a function


async def a_workflow(ctx: Context, order: Order, *, fast: bool = False) -> str:
    return order.id


async def an_activity(order: Order) -> str:
    return order.id


def a_plain_activity(order: Order) -> str:
    return order.id


def test_a_workflow_keeps_its_function_and_takes_its_name(app: App) -> None:
    workflow = app.workflow(a_workflow)
    assert (workflow.name, workflow.version, workflow.fn) == ("a_workflow", 1, a_workflow)
    assert app.workflows == {"a_workflow": {1: workflow}}


def test_an_activity_keeps_its_function_and_takes_its_name(app: App) -> None:
    activity, plain = app.activity(an_activity), app.activity(a_plain_activity)
    assert (activity.name, activity.is_async, activity.fn) == ("an_activity", True, an_activity)
    assert (plain.name, plain.is_async, plain.fn) == ("a_plain_activity", False, a_plain_activity)
    assert app.activities == {"an_activity": activity, "a_plain_activity": plain}


def test_definitions_look_like_their_functions(app: App) -> None:
    activity = app.activity(an_activity)
    assert activity.__name__ == "an_activity"  # type: ignore[attr-defined]  # copied at run time
    assert repr(activity) == "<activity 'an_activity' of queue 'default'>"
    assert repr(app.workflow(name="other", version=3)(a_workflow)) == "<workflow 'other' version 3>"


def test_what_an_activity_does_not_say_is_the_apps() -> None:
    retry = Retry(max_attempts=3)
    app = App("media", queue="gpu", retry=retry, timeout=minutes(5))
    activity = app.activity(an_activity)
    assert (activity.queue, activity.retry, activity.timeout) == ("gpu", retry, minutes(5))
    other = app.activity(name="other", queue="cpu", retry=Retry(), timeout=seconds(1))(an_activity)
    assert (other.queue, other.retry, other.timeout) == ("cpu", Retry(), seconds(1))


def test_without_any_word_an_attempt_has_ten_seconds_and_is_tried_without_limit(app: App) -> None:
    activity = app.activity(an_activity)
    assert (activity.queue, activity.retry, activity.timeout) == ("default", Retry(), seconds(10))


def test_options_give_a_copy(app: App) -> None:
    activity = app.activity(an_activity)
    other = activity.options(queue="q", retry=Retry(1), timeout=seconds(1))
    assert (other.queue, other.retry, other.timeout) == ("q", Retry(1), seconds(1))
    assert (activity.queue, activity.retry, activity.timeout) == ("default", Retry(), seconds(10))
    assert other.options(queue="r").timeout == seconds(1)


def test_versions_of_a_workflow_stand_side_by_side(app: App) -> None:
    first, second = app.workflow(name="w", version=1)(a_workflow), app.workflow(name="w", version=2)(a_workflow)
    assert app.workflows["w"] == {1: first, 2: second}


# ---- including


def test_including_composes_at_any_depth_and_whatever_is_registered_later() -> None:
    billing = App("billing")
    shop = App("shop", include=[billing])
    company = App("company", include=[shop, billing])
    charge = billing.activity(name="charge")(an_activity)
    bill = billing.workflow(name="bill")(a_workflow)
    assert company.activities == shop.activities == {"charge": charge}
    assert company.workflows == shop.workflows == {"bill": {1: bill}}


def test_included_activities_keep_their_own_defaults() -> None:
    billing = App("billing", queue="money")
    charge = billing.activity(name="charge")(an_activity)
    assert App("shop", queue="goods", include=[billing]).activities["charge"] is charge
    assert charge.queue == "money"


def test_two_definitions_of_one_name_are_refused_with_both_places(app: App) -> None:
    app.activity(name="f")(an_activity)
    with pytest.raises(
        RegistrationError, match=r"two of activity 'f': .*\.an_activity and .*\.a_plain_activity; rename"
    ):
        app.activity(name="f")(a_plain_activity)
    app.workflow(name="w")(a_workflow)
    with pytest.raises(RegistrationError, match=r"two of workflow 'w' version 1: .*a_workflow"):
        app.workflow(name="w")(a_workflow)


def test_a_clash_of_included_apps_names_both_modules() -> None:
    one, two = App("one"), App("two")
    one.activity(name="f")(an_activity)
    two.activity(name="f")(a_plain_activity)
    with pytest.raises(RegistrationError, match=r"test_registration\.an_activity and"):
        App("both", include=[one, two])


def test_a_clash_shows_before_anything_is_added() -> None:
    billing = App("billing")
    shop = App("shop", include=[billing])
    shop.activity(name="f")(an_activity)
    with pytest.raises(RegistrationError, match="<app 'shop'> would hold two"):
        billing.activity(name="f")(a_plain_activity)
    assert billing.activities == {}


# ---- what is refused


class Shop:
    async def sell(self, order: Order) -> None: ...

    @staticmethod
    async def restock(order: Order) -> None: ...

    @classmethod
    async def close(cls) -> None: ...


def yields(order: Order) -> Iterator[int]:
    yield 1


async def yields_async(order: Order) -> AsyncIterator[int]:
    yield 1


def test_methods_are_no_activities(app: App) -> None:
    for method in (Shop.sell, Shop().sell, Shop.restock, Shop.close, Shop.__dict__["restock"]):
        with pytest.raises(RegistrationError, match=r"is a method: .* Write it as a function of the module"):
            app.activity(method)


def test_generators_are_no_activities(app: App) -> None:
    for generator in (yields, yields_async):
        with pytest.raises(RegistrationError, match="is a generator: collect what it yields"):
            app.activity(generator)


def test_only_functions_are_registered(app: App) -> None:
    with pytest.raises(RegistrationError, match="only functions written with `def`"):
        app.activity(name="print")(print)
    with pytest.raises(RegistrationError, match="only functions written with `def`"):
        untyped(app).activity(name="x")(3)


def test_a_workflow_is_async(app: App) -> None:
    def plain(ctx: Context) -> None: ...

    with pytest.raises(RegistrationError, match="workflow 'plain' must be `async def`"):
        untyped(app).workflow(plain)


async def no_context(order: Order) -> None: ...
async def no_parameters() -> None: ...
async def only_named(*, ctx: Context) -> None: ...
async def unannotated(ctx, order):  # type: ignore[no-untyped-def]  # code without annotations
    return order


def test_a_workflow_takes_a_context_first(app: App) -> None:
    with pytest.raises(RegistrationError, match=r"its first parameter is `ctx: Context`, not `order: .*Order"):
        untyped(app).workflow(no_context)
    for fn in (no_parameters, only_named):
        with pytest.raises(RegistrationError, match="takes no context"):
            untyped(app).workflow(fn)


def test_without_annotations_any_value_crosses(app: App) -> None:
    workflow = app.workflow(unannotated)
    assert workflow.decode_args(b'[{"a":1}]') == ([{"a": 1}], {})


async def odd_parameter(connection: socket.socket) -> None: ...
async def odd_result() -> Callable[[], int]: ...  # type: ignore[empty-body]  # never called
async def odd_rest(*connections: socket.socket) -> None: ...


def test_types_that_cannot_cross_the_wire_are_refused(app: App) -> None:
    with pytest.raises(RegistrationError, match=r"activity 'odd_parameter': parameter 'connection': `socket` in"):
        app.activity(odd_parameter)
    with pytest.raises(RegistrationError, match=r"activity 'odd_result': its result: .*cannot cross the wire"):
        app.activity(odd_result)
    with pytest.raises(RegistrationError, match=r"activity 'odd_rest': parameter 'connections': `socket`"):
        app.activity(odd_rest)


async def unknown_type(order: NotDefined) -> None: ...  # type: ignore[name-defined]  # noqa: F821


def test_annotations_that_cannot_be_read_are_refused(app: App) -> None:
    with pytest.raises(RegistrationError, match=r"cannot be read \(name 'NotDefined' is not defined\)"):
        app.activity(unknown_type)


@pytest.mark.parametrize(
    ("name", "problem"),
    [("", "has 0 bytes"), ("x" * 513, "has 513 bytes"), ("a\nb", "control character"), ("\ud800", "valid Unicode")],
)
def test_bad_names_are_refused(app: App, name: str, problem: str) -> None:
    for register in (
        lambda: App(name),
        lambda: app.activity(name=name)(an_activity),
        lambda: app.workflow(name=name)(a_workflow),
        lambda: Signal[int](name),
    ):
        with pytest.raises(RegistrationError, match=problem):
            register()


def test_bad_queues_are_refused(app: App) -> None:
    for register in (
        lambda: App("x", queue="a b"),
        lambda: app.activity(queue="a b")(an_activity),
        lambda: app.activity(an_activity).options(queue="a b"),
    ):
        with pytest.raises(RegistrationError, match="the queue 'a b' may only hold letters"):
            register()
    with pytest.raises(RegistrationError, match="queue is 3, not a name"):
        untyped(App)("x", queue=3)


def test_timeouts_are_positive_durations(app: App) -> None:
    with pytest.raises(RegistrationError, match=r"app 'x': timeout is 0 s; it needs some time"):
        App("x", timeout=seconds(0))
    with pytest.raises(RegistrationError, match=r"activity 'an_activity': timeout is -1 s"):
        app.activity(timeout=seconds(-1))(an_activity)
    with pytest.raises(RegistrationError, match=r"timeout is a duration such as seconds\(30\), not 30"):
        untyped(app.activity(an_activity)).options(timeout=30)


def test_retry_is_a_policy(app: App) -> None:
    with pytest.raises(RegistrationError, match=r"retry is `Retry\(max_attempts=3\)` or the like, not 3"):
        untyped(app).activity(retry=3)(an_activity)


@pytest.mark.parametrize("version", [0, -1, True, "1"])
def test_versions_are_whole_numbers_from_one_on(app: App, version: Any) -> None:
    with pytest.raises(RegistrationError, match="versions are whole numbers from 1 on"):
        app.workflow(version=version)(a_workflow)


# ---- declared errors


class TakesAnArgument(Exception):
    def __new__(cls, code: int) -> TakesAnArgument:
        return super().__new__(cls, code)


class HoldsASocket(Exception):
    connection: socket.socket


@pytest.mark.parametrize(
    ("error", "problem"),
    [
        (Exception, "Exception, which says nothing about the business"),
        (RegistrationError, "RegistrationError, which says nothing about the business"),
        (KeyboardInterrupt, "KeyboardInterrupt, which is not an exception class"),
        ("CardDeclined", "CardDeclined, which is not an exception class"),
        (TakesAnArgument, "TakesAnArgument, which cannot be rebuilt .*`__new__` wants arguments"),
        (ExceptionGroup, "ExceptionGroup, which cannot be rebuilt"),
        (HoldsASocket, "an attribute of HoldsASocket cannot be rebuilt: `socket`"),
    ],
)
def test_declared_errors_can_be_rebuilt(app: App, error: Any, problem: str) -> None:
    with pytest.raises(RegistrationError, match=problem):
        app.activity(raises=[error])(an_activity)


def test_declared_errors_come_in_a_list_under_different_names(app: App) -> None:
    with pytest.raises(RegistrationError, match=r"raises= takes a list: \[Declined\]"):
        untyped(app).activity(raises=Declined)(an_activity)
    twin = type("Declined", (Exception,), {"__qualname__": "Declined"})
    with pytest.raises(RegistrationError, match="two errors in raises= are named 'Declined'"):
        app.activity(raises=[Declined, twin])(an_activity)
    assert app.activity(raises=[Declined, Declined])(an_activity).raises == (Declined,)


# ---- providers


def test_what_opens_a_provider_can_be_closed_again(app: App) -> None:
    async def opens_only() -> int:
        return 1

    def yields_only() -> Iterator[int]:
        yield 1

    @asynccontextmanager
    async def needs_an_address(address: str) -> AsyncIterator[int]:
        yield 1

    for opener in (opens_only, yields_only):
        with pytest.raises(RegistrationError, match=f"provider '{opener.__name__}' has nothing to close with"):
            untyped(app).provide(opener)
    with pytest.raises(RegistrationError, match="opened without arguments, but takes address"):
        untyped(app).provide(needs_an_address)
    with pytest.raises(RegistrationError, match=r"@app\.provide takes a function, not 3"):
        untyped(app).provide(3)


def test_provided_takes_a_provider() -> None:
    async def opener() -> AsyncIterator[int]:
        yield 1

    with pytest.raises(RegistrationError, match=r"provided\(opener\): that is no provider; put @app\.provide above it"):
        untyped(provided)(opener)


async def test_a_provider_opens_and_closes(app: App) -> None:
    events: list[str] = []

    @app.provide
    async def pool() -> AsyncIterator[str]:
        events.append("open")
        yield "pool"
        events.append("closed")

    @app.provide
    @asynccontextmanager
    async def managed() -> AsyncIterator[int]:
        yield 7

    async with pool.open() as opened, managed.open() as number:
        assert (opened, number, events) == ("pool", 7, ["open"])
    assert events == ["open", "closed"]
    assert (pool.name, managed.name) == ("pool", "managed")


def test_provided_parameters_do_not_cross_the_wire_and_stand_last(app: App) -> None:
    @app.provide
    async def opener() -> AsyncIterator[socket.socket]:
        yield socket.socket()

    async def good(order: Order, *, line: socket.socket = provided(opener)) -> None: ...
    async def between(line: socket.socket = provided(opener), fast: bool = False) -> None: ...
    async def before_slash(line: socket.socket = provided(opener), /) -> None: ...
    async def forgot(line: Provider[socket.socket] = opener) -> None: ...

    assert app.activity(good).providers == {"line": opener}
    assert app.activity(name="second")(good).decode_args(b'[{"id":"1"}]') == ([Order("1")], {})
    with pytest.raises(RegistrationError, match="'fast' follows a provided parameter; put those last"):
        app.activity(between)
    with pytest.raises(RegistrationError, match="passes 'line' by name, so it cannot stand before `/`"):
        app.activity(before_slash)
    with pytest.raises(RegistrationError, match=r"write `line=provided\(opener\)`"):
        app.activity(forgot)


def test_providers_are_for_activities(app: App) -> None:
    @app.provide
    async def opener() -> AsyncIterator[int]:
        yield 1

    async def w(ctx: Context, number: int = provided(opener)) -> None: ...

    with pytest.raises(RegistrationError, match="workflow 'w': 'number' is provided by workers, to activities only"):
        app.workflow(w)
