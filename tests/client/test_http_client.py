"""The client on a whole installation, over the HTTP API; what both ways can do, also over Kafka alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from tests.e2e import shop
from tests.e2e.installation import Installation

from everstep import (
    Client,
    NotReachable,
    Rejected,
    RunAlreadyExists,
    RunCancelled,
    RunFailed,
    RunNotFound,
    RunTerminated,
)
from everstep.settings import Settings
from everstep_schemas import events

pytestmark = [pytest.mark.integration, pytest.mark.process]

SOON = timedelta(seconds=60)


@pytest.fixture
async def installation(
    tmp_path: Path, postgres_dsn: str, kafka_bootstrap: str, topic_prefix: str
) -> AsyncIterator[Installation]:
    settings = Settings(kafka_bootstrap=kafka_bootstrap, postgres_dsn=postgres_dsn, topic_prefix=topic_prefix)
    async with Installation(settings, tmp_path) as installation:
        await installation.start()
        yield installation


@pytest.fixture
async def client(installation: Installation) -> AsyncIterator[Client]:
    async with Client(settings=installation.settings, api_url=installation.orchestrators[0].url) as client:
        yield client


async def test_both_ways_do_the_same(installation: Installation, client: Client) -> None:
    for name, way in (("http", client), ("kafka", installation.client)):
        id = f"{name}/ä 1"
        run = await way.start(shop.wait_for_go, 7, id=id)
        with pytest.raises(RunAlreadyExists) as caught:
            await way.start(shop.wait_for_go, 7, id=id)
        assert caught.value.workflow_id == id
        with pytest.raises(TimeoutError, match="still running"):
            await run.result(timeout=timedelta(milliseconds=1))
        await run.signal(shop.go, {"by": name})
        assert await run.result(timeout=SOON) == {"by": name}
        failing = await way.start(shop.retried, 3, id=f"{id}/failing")
        with pytest.raises(RunFailed, match="attempt 3"):
            await failing.result(timeout=SOON)
        for end, error in (("cancel", RunCancelled), ("terminate", RunTerminated)):
            ending = await way.start(shop.wait_for_go, 7, id=f"{id}/{end}")
            await getattr(ending, end)("enough")
            with pytest.raises(error, match="enough"):
                await ending.result(timeout=SOON)


async def test_a_submission_id_starts_one_run_however_often_it_is_sent(
    installation: Installation, client: Client
) -> None:
    for way in (client, installation.client, client):
        run = await way.start(shop.wait_for_go, 1, id="a", submission_id="once")
        assert run.id == "a"
    existing = await installation.client.start(shop.wait_for_go, 1, id="a", on_duplicate="return_existing")
    await existing.signal(shop.go, {"x": 1})
    assert await existing.result(timeout=SOON) == {"x": 1}, "it still ran when it was found"
    another = await client.start(shop.wait_for_go, 1, id="a", on_duplicate="allow_closed")
    assert (await another.describe()).run == 2


async def test_runs_that_others_started(installation: Installation, client: Client) -> None:
    await installation.client.start(shop.wait_for_go, 1, id="a")
    run = client.run("a", of=shop.wait_for_go)
    await installation.until(lambda: _says(client, "waiting"), "the run to say that it waits")
    waiting = asyncio.create_task(run.result(timeout=SOON))
    await run.signal(shop.go, {"by": "another"})
    assert await waiting == {"by": "another"}
    description = await run.describe()
    assert (description.workflow, description.status, description.version) == ("wait_for_go", "completed", 1)
    history = [event async for event in run.history()]
    assert [event.seq for event in history] == list(range(1, len(history) + 1))
    assert isinstance(history[0].event, events.Started)
    assert isinstance(history[-1].event, events.Completed)


async def _says(client: Client, text: str) -> bool:
    return (await client.run("a").describe()).custom_status == text


async def test_who_waits_does_not_notice_that_an_orchestrator_dies(installation: Installation, client: Client) -> None:
    run = await client.start(shop.wait_for_go, 1, id="a")
    waiting = asyncio.create_task(run.result(timeout=SOON))
    await installation.until(lambda: _says(client, "waiting"), "the run to say that it waits")
    (orchestrator,) = installation.orchestrators
    await orchestrator.kill()
    await installation.client.run("a").signal(shop.go, {"x": 1})
    await orchestrator.start()
    assert await waiting == {"x": 1}


async def test_lists(client: Client) -> None:
    async with asyncio.TaskGroup() as starting:
        for i in range(5):
            starting.create_task(client.start(shop.wait_for_go, i, id=f"w-{i}"))
    done = await client.start(shop.retried, 0, id="r")
    assert await done.result(timeout=SOON) == 1

    async def ids(**wanted: object) -> set[str]:
        return {run.workflow_id async for run in client.list(**wanted)}  # type: ignore[arg-type]  # as given below

    assert await ids() == {"r", *(f"w-{i}" for i in range(5))}
    assert await ids(workflow="wait_for_go") == {f"w-{i}" for i in range(5)}
    assert await ids(status="completed") == {"r"}
    assert len(await ids(limit=3)) == 3


async def test_what_is_refused(client: Client) -> None:
    with pytest.raises(RunNotFound):
        await client.run("nobody").result()
    with pytest.raises(RunNotFound):
        await client.run("nobody").describe()
    with pytest.raises(RunNotFound):
        await client.run("nobody").signal("go")
    run = await client.start(shop.retried, 0, id="r")
    await run.result(timeout=SOON)
    with pytest.raises(Rejected, match="has ended"):
        await run.cancel()
    with pytest.raises(Rejected, match="EVERSTEP_MAX_PAYLOAD_BYTES"):
        await client.start("large", "x" * (2 << 20), id="large")


async def test_an_api_that_is_not_there(installation: Installation) -> None:
    settings = replace(installation.settings, api_url="http://127.0.0.1:1")
    async with Client(settings=settings) as client:
        with pytest.raises(NotReachable, match="EVERSTEP_API_URL"):
            await client.run("a").describe()
