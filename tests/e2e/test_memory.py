"""Runs that do not fit into memory are put aside and replayed when they are needed; nobody notices."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from tests.e2e import shop
from tests.e2e.installation import SHOP, Installation

from everstep import RunCancelled

pytestmark = [pytest.mark.integration, pytest.mark.process]

SOON = timedelta(seconds=60)
RUNS = 60


async def test_more_waiting_runs_than_fit_into_memory(installation: Installation) -> None:
    """A run that was put aside goes on, cleans up when cancelled, and its `finally` never acts by being put aside."""
    installation.orchestrators = [await installation.services.orchestrator(SHOP, cache_runs=5)]
    installation.workers = [await installation.services.worker(SHOP)]
    await asyncio.gather(*(service.ready() for service in (*installation.orchestrators, *installation.workers)))
    runs = [await installation.client.start(shop.wait_for_go, i, id=f"aside-{i}") for i in range(RUNS)]

    async def all_wait() -> bool:
        query = "SELECT count(*) FROM runs WHERE custom_status = 'waiting'"
        return bool(await installation.sql.fetchval(query) == RUNS)

    await installation.until(all_wait, "all to wait")
    assert await installation.counter("everstep_cached_runs") < RUNS
    refunds = "SELECT count(*) FROM public.ledger WHERE what LIKE '%refund'"
    assert await installation.sql.fetchval(refunds) == 0

    await runs[0].cancel()
    await asyncio.gather(*(run.signal(shop.go, {"run": run.id}) for run in runs[1:]))
    results = await asyncio.gather(*(run.result(timeout=SOON) for run in runs[1:]))
    assert results == [{"run": run.id} for run in runs[1:]]
    with pytest.raises(RunCancelled):
        await runs[0].result(timeout=SOON)
    assert await installation.sql.fetchval(refunds) == 1
    assert await installation.counter("everstep_replay_duration_seconds_count") > 0
    await installation.settled()
    await installation.check(shop.app)
