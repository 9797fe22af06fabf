"""A workflow in Python calls activities in JavaScript."""

from __future__ import annotations

import asyncio
import os
from datetime import timedelta
from pathlib import Path

import pytest
from tests.conformance.flow import QUEUE
from tests.e2e.conftest import opened

pytestmark = [pytest.mark.integration, pytest.mark.process]


async def test_a_workflow_calls_activities_in_javascript(
    node_worker: list[str], tmp_path: Path, postgres_dsn: str, kafka_bootstrap: str, topic_prefix: str
) -> None:
    async with opened(tmp_path, postgres_dsn, kafka_bootstrap, topic_prefix) as installation:
        orchestrator = await installation.services.orchestrator("tests.conformance.flow:app")
        await orchestrator.ready()
        run = await installation.client.start("mixed", "Ann", id="order-17")  # its queue gets a topic when it is needed
        environment = {
            "EVERSTEP_KAFKA_BOOTSTRAP": kafka_bootstrap,
            "EVERSTEP_TOPIC_PREFIX": topic_prefix,
            "EVERSTEP_QUEUE": QUEUE,
        }
        worker = await asyncio.create_subprocess_exec(*node_worker, env=os.environ | environment)
        try:
            seen = await run.result(timeout=timedelta(seconds=60))
        finally:
            worker.terminate()
            await worker.wait()
        assert seen == [{"name": "Ann"}, [1, 2], "no credit", "cut short"]
        assert worker.returncode == 0
