"""What the client needs from its way to an installation."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

from msgspec import UNSET, Raw, UnsetType

from everstep._error_infos import exception_of
from everstep.errors import (
    CallbackClosed,
    EverstepError,
    Rejected,
    RunAlreadyExists,
    RunNotFound,
    UpdateFailed,
    UpdateRejected,
)
from everstep_schemas.errors import ErrorInfo
from everstep_schemas.events import AttributeValue
from everstep_schemas.wire import CallbackSubmission, Cancel, Signal, Start, Terminate, Update

if TYPE_CHECKING:  # brings asyncpg
    from everstep.reads import Filter, HistoryEvent, RunDescription, RunSummary


NO_ATTRIBUTES: Mapping[str, AttributeValue] = MappingProxyType({})
_ENDED = re.compile(r"run \d+ of .* has ended \(\w+\)", re.DOTALL)
_EARLIER = "duplicate: update"


@dataclass(frozen=True, slots=True)
class Ended:
    """How a run ended. `next_run` goes on with the work of one that is continued, and `last_run` has it by now."""

    workflow_id: str
    run: int
    status: str
    value: Raw | UnsetType = UNSET
    error: ErrorInfo | None = None
    reason: str | None = None
    next_run: int | None = None
    last_run: int | None = None


@dataclass(frozen=True, slots=True)
class Started:
    """A run that answers a start.

    `ended` waits for its end, or for that of the last of the runs that go on with its work; `forget` says that nobody
    will ask for that any more.
    """

    run: int
    ended: Callable[[], Awaitable[Ended]]
    forget: Callable[[], None]


class Transport(Protocol):
    """A way to an installation. Everything raises `NotReachable` when nobody answers."""

    async def open(self) -> None: ...
    async def close(self) -> None: ...

    async def start(self, start: Start) -> Started:
        """The run that answers the start; raises `RunAlreadyExists` or `Rejected`. Needs a `submission_id`."""
        ...

    async def send(self, submission: Signal | Cancel | Terminate) -> None:
        """Returns once the submission is durable."""
        ...

    async def ended(self, workflow_id: str, run: int | None = None) -> Ended:
        """Waits for the end of exactly this run, which may be that it goes on as another; raises `RunNotFound`.

        Without a number: of the id's newest, and of the last of those that go on with its work.
        """
        ...

    async def query(self, workflow_id: str, name: str, args: bytes, run: int | None = None) -> Raw:
        """What a run answers, the id's newest by default; raises `RunNotFound` or `QueryError`."""
        ...

    async def update(self, update: Update) -> Raw:
        """Waits for what the run answers; raises `RunNotFound`, `UpdateRejected` or `UpdateFailed`.

        Needs an `update_id`.
        """
        ...

    async def callback(self, submission: CallbackSubmission) -> None:
        """Returns once the submission is durable and, over HTTP, the callback has it; raises `CallbackClosed`.

        What settles a callback needs a `submission_id`.
        """
        ...

    def limit(self, timeout: timedelta | None) -> AbstractAsyncContextManager[asyncio.Timeout]:
        """Bounds what is awaited within, as `asyncio.timeout` does, by the installation's own time."""
        ...

    async def describe(self, workflow_id: str, run: int | None = None) -> RunDescription:
        """A run, the id's newest by default; raises `RunNotFound`."""
        ...

    def history(self, workflow_id: str, run: int | None = None) -> AsyncIterator[HistoryEvent]:
        """The events of a run, the id's newest by default, in order; raises `RunNotFound`."""
        ...

    def runs(
        self,
        workflow: str | None,
        status: Filter | None,
        limit: int | None,
        attributes: Mapping[str, AttributeValue] = NO_ATTRIBUTES,
    ) -> AsyncIterator[RunSummary]:
        """Runs, newest first."""
        ...


def real_time(timeout: timedelta | None) -> asyncio.Timeout:
    """The `limit` of an installation whose time is everybody's."""
    return asyncio.timeout(None if timeout is None else timeout.total_seconds())


def refusal(workflow_id: str, reason: str) -> EverstepError:
    """The error for the reason that a rejected submission was given."""
    if reason.startswith("duplicate"):
        hint = "choose another id, or say what to do with on_duplicate"
        return RunAlreadyExists(f"{reason}; {hint}", workflow_id=workflow_id)
    if reason.startswith("no run has the id"):
        return RunNotFound(reason, workflow_id=workflow_id)
    return Rejected(reason)


def update_refusal(update: Update, reason: str) -> EverstepError:
    """The error for the reason that an update was given: the run's code has refused it, or no code was asked."""
    if reason.startswith("no run has the id"):
        return RunNotFound(reason, workflow_id=update.workflow_id)
    if _ENDED.fullmatch(reason):
        return Rejected(reason)
    return UpdateRejected(f"update {update.name!r} of run {update.workflow_id!r} was rejected: {reason}")


def may_be_answered(reason: str) -> bool:
    """Whether an update that is refused so can have an answer: by an earlier run of its id, or before the end."""
    return reason.startswith(_EARLIER) or _ENDED.fullmatch(reason) is not None


def update_failure(update: Update, error: ErrorInfo) -> UpdateFailed:
    """The error for what a run could not carry out."""
    why = f"{error.type}: {error.message}" if error.message else error.type
    return UpdateFailed(
        f"update {update.name!r} of run {update.workflow_id!r} failed: {why}",
        type=error.type,
        cause=exception_of(error),
    )


def callback_refusal(reason: str) -> EverstepError:
    """The error for the reason that what was said to a callback was given."""
    impossible = reason.startswith("the value does not fit") or reason == "no such callback"
    return Rejected(reason) if impossible else CallbackClosed(reason)
