"""The client on a whole installation, over the HTTP API; what both ways can do, also over Kafka alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest
from tests.e2e import shop, talking
from tests.e2e.installation import Installation

from everstep import (
    AttributeValue,
    CallbackClosed,
    Client,
    NotReachable,
    QueryError,
    Rejected,
    RunAlreadyExists,
    RunCancelled,
    RunFailed,
    RunNotFound,
    RunTerminated,
    RunTimedOut,
    UpdateFailed,
    UpdateRejected,
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
async def talking_installation(
    tmp_path: Path, postgres_dsn: str, kafka_bootstrap: str, topic_prefix: str
) -> AsyncIterator[Installation]:
    settings = Settings(kafka_bootstrap=kafka_bootstrap, postgres_dsn=postgres_dsn, topic_prefix=topic_prefix)
    async with Installation(settings, tmp_path) as installation:
        await installation.start(app="tests.e2e.talking:app")
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


async def test_both_ways_ask_and_tell(talking_installation: Installation) -> None:
    settings, url = talking_installation.settings, talking_installation.orchestrators[0].url
    async with Client(settings=settings, api_url=url) as http:
        for name, way in (("http", http), ("kafka", talking_installation.client)):
            run = await way.start(talking.account, 5, id=name)
            assert await run.update(talking.add, 2, update_id="u1") == 7
            assert await run.update(talking.add, 2, update_id="u1", timeout=SOON) == 7
            with pytest.raises(UpdateRejected, match="only numbers above 0"):
                await run.update(talking.add, 0)
            with pytest.raises(UpdateRejected, match="takes no update 'nothing'; those it takes: 'add'"):
                await run.update("nothing", 0)
            with pytest.raises(UpdateFailed, match="unlucky") as caught:
                await run.update(talking.add, 13)
            assert caught.value.type.endswith("Refused")
            assert await http.run(name).query(talking.total) == 7
            with pytest.raises(RunNotFound):
                await way.run("nobody").update(talking.add, 1)
            await run.signal(talking.go, "enough")
            assert await run.result(timeout=SOON) == 7
            with pytest.raises(Rejected, match="has ended"):
                await run.update(talking.add, 1)
            # Over Kafka alone nobody can look into a history.
            if way is http:
                assert await run.update(talking.add, 2, update_id="u1") == 7
            limited = await way.start(talking.hurried, id=f"{name}-hurried")
            with pytest.raises(RunTimedOut, match="has reached its timeout"):
                await limited.result(timeout=SOON)
            assert await (await way.start(talking.flaky, id=f"{name}-flaky")).result(timeout=SOON) == 3


async def test_queries(talking_installation: Installation) -> None:
    async with Client(settings=talking_installation.settings, api_url=_url(talking_installation)) as client:
        run = await client.start(talking.account, 5, id="a")
        assert await run.query(talking.total) == 5
        assert await run.query("plus", 3) == 8
        assert await run.query("plus", 3, returns=float) == 8.0
        with pytest.raises(QueryError, match="those it answers: 'plus', 'total'"):
            await run.query("nothing")
        with pytest.raises(QueryError, match="missing 1 required positional argument"):
            await run.query("plus")
        with pytest.raises(RunNotFound):
            await client.run("nobody").query("total")
        lost = await client.start("unheard_of", id="lost")
        with pytest.raises(QueryError, match="no orchestrator has code for workflow 'unheard_of'"):
            await lost.query("total")


async def test_callbacks(talking_installation: Installation) -> None:
    settings, url = talking_installation.settings, _url(talking_installation)
    async with Client(settings=settings, api_url=url) as http:
        for name, way in (("http", http), ("kafka", talking_installation.client)):
            run = await way.start(talking.approval, id=name)
            await talking_installation.until(partial(_token, http, name), "the callback")
            callback = way.callback(await _token(http, name))
            await callback.heartbeat({"seen": True})
            await callback.complete(talking.Verdict(True, "Ada"), submission_id="s1")
            await callback.complete(talking.Verdict(True, "Ada"), submission_id="s1")
            await run.signal(talking.go, "")
            assert await run.result(timeout=SOON) == talking.Verdict(True, "Ada")
        again = http.callback(await _token(http, "http"))
        await again.complete(talking.Verdict(True, "Ada"), submission_id="s1")
        with pytest.raises(CallbackClosed, match="its run has ended"):
            await again.fail("too late")
        with pytest.raises(CallbackClosed):
            await again.heartbeat()
        with pytest.raises(Rejected, match="no callback has this token"):
            await http.callback("0.1.2.0.made-up").complete()
        other = await http.start(talking.approval, id="other")
        await talking_installation.until(partial(_token, http, "other"), "the callback")
        third = http.callback(await _token(http, "other"))
        with pytest.raises(Rejected, match="the value does not fit"):
            await third.complete("yes")
        await third.fail("nobody is there", type="Away")
        with pytest.raises(RunFailed, match="nobody is there"):
            await other.result(timeout=SOON)


async def _token(client: Client, id: str) -> str:
    return (await client.run(id).describe()).custom_status or ""


def _url(installation: Installation) -> str:
    return installation.orchestrators[0].url


async def test_starts_and_what_is_shown_of_them(talking_installation: Installation) -> None:
    later = datetime.now(UTC) + timedelta(days=1)
    settings, url = talking_installation.settings, _url(talking_installation)
    async with Client(settings=settings, api_url=url) as http:
        for name, way in (("http", http), ("kafka", talking_installation.client)):
            first = await way.start(
                talking.account,
                1,
                id=name,
                attributes={"customer": name, "due": later, "tags": ["eu", "new"]},
                memo={"note": [1.5]},
                timeout=timedelta(hours=1),
                with_signal=(talking.go, "enough"),
            )
            assert await first.result(timeout=SOON) == 1, "the signal has come with the start"
            waiting = await way.start(talking.account, 1, id=f"{name}-later", start_at=later, attributes={"n": 1})
            described = await http.run(waiting.id).describe()
            assert (described.begins_at, described.status) == (later, "running")
            shown = await http.run(name).describe()
            assert shown.attributes["tags"] == ["eu", "new"]
            assert {name: bytes(value) for name, value in shown.memo.items()} == {"note": b"[1.5]"}
            assert shown.expires_at is not None

        async def ids(**attributes: AttributeValue) -> set[str]:
            return {run.workflow_id async for run in http.list(attributes=attributes)}

        assert await ids(customer="http") == {"http"}
        assert await ids(due=later, tags=["new"]) == {"http", "kafka"}
        assert await ids(n=1) == {"http-later", "kafka-later"}
        boss = await http.start(talking.parent, id="boss")
        await talking_installation.until(partial(_parent_of, http, "boss/child"), "the child")
        await http.run("boss/child").signal(talking.go, "enough")
        assert await boss.result(timeout=SOON) == 7


async def _parent_of(client: Client, id: str) -> bool:
    try:
        parent = (await client.run(id).describe()).parent
    except RunNotFound:
        return False
    return parent is not None and parent.workflow_id == "boss"


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
