"""How long things may take in a worker."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """Seconds. What others see of them stands in `docs/worker.md`; tests shorten them."""

    check_out_seconds: float = 3.0  # an attempt that lasts longer no longer holds its partition's offset
    lease_seconds: float = 15.0  # of what is checked out; renewed three times in that
    heartbeat_seconds: float = 5.0  # the least between two reports of an attempt's heartbeats
    acknowledge_seconds: float = 3.0  # a rebalance waits so long for Kafka to have what was said
    terminate_seconds: float = 2.0  # between asking a process to end and killing it
    cleanup_seconds: float = 2.0  # for `finally` blocks of attempts that a stopping worker breaks off

    @property
    def renew_seconds(self) -> float:
        """So that a lease outlives two renewals that are lost or late."""
        return self.lease_seconds / 3

    def pause_seconds(self, heartbeat_timeout_seconds: float | None) -> float:
        """The least between two reports, so that two fit into the timeout with room for their way."""
        if heartbeat_timeout_seconds is None:
            return self.heartbeat_seconds
        return min(0.4 * heartbeat_timeout_seconds, self.heartbeat_seconds)
