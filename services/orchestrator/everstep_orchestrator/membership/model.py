"""What the membership thread knows and says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

Code = Mapping[str, frozenset[int]]
"""The versions of each workflow that a process has code for."""


@dataclass(frozen=True, slots=True)
class Timing:
    """How long what may take, in seconds.

    A lease lasts `lease_seconds` and is renewed every `renew_seconds`, unless the main loop has been silent for
    `silent_seconds`; after `stuck_seconds` of silence the process is given up. Members look at each other every
    `poll_seconds`. After a restart of Postgres they give each other `restart_seconds` to come back. A statement may
    take `statement_seconds` before the connection counts as lost.
    """

    lease_seconds: float = 10.0
    renew_seconds: float = 2.0
    poll_seconds: float = 0.25
    silent_seconds: float = 3.0
    stuck_seconds: float = 10.0
    restart_seconds: float = 2.0
    statement_seconds: float = 3.0


DEFAULT_TIMING = Timing()


@dataclass(frozen=True, slots=True)
class Claim:
    """A shard that is ours from now on, as its row was when it became so."""

    shard: int
    epoch: int
    commit_no: int
    submissions_position: int | None
    inbox_position: int | None
    last_number: int
    published: int
    claims_without_progress: int
    trying: int | None


class Listener(Protocol):
    """Told what happens, on its own event loop, one call at a time, in order."""

    def claimed(self, claims: list[Claim]) -> None:
        """These shards are ours, also those that were so before: what was known of them no longer counts."""

    def lost(self, shards: list[int]) -> None:
        """Another owner has these: stop publishing and drop what is known of them."""

    def hand_over(self, shard: int) -> None:
        """Others have too few: drain this one, then `release` it."""

    def lease_expired(self) -> None:
        """All shards may have other owners: close the producer before anything else, then drop them all."""


@dataclass(frozen=True, slots=True)
class Member:
    """A living orchestrator, as seen by another. One that is leaving keeps its shards but takes no more."""

    id: str
    leaving: bool = False
    code: Code = field(default_factory=dict)

    def knows(self, needs: tuple[str, int] | None) -> bool:
        """Version 0 is of a run whose version is still to be chosen: any will do."""
        if needs is None:
            return False
        workflow, version = needs
        versions = self.code.get(workflow, frozenset())
        return version in versions or (version == 0 and bool(versions))


@dataclass(frozen=True, slots=True)
class Seen:
    """A shard as it was seen. `needs` is the workflow and version that a held run of it waits for."""

    shard: int
    owner: str | None
    epoch: int = 0
    needs: tuple[str, int] | None = None
