"""What all shards of an orchestrator decide with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from everstep._core.engine import Engine
from everstep_schemas.names import Topics


class Directory(Protocol):
    """Knows which code the other orchestrators have."""

    def others_know(self, workflow: str, version: int) -> bool: ...


@dataclass(frozen=True, slots=True)
class Rules:
    """What all shards of an orchestrator decide with."""

    engine: Engine
    directory: Directory
    topics: Topics
    python: str
    new_nonce: Callable[[], str]
    ignored: Callable[[str], None]  # counts inputs that have no effect, by reason
    early_signal_us: int
