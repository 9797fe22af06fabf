"""Queries and updates: what a run answers, by name, typed at both ends."""

from __future__ import annotations

from typing import Generic, TypeVar

from everstep._core.payloads import Codec
from everstep.signals import Declared

A = TypeVar("A")
R = TypeVar("R")


class Query(Declared, Generic[R]):
    """A question about a run's state, answered without an event: `current = Query[Account]("current")`."""

    kind = "query"

    @property
    def codec(self) -> Codec[R]:
        """Writes and reads the answer."""
        return self._codec(0)


class Update(Declared, Generic[A, R]):
    """A request that a run validates, carries out and answers: `change_plan = Update[Plan, Proration]("change_plan")`.

    It takes one value and gives one.
    """

    kind = "update"

    @property
    def codec(self) -> Codec[A]:
        """Writes and reads the value."""
        return self._codec(0)

    @property
    def result_codec(self) -> Codec[R]:
        """Writes and reads the answer."""
        return self._codec(1)
