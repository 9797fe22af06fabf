"""Retry policies: their defaults, their form in history, and what they refuse."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from everstep import Backoff, Retry, days, hours, minutes, seconds
from everstep_schemas.events import RetryPolicy


def test_durations_are_timedeltas() -> None:
    assert seconds(1.5) == timedelta(seconds=1, milliseconds=500)
    assert (minutes(2), hours(2), days(2)) == (timedelta(0, 120), timedelta(0, 7200), timedelta(2))


def test_the_defaults_of_authors_and_of_history_are_the_same() -> None:
    assert Retry().policy() is None
    assert Retry(None, Backoff(seconds(1), factor=2.0, maximum=seconds(100), jitter=0.1)).policy() is None


def test_a_policy_is_recorded_whole() -> None:
    backoff = Backoff(seconds(2), factor=3, maximum=minutes(1), jitter=0)
    policy = Retry(5, backoff, give_up_on=[KeyError, "Elsewhere"]).policy(["Declined"])
    assert policy == RetryPolicy(
        max_attempts=5,
        initial_seconds=2.0,
        factor=3.0,
        maximum_seconds=60.0,
        jitter=0.0,
        give_up_on=("KeyError", "Elsewhere", "Declined"),
    )


def test_policies_compare_and_hash_by_value() -> None:
    assert Retry(3, give_up_on=["A"]) == Retry(3, give_up_on=("A",))
    assert len({Retry(3), Retry(3), Retry(4)}) == 2


def test_giving_up_on_a_class_includes_its_subclasses() -> None:
    retry = Retry(give_up_on=[LookupError, "ValueError"])
    assert retry.gives_up_on(KeyError())
    assert not retry.gives_up_on(ValueError())
    assert not Retry().gives_up_on(KeyError())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"initial": seconds(-1)}, "a pause cannot be negative"),
        ({"initial": seconds(2), "maximum": seconds(1)}, r"maximum \(0:00:01\) is shorter than initial \(0:00:02\)"),
        ({"factor": 0.5}, "factor is 0.5; pauses must not become shorter"),
        ({"factor": float("nan")}, "factor is nan"),
        ({"jitter": 2}, "jitter is 2; it is a share between"),
    ],
)
def test_pauses_that_make_no_sense_are_refused(arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Backoff(**arguments)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Retry(0), ValueError, "max_attempts is 0; it counts the first attempt"),
        (lambda: Retry(2.5), TypeError, "max_attempts is a whole number, not 2.5"),  # type: ignore[arg-type]  # the point
        (lambda: Retry(True), TypeError, "max_attempts is a whole number, not True"),
        (lambda: Retry(seconds(5)), TypeError, "max_attempts is a whole number, not datetime"),  # type: ignore[arg-type]  # the point
        (lambda: Backoff(factor=True), TypeError, "factor is a number, not True"),
        (lambda: Backoff(jitter="0.1"), TypeError, "jitter is a number, not '0.1'"),  # type: ignore[arg-type]  # the point
        (lambda: Retry(give_up_on="KeyError"), TypeError, r"give_up_on is a list: \[KeyError\]"),
        (lambda: Retry(give_up_on=KeyError), TypeError, r"give_up_on is a list: \[KeyError\]"),  # type: ignore[arg-type]  # the point
        (lambda: Retry(give_up_on=[3]), TypeError, "exception classes and their names, not 3"),  # type: ignore[list-item]  # the point
        (lambda: Backoff(3), TypeError, r"initial is a duration such as seconds\(1\), not 3"),  # type: ignore[arg-type]  # the point
    ],
)
def test_what_is_no_policy_is_refused(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()
