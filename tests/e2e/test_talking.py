"""Runs are asked and told things from outside, whoever owns them, and whatever happens meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.e2e import talking
from tests.e2e.installation import SHARDS, Installation
from tests.support.processes import Service

from everstep.settings import Settings
from everstep_schemas.names import shard_of

pytestmark = [pytest.mark.integration, pytest.mark.process]

TALKING = "tests.e2e.talking:app"


@pytest.fixture
async def installed(
    tmp_path: Path, postgres_dsn: str, kafka_bootstrap: str, topic_prefix: str
) -> AsyncIterator[Installation]:
    """Two orchestrators that share the shards and keep one run in memory each, and a worker."""
    settings = Settings(
        kafka_bootstrap=kafka_bootstrap, postgres_dsn=postgres_dsn, topic_prefix=topic_prefix, shards=SHARDS
    )
    async with Installation(settings, tmp_path, cache_runs=1) as installation:
        await installation.start(orchestrators=2, workers=1, app=TALKING)

        async def shared() -> bool:
            owners = await installation.sql.fetch("SELECT DISTINCT owner FROM shards")
            return len(owners) == 2 and None not in {row[0] for row in owners}

        await installation.until(shared, "both to own shards")
        yield installation


async def owner_of(installation: Installation, workflow_id: str) -> tuple[Service, Service]:
    """The orchestrator that owns a run, and the other one."""
    shards = await installation.sql.fetchval("SELECT count(*) FROM shards")
    address = await installation.sql.fetchval(
        "SELECT o.address FROM shards s JOIN orchestrators o ON o.id = s.owner WHERE s.shard = $1",
        shard_of(workflow_id, shards),
    )
    one, two = installation.orchestrators
    return (one, two) if one.address == address else (two, one)


async def happened(installation: Installation, workflow_id: str, kind: str, count: int = 1) -> None:
    async def ask() -> bool:
        kinds = [event["kind"] for event in await installation.events(workflow_id)]
        return kinds.count(kind) >= count

    await installation.until(ask, f"{kind} in the history of {workflow_id}")


def api(service: Service) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=f"{service.url}/api/v1", timeout=90)


async def asked(service: Service, path: str) -> Any:
    async with api(service) as http:
        response = await http.get(path)
        assert response.status_code == 200, response.text
        return response.json()


async def told(service: Service, path: str, body: dict[str, Any]) -> httpx.Response:
    async with api(service) as http:
        return await http.post(path, params={"wait": "60s"}, json=body)


async def test_any_orchestrator_answers_for_any_run(installed: Installation) -> None:
    client = installed.client
    ids = [f"account-{number}" for number in range(6)]
    runs = [await client.start(talking.account, number, id=id) for number, id in enumerate(ids)]
    for number, id in enumerate(ids):
        for service in await owner_of(installed, id):
            assert await asked(service, f"/runs/{id}/queries/total") == number
            assert await asked(service, f"/runs/{id}/queries/plus?args=[100]") == number + 100
    before = await installed.sql.fetchval("SELECT count(*) FROM history")
    assert before == len(ids), "asking has written nothing"
    for number, run in enumerate(runs):
        assert await run.update(talking.add, 10) == number + 10
        await run.signal(talking.go, "enough")
        await run.result()
    for number, id in enumerate(ids):
        for service in installed.orchestrators:
            assert await asked(service, f"/runs/{id}/queries/total") == number + 10
    await installed.check(talking.app)


async def test_an_update_survives_its_orchestrator(installed: Installation) -> None:
    """The owner is killed while the run carries the update out; who asked another orchestrator notices nothing."""
    await installed.client.start(talking.account, 5, 3.0, id="a")
    owner, other = await owner_of(installed, "a")
    asking = asyncio.create_task(told(other, "/runs/a/updates/add", {"value": 2, "update_id": "u1"}))
    await happened(installed, "a", "update_requested")
    await owner.kill()
    again = asyncio.create_task(told(other, "/runs/a/updates/add", {"value": 2, "update_id": "u1"}))
    for response in await asyncio.gather(asking, again):
        assert (response.status_code, response.json()["value"]) == (200, 7)
    assert await asked(other, "/runs/a/queries/total") == 7
    late = await told(other, "/runs/a/updates/add", {"value": 2, "update_id": "u1"})
    assert (late.status_code, late.json()["value"]) == (200, 7)
    kinds = [event["kind"] for event in await installed.events("a")]
    assert (kinds.count("update_requested"), kinds.count("update_completed")) == (1, 1)
    await installed.settled()
    await installed.check(talking.app)


async def test_an_update_that_was_in_nobodys_hands_is_answered_by_who_comes(installed: Installation) -> None:
    await installed.client.start(talking.account, 5, id="a")
    await happened(installed, "a", "signal_awaited")
    for service in installed.orchestrators:
        await service.kill()
    update = {"kind": "update", "workflow_id": "a", "name": "add", "value": 2, "update_id": "u1"}
    await installed.submit(update)
    first, _ = installed.orchestrators
    await first.start()
    await first.ready()
    response = await told(first, "/runs/a/updates/add", {"value": 2, "update_id": "u1"})
    assert (response.status_code, response.json()["value"]) == (200, 7)
    kinds = [event["kind"] for event in await installed.events("a")]
    assert kinds.count("update_requested") == 1


async def test_an_update_is_answered_also_by_the_runs_that_came_after(installed: Installation) -> None:
    run = await installed.client.start(talking.account, 5, id="a")
    one, two = installed.orchestrators
    assert (await told(one, "/runs/a/updates/add", {"value": 2, "update_id": "u1"})).json()["value"] == 7
    failed = await told(one, "/runs/a/updates/add", {"value": 13, "update_id": "u2"})
    assert (failed.status_code, failed.json()["error"]["message"]) == (422, "unlucky")
    await run.signal(talking.go, "again")

    async def follows() -> bool:
        row = await installed.row("a")
        return row is not None and row["run"] == 2

    await installed.until(follows, "the next run")
    for ended in (False, True):
        if ended:
            await run.signal(talking.go, "enough")
            assert await run.result() == 7
        for service in (one, two):
            again = await told(service, "/runs/a/updates/add", {"value": 2, "update_id": "u1"})
            assert (again.status_code, again.json()["value"], again.json()["run"]) == (200, 7, 1)
            failed = await told(service, "/runs/a/updates/add", {"value": 13, "update_id": "u2"})
            assert (failed.status_code, failed.json()["error"]["message"]) == (422, "unlucky")
    never = await told(one, "/runs/a/updates/add", {"value": 1, "update_id": "u3"})
    assert (never.status_code, never.json()["type"]) == (409, "urn:everstep:problem:run-closed")


async def test_a_callback_survives_its_orchestrator_and_is_settled_once(installed: Installation) -> None:
    run = await installed.client.start(talking.approval, id="a")
    await happened(installed, "a", "callback_created")
    owner, other = await owner_of(installed, "a")
    row = await installed.row("a")
    assert row is not None
    path = f"/callbacks/{row['custom_status']}"
    wrong = await told(other, f"{path}/complete", {"value": {"approved": "maybe"}})
    assert wrong.status_code == 422
    assert "$.approved" in wrong.json()["detail"]
    await owner.kill()
    value = {"approved": True, "by": "Ada"}
    first = await told(other, f"{path}/complete", {"value": value, "submission_id": "s1"})
    again = await told(other, f"{path}/complete", {"value": value, "submission_id": "s1"})
    assert (first.status_code, again.status_code) == (200, 200)
    second = await told(other, f"{path}/fail", {"message": "no", "submission_id": "s2"})
    assert (second.status_code, second.json()["type"]) == (409, "urn:everstep:problem:callback-closed")
    await run.signal(talking.go, "")
    assert await run.result() == talking.Verdict(approved=True, by="Ada")
    assert (await told(other, f"{path}/complete", {"value": value, "submission_id": "s1"})).status_code == 200
    await installed.settled()
    await installed.check(talking.app)


async def test_code_that_only_another_orchestrator_has(installed: Installation) -> None:
    """During an upgrade, whoever is asked hands the question on."""
    await installed.client.start(talking.account, 5, id="a")
    shop = await installed.services.orchestrator("tests.e2e.shop:app")
    await shop.ready()
    assert await asked(shop, "/runs/a/queries/total") == 5
    assert "total" in (await asked(shop, "/runs/a/queries"))["queries"]
    for service in installed.orchestrators:
        await service.kill()
        await service.ended()

    async def gone() -> bool:
        async with api(shop) as http:
            response = await http.get("/runs/a/queries/total")
        return response.status_code == 503 and response.json()["type"].endswith("no-code")

    await installed.until(gone, "the others' leases to pass")
