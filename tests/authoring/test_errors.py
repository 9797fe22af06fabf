"""Exceptions cross the wire as they are declared, and a workflow sees the same on the first run and on every replay."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Protocol

import msgspec
import pytest

from everstep import (
    ActivityError,
    ActivityTimeout,
    EverstepError,
    NonRetryable,
    PayloadError,
    RemoteError,
    RetryAfter,
    RunFailed,
    errors,
    seconds,
)
from everstep._error_infos import MAX_CAUSES, activity_error, declared_name, exception_of, gives_up, info_of, type_name
from everstep_schemas.errors import ErrorInfo


class CardDeclined(Exception):
    pass


class Blocked(CardDeclined):
    pass


class OutOfStock(Exception):
    def __init__(self, sku: str, price: Decimal) -> None:
        super().__init__(f"no {sku} at {price}")
        self.sku = sku
        self.price = price


@dataclass
class Overdrawn(Exception):
    account: str
    missing: Decimal


class Broken(Exception):
    def __str__(self) -> str:
        raise RuntimeError("not even this")


def crossed(info: ErrorInfo) -> ErrorInfo:
    """The same after the wire, or out of history."""
    return msgspec.json.decode(msgspec.json.encode(info), type=ErrorInfo)


def raised(error: BaseException) -> BaseException:
    """`error` with a traceback."""
    try:
        raise error
    except BaseException as caught:
        return caught


def rebuilt(error: Exception, *declared: type[Exception]) -> BaseException:
    info = crossed(info_of(raised(error), declared))
    return exception_of(info, {declared_name(cls): cls for cls in declared})


# ---- names


def test_types_have_names_without_builtins_and_declared_ones_without_modules() -> None:
    assert type_name(ValueError) == "ValueError"
    assert type_name(CardDeclined) == f"{__name__}.CardDeclined"
    assert info_of(CardDeclined()).type == f"{__name__}.CardDeclined"
    assert info_of(CardDeclined(), [CardDeclined]).type == "CardDeclined"


def test_errors_to_give_up_on_are_named_with_or_without_their_module() -> None:
    error = ErrorInfo(type="orders.payments.Refused")
    assert gives_up(["Refused"], error)
    assert gives_up(["orders.payments.Refused"], error)
    assert gives_up(["payments.Refused"], error)
    assert not gives_up(["fused", "Declined", "orders"], error)


# ---- to the wire


def test_what_is_not_declared_is_retryable_unless_it_says_otherwise() -> None:
    assert info_of(ValueError("no")).retryable
    assert not info_of(NonRetryable("no")).retryable
    assert not info_of(type("Ours", (NonRetryable,), {})("no")).retryable
    assert not info_of(PayloadError("$", "no")).retryable
    assert not info_of(CardDeclined("no"), [CardDeclined]).retryable


def test_retry_after_carries_its_delay() -> None:
    info = info_of(RetryAfter(seconds(90)))
    assert (info.retry_after_seconds, info.message, info.retryable) == (90.0, "try again after 90 s", True)
    assert info_of(RetryAfter(seconds(1), "the bank is closed")).message == "the bank is closed"
    with pytest.raises(TypeError, match=r"delay is a duration such as seconds\(30\), not 60"):
        RetryAfter(60)  # type: ignore[arg-type]  # the mistake that is found
    assert info_of(RetryAfter(seconds(-1))).retry_after_seconds == 0.0


def test_the_traceback_shows_the_authors_frames_only() -> None:
    async def innermost() -> None:
        raise ValueError("no")

    async def outer() -> None:
        async with asyncio.timeout(1), asyncio.TaskGroup() as group:
            group.create_task(innermost())

    with pytest.raises(ExceptionGroup) as caught:
        asyncio.run(outer())
    info = info_of(caught.value)
    assert "in outer" in info.traceback
    assert "asyncio/" not in info.traceback
    assert info.cause is not None
    assert (info.cause.type, info.cause.message) == ("ValueError", "no")
    assert "in innermost" in info.cause.traceback


def test_everything_is_bounded() -> None:
    def deep(n: int) -> None:
        deep(n - 1) if n else fail()

    def fail() -> None:
        raise ValueError("x" * 1_000_000)

    with pytest.raises(ValueError, match="x") as caught:
        deep(500)
    info = info_of(caught.value)
    assert len(info.message) < 5_000
    assert "characters left out" in info.message
    assert len(info.traceback) < 10_000
    assert "in fail" in info.traceback


def test_cause_chains_are_bounded_and_may_be_rings() -> None:
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first
    info = info_of(first)
    assert info.cause is not None
    assert (info.cause.message, info.cause.cause) == ("second", None)
    error: Exception = ValueError("last")
    for _ in range(100):
        outer = ValueError("outer")
        outer.__cause__, error = error, outer
    assert msgspec.json.encode(info_of(error)).count(b'"type"') == MAX_CAUSES


def test_the_context_of_an_error_is_a_cause_unless_it_was_suppressed() -> None:
    def raise_in_turn(*, suppress: bool) -> None:
        try:
            raise KeyError("first")
        except KeyError as error:
            if suppress:
                raise ValueError("second") from None
            raise ValueError("second") from error

    for suppress, cause in ((True, None), (False, "KeyError")):
        with pytest.raises(ValueError, match="second") as caught:
            raise_in_turn(suppress=suppress)
        info = info_of(caught.value)
        assert (info.cause and info.cause.type) == cause


def test_an_error_that_cannot_even_be_printed_crosses() -> None:
    info = crossed(info_of(raised(Broken())))
    assert info.message == "<str() of this Broken failed>"
    assert info_of(ValueError("\ud800")).message == r"\ud800"
    assert crossed(info_of(ValueError("a\0b"))).message == "a\0b"


# ---- declared errors arrive as themselves


class Same(Protocol):
    def __call__(self, error: Any, /) -> Any: ...


DECLARED: list[tuple[Exception, Callable[[Any], Any]]] = [
    (CardDeclined(), lambda e: e.args),
    (CardDeclined("no", 3), lambda e: (e.args, str(e))),
    (KeyError("key"), lambda e: (e.args, str(e))),
    (OSError(2, "missing"), lambda e: (e.errno, e.strerror, type(e))),
    (OutOfStock("A", Decimal("1.10")), lambda e: (e.sku, e.price, str(e))),
    (Overdrawn("1", Decimal("2.50")), lambda e: (e.account, e.missing, e == Overdrawn("1", Decimal("2.50")))),
]


@pytest.mark.parametrize(("error", "seen"), DECLARED, ids=[type(one).__name__ for one, _ in DECLARED])
def test_declared_errors_arrive_as_themselves(error: Exception, seen: Callable[[Any], Any]) -> None:
    arrived = rebuilt(error, type(error))
    assert type(arrived) is type(error)
    assert seen(arrived) == seen(error)


def test_a_subclass_of_a_declared_error_arrives_as_that() -> None:
    arrived = rebuilt(Blocked("stolen"), CardDeclined)
    assert type(arrived) is CardDeclined
    assert str(arrived) == "stolen"


def test_what_cannot_be_encoded_of_an_error_is_left_behind() -> None:
    error = CardDeclined(object())
    arrived = rebuilt(error, CardDeclined)
    assert type(arrived) is CardDeclined
    assert str(arrived) == str(error)
    stock = OutOfStock("A", Decimal(1))
    stock.price = object()  # type: ignore[assignment]  # the point
    arrived = rebuilt(stock, OutOfStock)
    assert vars(arrived) == {"sku": "A"}
    assert str(arrived) == "no A at 1"


def test_notes_come_along() -> None:
    error = CardDeclined("no")
    error.add_note("called the bank")
    assert rebuilt(error, CardDeclined).__notes__ == ["called the bank"]


@pytest.mark.parametrize("fields", [b"3", b"null", b'"x"', b"[1,2,3]", b'{"price":"much","other":1}'])
def test_whatever_another_language_answers_a_declared_error_is_built(fields: bytes) -> None:
    info = ErrorInfo(type="OutOfStock", message="none left", fields=msgspec.Raw(fields))
    arrived = exception_of(info, {"OutOfStock": OutOfStock})
    assert type(arrived) is OutOfStock
    assert arrived.args in (("none left",), (1, 2, 3))
    plain = exception_of(ErrorInfo(type="CardDeclined", message="no"), {"CardDeclined": CardDeclined})
    assert (type(plain), str(plain)) == (CardDeclined, "no")


# ---- all else is an ActivityError


def test_an_activity_error_tells_what_happened() -> None:
    def connect() -> None:
        raise ConnectionError("refused") from KeyError("host")

    with pytest.raises(ConnectionError) as caught:
        connect()
    error = activity_error("charge", 3, crossed(info_of(caught.value)))
    assert type(error) is ActivityError
    assert str(error) == "activity 'charge' failed after 3 attempts: ConnectionError: refused"
    assert (error.activity, error.type, error.attempts) == ("charge", "ConnectionError", 3)
    assert "in connect" in error.traceback
    cause = error.cause
    assert type(cause) is RemoteError
    assert (cause.type, cause.message, str(cause)) == ("ConnectionError", "refused", "ConnectionError: refused")
    assert str(cause.__cause__) == "KeyError: 'host'"


def test_an_attempt_that_timed_out_is_an_activity_timeout() -> None:
    info = ErrorInfo(type="ActivityTimeout", message="the attempt took longer than 10 s")
    error = activity_error("charge", 1, info)
    assert type(error) is ActivityTimeout
    assert not isinstance(error, TimeoutError)
    assert error.which == "attempt"
    assert str(error).startswith("activity 'charge' failed after 1 attempt: ActivityTimeout")
    total = activity_error("charge", 1, msgspec.structs.replace(info, fields=msgspec.Raw(b'{"which":"total"}')))
    assert isinstance(total, ActivityTimeout)
    assert total.which == "total"


def test_a_declared_error_of_an_activity_is_itself() -> None:
    info = info_of(CardDeclined("no"), [CardDeclined])
    error = activity_error("charge", 1, info, {"CardDeclined": CardDeclined})
    assert type(error) is CardDeclined


def test_causes_keep_their_type_when_an_error_travels_on() -> None:
    first = activity_error("charge", 2, crossed(info_of(raised(ConnectionError("refused")))))
    info = crossed(info_of(raised(first)))
    assert info.type == "everstep.errors.ActivityError"
    assert info.cause is not None
    assert (info.cause.type, info.cause.message) == ("ConnectionError", "refused")
    failed = RunFailed(workflow_id="order-17", run=1, type=info.type, cause=exception_of(info))
    assert (failed.workflow_id, failed.run, failed.type) == ("order-17", 1, "everstep.errors.ActivityError")
    assert "ConnectionError: refused" in str(failed)
    assert isinstance(failed.cause, RemoteError)
    assert isinstance(failed.cause.__cause__, RemoteError)


def seen_by_a_workflow(error: BaseException | None) -> Any:
    """Everything that code can tell of an error."""
    return error and (type(error), str(error), error.args, vars(error), seen_by_a_workflow(error.__cause__))


@pytest.mark.parametrize(
    "error",
    [ValueError("no"), CardDeclined("no", 3), OutOfStock("A", Decimal("1.1")), Overdrawn("1", Decimal(2)), Broken()],
)
def test_the_first_run_and_a_replay_see_the_same(error: Exception) -> None:
    declared: dict[str, type[Exception]] = {"CardDeclined": CardDeclined, "OutOfStock": OutOfStock}
    error.__cause__ = KeyError("why")
    received = info_of(raised(error), declared.values())
    first = activity_error("charge", 2, received, declared)
    replayed = activity_error("charge", 2, crossed(received), declared)
    assert seen_by_a_workflow(first) == seen_by_a_workflow(replayed)


# ---- the tree


def test_the_tree_at_the_top_of_the_module_is_the_tree() -> None:
    parents: list[tuple[int, str]] = []
    for line in (errors.__doc__ or "").splitlines():
        if match := re.match(r"    ((?:│   |    )*(?:├── |└── )?)(\w+)", line):
            depth, name = len(match[1]), match[2]
            parents = [one for one in parents if one[0] < depth]
            cls = getattr(errors, name)
            if parents:
                assert getattr(errors, parents[-1][1]) in cls.__bases__, name
            parents.append((depth, name))
            drawn.add(name)
    public = {name for name, one in vars(errors).items() if isinstance(one, type) and issubclass(one, BaseException)}
    assert drawn == public
    assert issubclass(errors.WaitTimeout, TimeoutError)
    assert issubclass(EverstepError, Exception)


drawn: set[str] = set()
