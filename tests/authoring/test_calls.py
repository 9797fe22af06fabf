"""Calling an activity: inside a workflow it is scheduled, elsewhere it runs here."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import pytest
from msgspec import UNSET, Raw

from everstep import App, Context, PayloadError, Retry, Workflow, minutes, provided, seconds
from everstep._core.engine import Engine, Identity
from everstep_schemas import events, names
from everstep_schemas.events import ActivityScheduled, Failed, RetryPolicy, decode_events
from everstep_schemas.names import Topics

app = App("calls", queue="q")


@dataclass
class Order:
    id: str
    quantity: int = 1


class Declined(Exception):
    pass


class Ledger:
    def charge(self, order: Order) -> int:
        return order.quantity


@app.provide
async def open_ledger() -> AsyncIterator[Ledger]:
    yield Ledger()


@app.activity(raises=[Declined], retry=Retry(3, give_up_on=[KeyError, "Elsewhere"]), timeout=minutes(1))
async def charge(order: Order, how: str = "card", *, ledger: Ledger = provided(open_ledger)) -> int:
    return ledger.charge(order)


@app.activity
def which_thread() -> int:
    return threading.get_ident()


@app.activity
async def gather_all(first: int, /, *rest: int, last: int, **more: str) -> list[Any]:
    return [first, *rest, last, more]


@app.workflow
async def other(ctx: Context) -> None: ...


def outcome_of(body: Callable[[Context], Coroutine[Any, Any, Any]]) -> list[events.AnyEvent]:
    """What the first activation of a workflow with this code records after `Started`."""
    workflow: Workflow[[], Any] = Workflow(body, name="w")
    holder = App("holder")
    holder._add_workflow(workflow)
    identity = Identity(names.run_key(0, 1), "id", 1, "w", 1, "nonce")
    started = events.Started(workflow="w", version=1, nonce="nonce", source="s", python="3.11.0")
    run, activation = Engine(holder, Topics(), max_payload_bytes=1_000).start(identity, started, 0)
    run.evict()
    return [event for row in activation.rows for event in decode_events(row.data)][1:]


def scheduled(call: Callable[[], Any]) -> ActivityScheduled:
    async def body(ctx: Context) -> None:
        await call()

    (event,) = outcome_of(body)
    assert isinstance(event, ActivityScheduled), event
    return event


def refused(call: Callable[[], Any]) -> tuple[str, str]:
    """The type and message of the error that the call raised, which failed the run."""

    async def body(ctx: Context) -> None:
        call()

    (event,) = outcome_of(body)
    assert isinstance(event, Failed), event
    return event.error.type, event.error.message


# ---- in a workflow


def test_a_call_is_recorded_with_all_that_a_worker_needs() -> None:
    event = scheduled(lambda: charge(Order("17")))
    assert (event.name, event.queue, event.timeout_seconds) == ("charge", "q", 60.0)
    assert event.args == Raw(b'[{"id":"17","quantity":1}]')
    assert event.kwargs is UNSET
    assert event.retry == RetryPolicy(max_attempts=3, give_up_on=("KeyError", "Elsewhere", "Declined"))


def test_the_default_policy_takes_no_room() -> None:
    event = scheduled(which_thread)
    assert event.retry is None
    assert event.timeout_seconds == 10.0


def test_equal_calls_are_recorded_alike_however_they_are_written() -> None:
    for call in (
        lambda: charge(Order("17"), "cash"),
        lambda: charge(Order("17"), how="cash"),
        lambda: charge(how="cash", order=Order("17")),
    ):
        event = scheduled(call)
        assert event.args == Raw(b'[{"id":"17","quantity":1},"cash"]')
        assert event.kwargs is UNSET


def test_any_kind_of_parameter_crosses() -> None:
    event = scheduled(lambda: gather_all(1, 2, 3, last=4, note="x"))
    assert (event.args, event.kwargs) == (Raw(b"[1,2,3]"), Raw(b'{"last":4,"note":"x"}'))
    assert isinstance(event.kwargs, Raw)
    args, kwargs = gather_all.decode_args(event.args, event.kwargs)
    assert asyncio.run(gather_all.fn(*args, **kwargs)) == [1, 2, 3, 4, {"note": "x"}]


def test_options_hold_for_one_call() -> None:
    event = scheduled(lambda: charge.options(queue="fast", timeout=seconds(1), retry=Retry(1))(Order("1")))
    assert (event.queue, event.timeout_seconds) == ("fast", 1.0)
    assert event.retry == RetryPolicy(max_attempts=1, give_up_on=("Declined",))
    assert scheduled(lambda: charge(Order("1"))).queue == "q"


def test_by_name_the_apps_options_hold_unless_others_are_given() -> None:
    assert app.workflows["other"][1].activity_call("f", (Order("1"), 2)).queue == "q"
    call = other.activity_call("f", (1,), queue="x", timeout=seconds(1), retry=Retry(2), returns=Order)
    assert (call.name, call.args, call.queue, call.timeout_seconds) == ("f", b"[1]", "x", 1.0)
    assert call.retry == RetryPolicy(max_attempts=2)
    assert call.decode(b'{"id":"1"}') == Order("1")
    with pytest.raises(PayloadError, match=r"at `\$\[0\]`"):
        other.activity_call("f", (object(),))


def untyped(value: object) -> Any:
    """For what a type checker refuses as well: not all code has seen one."""
    return value


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: untyped(charge)("no"),
            "everstep.errors.PayloadError",
            "the arguments of activity 'charge' do not fit: Expected `object`, got `str` - at `$.order`",
        ),
        (
            lambda: charge(Order("1", untyped("2"))),
            "everstep.errors.PayloadError",
            "the arguments of activity 'charge' do not fit: Expected `int`, got `str` - at `$.order.quantity`",
        ),
        (lambda: untyped(charge)(), "TypeError", "activity 'charge': missing a required argument: 'order'"),
        (
            lambda: untyped(charge)(Order("1"), "a", "b"),
            "TypeError",
            "activity 'charge': too many positional arguments",
        ),
        (
            lambda: charge(Order("1"), ledger=Ledger()),
            "TypeError",
            "activity 'charge': 'ledger' is provided by the worker; leave it out in a workflow",
        ),
        (
            lambda: charge.options(timeout=untyped(30))(Order("1")),
            "everstep.errors.RegistrationError",
            "activity 'charge': timeout is a duration such as seconds(30), not 30",
        ),
    ],
)
def test_a_wrong_call_fails_where_it_is_made(call: Callable[[], Any], error: str, message: str) -> None:
    assert refused(call) == (error, message)


# ---- outside of a workflow


async def test_outside_an_async_activity_runs_here() -> None:
    assert await charge(Order("1", 3), ledger=Ledger()) == 3
    both = await asyncio.gather(charge(Order("1", 3), ledger=Ledger()), charge(Order("1", 4), ledger=Ledger()))
    assert list(both) == [3, 4]
    assert await charge.fn(Order("1", 4), ledger=Ledger()) == 4


async def test_outside_a_plain_activity_runs_in_a_thread() -> None:
    assert await which_thread() != threading.get_ident()
    assert which_thread.fn() == threading.get_ident()


async def test_outside_what_is_provided_must_be_passed() -> None:
    with pytest.raises(TypeError, match="outside of a workflow, so no worker provides 'ledger': pass it by name"):
        charge(Order("1"))


async def test_outside_a_wrong_call_fails_at_once() -> None:
    with pytest.raises(TypeError, match="missing a required argument: 'order'"):
        untyped(charge)()


def test_outside_a_workflow_is_started_by_a_client() -> None:
    with pytest.raises(TypeError, match=r"start a run with `await client\.start\(other, …, id=…\)`, see Client\.start"):
        other()


# ---- what comes in


@app.workflow
async def takes_some(ctx: Context, order: Order, fast: bool = False, *, note: str | None = None) -> Order:
    return order


def test_arguments_come_in_by_position_or_name() -> None:
    order = b'{"id":"1"}'
    assert takes_some.decode_args(b"[" + order + b"]") == ([Order("1")], {})
    assert takes_some.decode_args(b"[" + order + b",true]", None) == ([Order("1"), True], {})
    assert takes_some.decode_args(b"[]", b'{"order":' + order + b',"note":"x"}') == ([Order("1")], {"note": "x"})
    assert takes_some.decode_args(Raw(b"[" + order + b"]"), Raw(b"{}")) == ([Order("1")], {})


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        (b"[]", None, "workflow 'takes_some': missing a required argument: 'order' - at `$`"),
        (b'[{"id":"1"},true,3]', None, "workflow 'takes_some': too many positional arguments - at `$`"),
        (b'[{"id":"1"}]', b'{"order":1}', "workflow 'takes_some': multiple values for argument 'order' - at `$`"),
        (b'[{"id":"1"}]', b'{"x":1}', "workflow 'takes_some': got an unexpected keyword argument 'x' - at `$`"),
        (b'[{"id":1}]', None, "Expected `str`, got `int` - at `$.order.id`"),
        (b'[{"id":"1"}]', b'{"note":1}', "Expected `str | null`, got `int` - at `$.note`"),
        (b"3", None, "the arguments of workflow 'takes_some' cannot be read: Expected `array`, got `int` - at `$`"),
        (b"[", None, "the arguments of workflow 'takes_some' cannot be read: Input data was truncated - at `$`"),
        (b"[" * 100_000, None, "the arguments of workflow 'takes_some' are nested too deeply - at `$`"),
    ],
)  # fmt: skip
def test_arguments_that_do_not_fit_are_refused(args: bytes, kwargs: bytes | None, message: str) -> None:
    with pytest.raises(PayloadError) as caught:
        takes_some.decode_args(args, kwargs)
    assert str(caught.value) == message


def test_results_are_checked_where_they_are_made_and_where_they_arrive() -> None:
    assert takes_some.encode_result(Order("1")) == b'{"id":"1","quantity":1}'
    assert takes_some.decode_result(b'{"id":"1"}') == Order("1")
    with pytest.raises(
        PayloadError, match=r"^the result of activity 'charge' does not fit: Expected `int`, got `str` - at `\$`$"
    ):
        charge.encode_result("3")
    with pytest.raises(PayloadError, match="Expected `object`, got `null`"):
        takes_some.decode_result(b"null")


def test_retry_if_stays_with_the_definition_for_the_worker() -> None:
    def only_connections(error: BaseException) -> bool:
        return isinstance(error, ConnectionError)

    local = App("local")
    activity = local.activity(retry=Retry(retry_if=only_connections))(which_thread.fn)
    assert activity.retry.retry_if is only_connections
