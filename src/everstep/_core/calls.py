"""What a definition hands to the engine when an author calls an activity or a workflow."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from msgspec import Raw

from everstep_schemas.events import OnParentClose, RetryPolicy


class ActivityCall(msgspec.Struct, frozen=True):
    """One call of an activity. `decode` raises `PayloadError`; `raises` maps wire type names to declared errors."""

    name: str
    queue: str
    args: bytes
    kwargs: bytes | None
    timeout_seconds: float | None
    retry: RetryPolicy | None
    decode: Callable[[Raw | bytes], Any]
    raises: Mapping[str, type[Exception]]
    total_timeout_seconds: float | None = None
    queue_timeout_seconds: float | None = None
    heartbeat_timeout_seconds: float | None = None


class ChildCall(msgspec.Struct, frozen=True):
    """One call of a workflow. Without an `id` the child gets one that follows from its parent's."""

    workflow: str
    args: bytes
    kwargs: bytes | None
    decode: Callable[[Raw | bytes], Any]
    id: str | None = None
    version: int | None = None
    timeout_seconds: float | None = None
    on_parent_close: OnParentClose = "terminate"


class Continuation(msgspec.Struct, frozen=True):
    """What `ctx.continue_as_new` asks for."""

    workflow: str
    args: bytes
    kwargs: bytes | None
    version: int | None = None
    timeout_seconds: float | None = None

    @property
    def size(self) -> int:
        return len(self.args) + len(self.kwargs or b"")


class GoOn(BaseException):
    """`ctx.continue_as_new` leaves the author's function with this."""

    def __init__(self, continuation: Continuation) -> None:
        super().__init__("the run goes on as a new one")
        self.continuation = continuation
