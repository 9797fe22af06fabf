"""An installation per test on the session's Kafka."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from tests.worker import flow
from tests.worker.kit import Orchestrator, installation, settings_of
from tests.worker.processes import Workers

from everstep.settings import Settings


@pytest.fixture
def settings(kafka_bootstrap: str, topic_prefix: str) -> Settings:
    return settings_of(kafka_bootstrap, topic_prefix)


@pytest.fixture
async def orchestrator(settings: Settings) -> AsyncIterator[Orchestrator]:
    async with installation(settings, "default", "other") as opened:
        yield opened


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[flow.World]:
    """What the activities of workers in this process share with the test."""
    fresh = flow.World()
    monkeypatch.setattr(flow, "world", fresh)
    yield fresh
    fresh.gate.set()
    fresh.opening.set()


@pytest.fixture
async def workers(orchestrator: Orchestrator, tmp_path: Path) -> AsyncIterator[Workers]:
    async with AsyncExitStack() as exits:
        yield Workers(orchestrator, tmp_path, exits)
