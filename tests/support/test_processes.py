"""The helpers for process tests do what they say, on the real services."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from tests.support.processes import Services

from everstep.admin import database, topics
from everstep.settings import Settings

pytestmark = [pytest.mark.integration, pytest.mark.process]

APP = "tests.support.greeting:app"


@pytest.fixture
async def services(
    tmp_path: Path, postgres_dsn: str, kafka_bootstrap: str, topic_prefix: str
) -> AsyncIterator[Services]:
    settings = Settings(kafka_bootstrap=kafka_bootstrap, postgres_dsn=postgres_dsn, topic_prefix=topic_prefix)
    await database.migrate(postgres_dsn, settings.postgres_schema, 2)
    await topics.create(settings, 2)
    environment = {
        "EVERSTEP_KAFKA_BOOTSTRAP": kafka_bootstrap,
        "EVERSTEP_POSTGRES_DSN": postgres_dsn,
        "EVERSTEP_TOPIC_PREFIX": topic_prefix,
    }
    async with Services(tmp_path, environment) as services:
        yield services


async def test_services_run_are_killed_and_run_again(services: Services) -> None:
    orchestrator, worker = await asyncio.gather(services.orchestrator(APP), services.worker(APP))
    await asyncio.gather(orchestrator.ready(), worker.ready())
    await orchestrator.kill()
    assert orchestrator.process.returncode == -signal.SIGKILL
    await orchestrator.start()
    await orchestrator.ready()

    async with httpx.AsyncClient(base_url=orchestrator.url, timeout=60) as api:
        start = {"workflow": "greet", "workflow_id": "a/1", "args": ["Ada"]}
        started = await api.post("/api/v1/runs", json=start, params={"wait": "30s"})
        assert started.status_code == 201, started.text + orchestrator.log_tail()
        ended = await api.get("/api/v1/runs/a%2F1/result", params={"wait": "30s"})
        assert ended.json().get("value") == "Hello, Ada", ended.text + worker.log_tail()

    assert await worker.terminate() == 0
    assert await orchestrator.terminate() == 0
    assert (await orchestrator.logged("ready"))["api"] == orchestrator.address
    assert [line["event"] for line in orchestrator.log_lines()].count("ready") == 2


async def test_a_service_that_cannot_start_fails_the_test_with_its_log(services: Services) -> None:
    orchestrator = await services.orchestrator("tests.support.greeting:nothing")
    with pytest.raises(AssertionError, match=r"(?s)orchestrator-0 ended with 2\..*nothing"):
        await orchestrator.ready()


async def test_no_process_outlives_the_services(tmp_path: Path) -> None:
    environment = {"EVERSTEP_KAFKA_BOOTSTRAP": "127.0.0.1:1", "EVERSTEP_POSTGRES_DSN": "postgresql://u@127.0.0.1:1/x"}
    async with Services(tmp_path, environment) as services:
        worker = await services.worker(APP)
        pid = worker.process.pid
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
