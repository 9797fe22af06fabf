"""Processes and servers die under load; looked at from outside, nothing is lost and nothing happens twice."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest
from tests.e2e import shop
from tests.e2e.conftest import opened
from tests.e2e.installation import Installation

from everstep import Run
from everstep.stack import Stack

pytestmark = [pytest.mark.integration, pytest.mark.process]

SOON = timedelta(seconds=90)


async def load(installation: Installation, count: int, name: str) -> list[Run[list[str]]]:
    return await asyncio.gather(*(installation.client.start(shop.three, i, id=f"{name}-{i}") for i in range(count)))


async def all_three_booked(installation: Installation, runs: list[Run[list[str]]], count: int) -> None:
    """Every run ended with its three bookings, each made once."""
    results = await asyncio.gather(*(run.result(timeout=SOON) for run in runs))
    assert all(len(result) == 3 for result in results)
    booked = await installation.sql.fetchval("SELECT count(*) FROM public.ledger")
    assert booked == 3 * count
    await installation.settled()
    await installation.check(shop.app)


async def test_an_orchestrator_and_a_worker_are_killed_under_load(installation: Installation) -> None:
    await installation.start(orchestrators=2, workers=2)
    runs = await load(installation, 300, "first")
    await installation.orchestrators[0].kill()
    await installation.workers[0].kill()
    runs += await load(installation, 300, "second")
    await installation.orchestrators[0].start()
    await installation.workers[0].start()
    runs += await load(installation, 300, "third")
    await all_three_booked(installation, runs, 900)


async def test_the_only_orchestrator_is_killed_again_and_again(installation: Installation) -> None:
    await installation.start(orchestrators=1, workers=1)
    runs: list[Run[list[str]]] = []
    for round in range(4):
        runs += await load(installation, 150, f"round-{round}")
        await installation.orchestrators[0].kill()
        await installation.orchestrators[0].start()
        await installation.orchestrators[0].ready()
    await all_three_booked(installation, runs, 600)


async def test_rolling_restart_repeats_and_loses_nothing(installation: Installation) -> None:
    """SIGTERM one after the other: shards are handed over, and no activity is attempted twice."""
    await installation.start(orchestrators=2, workers=1)
    runs = await load(installation, 200, "before")
    for orchestrator in installation.orchestrators:
        assert await orchestrator.terminate() == 0
        await orchestrator.start()
        await orchestrator.ready()
        runs += await load(installation, 200, f"after-{orchestrator.name}")
    await all_three_booked(installation, runs, 600)
    assert await installation.sql.fetchval("SELECT count(*) FROM public.attempts") == 1800


async def test_waiting_runs_survive_everything_of_ours_being_killed(installation: Installation) -> None:
    await installation.start(orchestrators=2, workers=1)
    runs = [await installation.client.start(shop.wait_for_go, i, id=f"waits-{i}") for i in range(50)]
    napping = await installation.client.start(shop.naps, 8.0, id="naps")

    async def waiting() -> bool:
        query = "SELECT count(*) FROM runs WHERE custom_status = 'waiting'"
        return bool(await installation.sql.fetchval(query) == 50)

    await installation.until(waiting, "all to wait")
    everything = (*installation.orchestrators, *installation.workers)
    for service in everything:
        await service.kill()
    await asyncio.gather(*(run.signal(shop.go, {"run": run.id}) for run in runs))
    for service in everything:
        await service.start()
    results = await asyncio.gather(*(run.result(timeout=SOON) for run in runs))
    assert results == [{"run": run.id} for run in runs]
    assert await napping.result(timeout=SOON) >= 8.0
    await installation.settled()
    await installation.check(shop.app)


async def test_a_changed_workflow_stalls_and_resumes_when_its_code_is_back(installation: Installation) -> None:
    await installation.start()
    run = await installation.client.start(shop.wait_for_go, 1, id="deployed")
    early = await installation.client.start("newcomer", "Ada", id="early")

    async def waiting() -> bool:
        row = await installation.row("deployed")
        return row is not None and row["custom_status"] == "waiting"

    await installation.until(waiting, "the run to wait")
    clocked = await installation.client.start(shop.asks_the_clock, id="clocked")
    await clocked.signal(shop.go, {"kept": True})
    reason = (await installation.condition("clocked", "stalled"))["reason"].decode()
    assert "time.time() is not possible within a workflow" in reason
    assert "shop.py:" in reason
    assert b"newcomer" in (await installation.condition("early", "stalled"))["reason"]
    assert await installation.orchestrators[0].terminate() == 0

    bad = await installation.services.orchestrator("tests.e2e.changed:app")
    changed = await installation.services.worker("tests.e2e.changed:app")
    await bad.ready()
    assert await early.result(timeout=SOON) == "hello Ada"
    assert await clocked.result(timeout=SOON) == "True {'kept': True}"
    await run.signal(shop.go, {"kept": True})
    stalled = await installation.condition("deployed", "stalled")
    reason = stalled["reason"].decode()
    assert "think" in reason
    assert "book" in reason
    assert await bad.terminate() == 0
    assert await changed.terminate() == 0

    await installation.orchestrators[0].start()
    assert await run.result(timeout=SOON) == {"kept": True}
    await installation.condition("deployed", None)


async def test_a_run_that_hangs_its_process_in_c_code_is_found(installation: Installation) -> None:
    """Nothing breaks C code: the process ends itself, and the second owner that dies of the run sets it aside."""
    await installation.start(orchestrators=1)
    orchestrator = installation.orchestrators[0]
    await installation.submit({"kind": "start", "workflow": "hangs_in_c", "workflow_id": "hangs", "args": []})
    for _ in range(2):
        assert await orchestrator.ended(seconds=60) != 0
        await orchestrator.start()
    row = await installation.condition("hangs", "stalled")
    assert b"crashed" in row["reason"]
    run = await installation.client.start(shop.threaded, 3, id="after-the-hang")
    assert await run.result(timeout=SOON) == 6


@pytest.mark.timeout(240)
@pytest.mark.parametrize("server", ["kafka", "postgres"])
async def test_a_server_is_away_for_half_a_minute(private_stack: Stack, tmp_path: Path, server: str) -> None:
    async with opened(tmp_path, private_stack.postgres_dsn, private_stack.kafka_bootstrap, "away") as installation:
        await installation.start(orchestrators=2, workers=1)
        runs = await load(installation, 100, "before")
        away = getattr(private_stack, server)
        await away.kill()
        # This is the length of the outage, not a wait for something.
        await asyncio.sleep(30)
        await away.start()
        runs += await load(installation, 100, "after")
        results = await asyncio.gather(*(run.result(timeout=SOON) for run in runs))
        assert all(len(result) == 3 for result in results)
        assert await installation.sql.fetchval("SELECT count(*) FROM public.ledger") == 600
        await installation.settled()
        await installation.check(shop.app)
        assert all(service.running for service in (*installation.orchestrators, *installation.workers))
