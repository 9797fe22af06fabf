"""What a definition hands to the engine when an author calls an activity."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from msgspec import Raw

from everstep_schemas.events import RetryPolicy


@dataclass(frozen=True, slots=True)
class ActivityCall:
    """One call of an activity. `decode` raises `PayloadError`; `raises` maps wire type names to declared errors."""

    name: str
    queue: str
    args: bytes
    kwargs: bytes | None
    timeout_seconds: float | None
    retry: RetryPolicy | None
    decode: Callable[[Raw | bytes], Any]
    raises: Mapping[str, type[Exception]]
