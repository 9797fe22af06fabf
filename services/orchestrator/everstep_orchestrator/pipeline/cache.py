"""Bounds the runs in memory, by count and by bytes.

Only a run whose last activation is durable may go, since it is loaded from Postgres when it is needed again. The ones
that have been idle for longest go first, a tenth more than needed at once, so that the search for them is rare.
"""

from __future__ import annotations

from collections.abc import Iterable

from everstep_orchestrator.pipeline.drafting import Entry
from everstep_orchestrator.pipeline.state import Shard

HEADROOM = 0.9


class Cache:
    """The limits, and the eviction of what exceeds them."""

    def __init__(self, max_runs: int, max_bytes: int) -> None:
        self._max_runs = max_runs
        self._max_bytes = max_bytes

    def trim(self, shards: Iterable[Shard]) -> None:
        """Evicts idle runs if there are too many; cheap if there are not."""
        shards = list(shards)
        count = sum(len(shard.entries) for shard in shards)
        if count > self._max_runs:
            self._evict(shards, count - int(self._max_runs * HEADROOM))

    def trim_bytes(self, shards: Iterable[Shard]) -> None:
        """Evicts idle runs if all together are too large; looks at every run, so not for the hot path."""
        shards = list(shards)
        count = sum(len(shard.entries) for shard in shards)
        size = sum(_size(entry) for shard in shards for entry in shard.entries.values())
        if size > self._max_bytes:
            self._evict(shards, max(1, int(count * (1 - HEADROOM * self._max_bytes / size))))

    def _evict(self, shards: list[Shard], count: int) -> None:
        total = sum(len(shard.entries) for shard in shards)
        for shard in shards:
            share = -(-count * len(shard.entries) // total)
            idle = [entry for entry in shard.entries.values() if entry.touched <= shard.commit_no]
            for entry in sorted(idle, key=lambda entry: entry.touched)[:share]:
                shard.forget(entry)


def _size(entry: Entry) -> int:
    return entry.live.size_bytes if entry.live is not None else 0
