"""What goes wrong while the orders run: an orchestrator is killed and comes back, a worker is killed and does not."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

import asyncpg

from examples.orders.observer import Observer
from examples.orders.processes import Service

# When, as shares of all orders that have started: much must be under way, and much still to come.
ORCHESTRATOR_DIES = 0.25
WORKER_DIES = 0.6

OWNED = """
SELECT shard, epoch FROM {schema}.shards WHERE owner = (SELECT id FROM {schema}.orchestrators WHERE pid = $1)
ORDER BY shard
"""
# A shard's epoch rises when it is claimed: as long as one stands at the old epoch, nobody has taken it over.
ORPHANED = """
SELECT count(*) FROM {schema}.shards JOIN unnest($1::int[], $2::bigint[]) AS old (shard, epoch) USING (shard, epoch)
"""
POLL_SECONDS = 0.01


@dataclass
class Takeover:
    """How the dead orchestrator's shards found another owner, seen from outside."""

    shards: int
    seconds: float


@dataclass
class Accident:
    """The victims, and the connection through which their fate is watched."""

    orchestrator: Service
    worker: Service
    connection: asyncpg.Connection
    schema: str

    async def happen(self, observer: Observer, say: Callable[[str], None]) -> Takeover:
        total = len(observer.orders)
        await observer.until(lambda: observer.started >= total * ORCHESTRATOR_DIES)
        takeover = await self._kill_orchestrator(say)
        await observer.until(lambda: observer.started >= total * WORKER_DIES)
        say(f"SIGKILL to {self.worker.name} (pid {self.worker.pid})")
        self.worker.kill()
        return takeover

    async def _kill_orchestrator(self, say: Callable[[str], None]) -> Takeover:
        """Kills it, waits until all of its shards have another owner, starts it again."""
        owned = await self.connection.fetch(OWNED.format(schema=self.schema), self.orchestrator.pid)
        shards, epochs = [row["shard"] for row in owned], [row["epoch"] for row in owned]
        say(f"SIGKILL to {self.orchestrator.name} (pid {self.orchestrator.pid}), owner of the shards {shards}")
        self.orchestrator.kill()
        killed_at = time.monotonic()
        while await self.connection.fetchval(ORPHANED.format(schema=self.schema), shards, epochs):  # noqa: ASYNC110 - only asking tells
            await asyncio.sleep(POLL_SECONDS)
        takeover = Takeover(len(shards), time.monotonic() - killed_at)
        say(f"Its shards have another owner after {takeover.seconds:.2f} s; {self.orchestrator.name} starts again")
        self.orchestrator.start()
        return takeover
