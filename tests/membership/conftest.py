"""Members of one installation: in this process, each with its own thread, and listeners that tests can wait on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest

from everstep.admin import database
from everstep_orchestrator.membership import Claim, Membership, Timing

SCHEMA = "ever step"
SHARDS = 8

# Much shorter than in life, so that a lease passes while a test looks on.
QUICK = Timing(
    lease_seconds=1.5,
    renew_seconds=0.2,
    poll_seconds=0.05,
    silent_seconds=0.6,
    stuck_seconds=60,
    restart_seconds=0.4,
    statement_seconds=0.5,
)


class Recorder:
    """A listener that keeps what it holds, hands over what it is asked to, and can be waited on."""

    def __init__(self, *, obliging: bool = True) -> None:
        self.held: dict[int, Claim] = {}
        self.calls: list[tuple[str, Any]] = []
        self.member: Membership
        self._obliging = obliging
        self._called = asyncio.Event()

    def claimed(self, claims: list[Claim]) -> None:
        self.held.update((claim.shard, claim) for claim in claims)
        self._note("claimed", [claim.shard for claim in claims])

    def lost(self, shards: list[int]) -> None:
        for shard in shards:
            self.held.pop(shard, None)
        self._note("lost", shards)

    def hand_over(self, shard: int) -> None:
        self._note("hand_over", shard)
        if self._obliging:
            self.held.pop(shard)
            self.member.release(shard)

    def lease_expired(self) -> None:
        self.held.clear()
        self._note("lease_expired", None)

    def _note(self, what: str, shards: Any) -> None:
        self.calls.append((what, shards))
        self._called.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Looks at the condition again after every call."""
        while not condition():
            self._called.clear()
            await self._called.wait()

    async def until_called(self, what: str) -> None:
        await self.until(lambda: any(name == what for name, _ in self.calls))


class Installation:
    """Starts members, and keeps telling those that are not silenced that their main loop is alive."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self.silenced: set[Recorder] = set()
        self._recorders: list[Recorder] = []

    def join(
        self,
        *,
        dsn: str | None = None,
        timing: Timing = QUICK,
        obliging: bool = True,
        workflows: Mapping[str, Sequence[int]] | None = None,
        on_stuck: Callable[[], object] = lambda: None,
    ) -> Recorder:
        recorder = Recorder(obliging=obliging)
        recorder.member = Membership(
            dsn or self.dsn,
            SCHEMA,
            address="http://127.0.0.1:1",
            workflows=workflows or {},
            listener=recorder,
            loop=asyncio.get_running_loop(),
            on_stuck=on_stuck,
            timing=timing,
        )
        self._recorders.append(recorder)
        recorder.member.start()
        return recorder

    async def keep_alive(self) -> None:
        while True:
            for recorder in self._recorders:
                if recorder not in self.silenced:
                    recorder.member.progress()
            await asyncio.sleep(0.05)

    async def close(self) -> None:
        await asyncio.gather(*(recorder.member.stop() for recorder in self._recorders))


@pytest.fixture
async def migrated(postgres_dsn: str) -> str:
    await database.migrate(postgres_dsn, SCHEMA, SHARDS)
    return postgres_dsn


@asynccontextmanager
async def opened(dsn: str) -> AsyncIterator[Installation]:
    """An installation whose members leave at the end."""
    installation = Installation(dsn)
    alive = asyncio.create_task(installation.keep_alive())
    try:
        yield installation
    finally:
        await installation.close()
        alive.cancel()


@pytest.fixture
async def installation(migrated: str) -> AsyncIterator[Installation]:
    async with opened(migrated) as installation:
        yield installation


@pytest.fixture
async def session(migrated: str) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    connection = await asyncpg.connect(migrated, server_settings={"search_path": f'"{SCHEMA}"'})
    yield connection
    await connection.close()


async def soon(waiting: Coroutine[Any, Any, None], seconds: float = 20.0) -> None:
    """Fails, rather than hangs, when it does not come."""
    await asyncio.wait_for(waiting, seconds)
