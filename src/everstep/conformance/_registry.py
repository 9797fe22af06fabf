"""A check: a rule that it tests, what it needs, and a function that raises `Broken`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal

from everstep.conformance._case import Case

# `shared`: beside others, with a partition of its own, on one worker. `narrow`: alone on a worker with two slots.
# `own`: alone, and starts and ends workers itself. `closing`: on the shared worker, after all others.
Place = Literal["shared", "narrow", "own", "closing"]
Test = Callable[[Case], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Check:
    rule: int
    title: str
    place: Place
    test: Test


CHECKS: list[Check] = []


def check(rule: int, place: Place = "shared") -> Callable[[Test], Test]:
    """Registers a check of a rule; its docstring is the title."""

    def register(test: Test) -> Test:
        CHECKS.append(Check(rule, (test.__doc__ or "").strip(), place, test))
        return test

    return register
