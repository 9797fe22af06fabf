"""Every example on real servers and processes, at first in peace, then while those are killed: it gives the same."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import pytest
from tests.e2e.conftest import opened
from tests.e2e.installation import Installation
from tests.examples.scenarios import SCENARIOS, app

from everstep import Client, QueryError, RunNotFound
from everstep.errors import NotReachable

pytestmark = [pytest.mark.integration, pytest.mark.process, pytest.mark.timeout(300)]

T = TypeVar("T")
APP = "tests.examples.scenarios:app"
PATIENCE_SECONDS = 120.0


class RealWorld:
    """Nobody answers while the orchestrator that is asked is dead, and what was asked may have been done or not."""

    def __init__(self, client: Client) -> None:
        self.client = client

    async def until(self, ask: Callable[[], Awaitable[T]]) -> T:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                with suppress(NotReachable, RunNotFound, QueryError):
                    if answer := await ask():
                        return answer
                await asyncio.sleep(0.1)

    async def surely(self, call: Callable[[], Awaitable[T]]) -> T:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                with suppress(NotReachable):
                    return await call()
                await asyncio.sleep(0.1)


async def played(client: Client, name: str) -> dict[str, Any]:
    """What all scenarios give when they are played at the same time."""
    world = RealWorld(client)
    async with asyncio.TaskGroup() as group:
        tasks = {one.name: group.create_task(one.play(world, f"{name}-{one.name}")) for one in SCENARIOS}
    return {scenario: task.result() for scenario, task in tasks.items()}


@asynccontextmanager
async def killings(installation: Installation, seed: int) -> AsyncIterator[None]:
    """One process after the other dies and comes back; those that are under way when all is done are let finish."""
    chance = random.Random(seed)  # noqa: S311  # where it strikes, not a secret

    async def strike() -> None:
        while True:
            await asyncio.sleep(chance.uniform(0.5, 2.5))
            victim = chance.choice([*installation.orchestrators, *installation.workers])
            await victim.kill()
            await victim.start()
            await victim.ready()

    task = asyncio.create_task(strike())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_examples_give_the_same_whatever_is_killed(
    tmp_path: Path, postgres_dsn: str, kafka_bootstrap: str, topic_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LEDGER", str(tmp_path / "ledger.db"))
    expected = {one.name: one.expected for one in SCENARIOS}
    async with opened(tmp_path, postgres_dsn, kafka_bootstrap, topic_prefix) as installation:
        await installation.start(orchestrators=2, workers=2, app=APP)
        async with Client(api_url=installation.orchestrators[0].url) as client:
            assert await played(client, "peace") == expected
            async with killings(installation, seed=4):
                assert await played(client, "war") == expected
        await installation.check(app)
