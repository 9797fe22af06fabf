"""Every example in the test kit: what it gives, and that each of its runs replays after every event."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pytest
from tests.examples.scenarios import SCENARIOS, Scenario, app

from everstep import Client, seconds
from everstep.testing import WorkflowEnvironment

T = TypeVar("T")


@dataclass
class Kit:
    env: WorkflowEnvironment

    @property
    def client(self) -> Client:
        return self.env.client

    async def until(self, ask: Callable[[], Awaitable[T]]) -> T:
        for _ in range(1000):
            await self.env.settle()
            if answer := await ask():
                return answer
            await self.env.skip(seconds(0.1))
        raise AssertionError("it never came true")

    async def surely(self, call: Callable[[], Awaitable[T]]) -> T:
        return await call()


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
async def test_gives_what_it_should(scenario: Scenario, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEDGER", str(tmp_path / "ledger.db"))
    async with WorkflowEnvironment(app) as env:
        assert await scenario.play(Kit(env), "x") == scenario.expected


async def test_plays_every_workflow_of_every_example(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LEDGER", str(tmp_path / "ledger.db"))
    async with WorkflowEnvironment(app) as env:
        for scenario in SCENARIOS:
            await scenario.play(Kit(env), scenario.name)
        assert {run.workflow async for run in env.client.list()} == set(app.workflows)
