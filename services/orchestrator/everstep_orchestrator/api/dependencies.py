"""What the HTTP API needs from the rest of the process, named by use."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Callable, Iterable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias, TypeVar

from litestar.di import NamedDependency

from everstep._core.engine import HistoryRow, Identity, LiveRun
from everstep.reads import Reader
from everstep_orchestrator.api.peers import Peers
from everstep_schemas.wire import AnySubmission, Lifecycle

T = TypeVar("T")


class Fact(Protocol):
    """A record of the lifecycle topic: its `ce_type` and its body."""

    @property
    def type(self) -> str: ...
    @property
    def body(self) -> Lifecycle: ...


class Watch(Protocol):
    """The lifecycle of one workflow id, from the moment the watch began."""

    async def next(self, wanted: Callable[[Fact], bool], timeout_seconds: float) -> Fact:
        """Raises `TimeoutError` when it does not come in time, `KafkaError` when the topic cannot be read."""
        ...


class LifecycleTail(Protocol):
    """Reads the lifecycle topic. A watch that is open misses nothing that is published after it was opened."""

    def watch(self, workflow_id: str) -> AbstractAsyncContextManager[Watch]: ...


class Submissions(Protocol):
    """Writes to the submissions topic; on return the submission is durable in Kafka."""

    async def send(self, submission: AnySubmission) -> None: ...


class Asker(Protocol):
    """Replays runs to ask them something; changes nothing."""

    def knows(self, workflow: str, version: int) -> bool:
        """Whether the code of a run is here."""
        ...

    async def ask(
        self, identity: Identity, pages: AsyncIterable[Iterable[HistoryRow]], question: Callable[[LiveRun], T]
    ) -> T:
        """What `question` gives for the run with this history.

        Raises `CannotRun` if the code here does not replay it, `QueryFailed` if the code has no answer, and
        `TimeoutError`, in words, if there is no time for it now.
        """
        ...


@dataclass(frozen=True, slots=True)
class ApiDependencies:
    """What the composition root hands to the HTTP server. `readiness` gives the reasons for not being ready."""

    readiness: Callable[[], list[str]]
    submissions: Submissions
    lifecycle: LifecycleTail
    asker: Asker


@dataclass(frozen=True, slots=True)
class Api:
    """What a handler works with. Once `stopping` is set, whoever waits answers with what it knows."""

    reader: Reader
    readiness: Callable[[], list[str]]
    submissions: Submissions
    lifecycle: LifecycleTail
    asker: Asker
    peers: Peers
    max_payload_bytes: int
    stopping: asyncio.Event = field(default_factory=asyncio.Event)


FromProcess: TypeAlias = NamedDependency[Api]
