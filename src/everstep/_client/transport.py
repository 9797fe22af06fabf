"""What the client needs from its way to an installation."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Protocol

from msgspec import UNSET, Raw, UnsetType

from everstep.errors import EverstepError, Rejected, RunAlreadyExists, RunNotFound
from everstep_schemas.errors import ErrorInfo
from everstep_schemas.wire import CallbackSubmission, Cancel, Signal, Start, Terminate, Update

if TYPE_CHECKING:  # brings asyncpg
    from everstep.reads import Filter, HistoryEvent, RunDescription, RunSummary


@dataclass(frozen=True, slots=True)
class Ended:
    """How a run ended."""

    workflow_id: str
    run: int
    status: str
    value: Raw | UnsetType = UNSET
    error: ErrorInfo | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Started:
    """A run that answers a start. `ended` waits for its end; `forget` says that nobody will ask for that any more."""

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
        """Waits for the end of a run, the id's newest by default; raises `RunNotFound`."""
        ...

    async def query(self, workflow_id: str, name: str, args: bytes, run: int | None = None) -> Raw:
        """What a run answers, the id's newest by default; raises `RunNotFound` or `QueryError`."""
        ...

    async def update(self, update: Update) -> Raw:
        """Waits for what the run answers; raises `RunNotFound`, `UpdateRejected` or `UpdateFailed`."""
        ...

    async def callback(self, submission: CallbackSubmission) -> None:
        """Returns once the callback has it; raises `CallbackClosed`."""
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

    def runs(self, workflow: str | None, status: Filter | None, limit: int | None) -> AsyncIterator[RunSummary]:
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
