# ruff: noqa: S608  # only the schema's name is put into SQL
"""Queries over real HTTP, on histories as an orchestrator writes them; Kafka is away and not needed."""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable, Iterable
from typing import Any

import httpx
import msgspec
import pytest
from tests.http import asked
from tests.http.conftest import SHARDS, START, Rows, asker
from tests.http.test_reading import problem

from everstep import App
from everstep._core.engine import HistoryRow, Identity, LiveRun
from everstep.lifecycle import LifecycleTail
from everstep.settings import Settings
from everstep.submissions import SubmissionProducer
from everstep_orchestrator.api import ApiDependencies, HttpServer
from everstep_orchestrator.api.peers import HANDED_ON
from everstep_schemas import events

pytestmark = pytest.mark.integration


async def counter(rows: Rows, workflow_id: str, *added: int, run: int = 1, **columns: Any) -> int:
    """A run of `asked.counter` that began with 5."""
    key = await rows.run(workflow_id, run, workflow="counter", **columns)
    seq = 1
    for row in asked.history(5, *added):
        await rows.history(key, seq, *row)
        seq += len(row)
    return key


async def test_open_and_closed_runs_answer(rows: Rows, reading_api: httpx.AsyncClient) -> None:
    await counter(rows, "a/b", 3, 0, status="completed", closed_at=START)
    await counter(rows, "a/b", 4, 2, run=2)
    response = await reading_api.get("/api/v1/runs/a%2Fb/queries/total")
    assert (response.status_code, response.headers["content-type"], response.content) == (
        200,
        "application/json",
        b"11",
    )
    assert (await reading_api.get("/api/v1/runs/a%2Fb/queries/total?run=1")).json() == 8
    assert (await reading_api.get("/api/v1/runs/a%2Fb/queries/plus?args=[1]")).json() == {"sum": 12}
    assert (await reading_api.get("/api/v1/runs/a%2Fb/queries/plus", params={"args": "[1, 2]"})).json() == {"sum": 14}
    assert (await reading_api.get("/api/v1/runs/a%2Fb/queries")).json() == {
        "workflow_id": "a/b",
        "run": 2,
        "queries": ["commands", "fails", "plus", "sleeps", "total"],
    }


async def test_asking_writes_nothing(rows: Rows, reading_api: httpx.AsyncClient) -> None:
    key = await counter(rows, "a", 3)
    for name in ("total", "commands", "nothing"):
        await reading_api.get(f"/api/v1/runs/a/queries/{name}")
    count = await rows.connection.fetchval(f'SELECT count(*) FROM "{rows.schema}".history WHERE run_key = $1', key)
    assert count == 2


@pytest.mark.parametrize(
    ("query", "status", "kind", "detail"),
    [
        ("nothing", 404, "no-such-query", "those it answers: 'commands', 'fails', 'plus', 'sleeps', 'total'"),
        ("fails", 422, "query-failed", "query 'fails' failed: ZeroDivisionError"),
        ("commands", 422, "query-failed", "it leaves no event, so it may only look"),
        ("sleeps", 422, "query-failed", "query 'sleeps' awaits something"),
        ("plus", 422, "query-failed", "missing 1 required positional argument"),
        ("plus?args={}", 422, "invalid", "args must be a JSON array"),
        ("plus?args=[", 422, "invalid", "args must be a JSON array"),
        ("total?run=7", 404, "no-such-run", "no run number 7"),
        ("total?arg=7", 422, "invalid", "'arg' is not known"),
    ],
)
async def test_what_has_no_answer(
    rows: Rows, reading_api: httpx.AsyncClient, query: str, status: int, kind: str, detail: str
) -> None:
    await counter(rows, "a", 3)
    body = problem(await reading_api.get(f"/api/v1/runs/a/queries/{query}"), status, kind)
    assert detail in body["detail"]
    if kind in ("no-such-query", "query-failed"):
        assert (body["workflow_id"], body["run"]) == ("a", 1)


async def test_an_id_without_a_run(reading_api: httpx.AsyncClient) -> None:
    for path in ("queries", "queries/total"):
        problem(await reading_api.get(f"/api/v1/runs/nobody/{path}"), 404, "no-such-run")


async def test_a_history_that_the_code_does_not_repeat(rows: Rows, reading_api: httpx.AsyncClient) -> None:
    key = await rows.run("a", workflow="counter")
    [[began, _]] = asked.history(5)
    await rows.history(key, 1, began, events.ActivityScheduled(name="pay", queue="default"))
    body = problem(await reading_api.get("/api/v1/runs/a/queries/total"), 409, "cannot-replay")
    assert (body["seq"], body["expected"]) == (2, "activity 'pay' on queue 'default'")
    assert body["got"].startswith("a wait for signal 'add' (at ")
    assert "Deploy code" in body["detail"]


async def test_a_run_that_broke_a_process_is_not_tried(rows: Rows, reading_api: httpx.AsyncClient) -> None:
    reason = msgspec.json.encode({"kind": "crashed", "message": "it crashed the orchestrator"})
    await counter(rows, "a", condition="stalled", reason=reason)
    body = problem(await reading_api.get("/api/v1/runs/a/queries/total"), 409, "cannot-replay")
    assert body["detail"] == "it crashed the orchestrator"


async def test_a_stalled_run_answers_once_its_code_fits(rows: Rows, reading_api: httpx.AsyncClient) -> None:
    reason = msgspec.json.encode({"kind": "nondeterminism", "message": "replay differs"})
    await counter(rows, "a", condition="stalled", reason=reason)
    assert (await reading_api.get("/api/v1/runs/a/queries/total")).json() == 5


async def test_a_run_that_has_not_begun(rows: Rows, reading_api: httpx.AsyncClient) -> None:
    await rows.run("a", workflow="counter", condition="held")
    body = problem(await reading_api.get("/api/v1/runs/a/queries/total"), 422, "query-failed")
    assert "has not begun" in body["detail"]


async def test_code_that_nobody_has(rows: Rows, reading_api: httpx.AsyncClient) -> None:
    await rows.run("a", workflow="unheard_of", version=3)
    await rows.run("b", workflow="unheard_of", version=0, condition="stalled")
    for id, which in (("a", "'unheard_of' version 3:"), ("b", "'unheard_of':")):
        response = await reading_api.get(f"/api/v1/runs/{id}/queries/total")
        assert f"no orchestrator has code for workflow {which} deploy it" in problem(response, 503, "no-code")["detail"]


# ---- code that is elsewhere


class Without:
    """An asker that has no code."""

    def __init__(self) -> None:
        self._asker = asker(App("empty"))

    def knows(self, workflow: str, version: int) -> bool:
        return self._asker.knows(workflow, version)

    async def ask(
        self, identity: Identity, pages: AsyncIterable[Iterable[HistoryRow]], question: Callable[[LiveRun], Any]
    ) -> Any:
        raise TimeoutError("it is late")


async def register(rows: Rows, id: str, address: str) -> None:
    """An orchestrator that says that it has the code."""
    await rows.connection.execute(
        f"""INSERT INTO "{rows.schema}".orchestrators (id, lock_key, lease_until, postmaster_started, address, host,
            pid, version, migration, workflows)
            VALUES ($1, hashtext($1), now() + interval '1 minute', now(), $2, 'h', 1, '0', 1, $3)""",
        id,
        address,
        msgspec.json.encode({"counter": [1]}),
    )


async def test_the_question_is_handed_on_to_who_has_the_code(
    rows: Rows, db_settings: Settings, reading_api: httpx.AsyncClient
) -> None:
    await counter(rows, "a/ b", 3)
    await register(rows, "has it", f"127.0.0.1:{reading_api.base_url.port}")
    await register(rows, "is dead", "127.0.0.1:1")
    tail = LifecycleTail(db_settings, SHARDS)
    server = HttpServer(db_settings, ApiDependencies(list, SubmissionProducer(db_settings), tail, Without()))
    address = await server.start()
    try:
        async with httpx.AsyncClient(base_url=f"http://{address}") as client:
            response = await client.get("/api/v1/runs/a%2F%20b/queries/plus?args=[1]&run=1")
            assert (response.status_code, response.json()) == (200, {"sum": 9})
            unknown = await client.get("/api/v1/runs/a%2F%20b/queries/nothing")
            assert "those it answers" in problem(unknown, 404, "no-such-query")["detail"]
            assert (await client.get("/api/v1/runs/a%2F%20b/queries")).json()["queries"][0] == "commands"
            twice = await client.get("/api/v1/runs/a%2F%20b/queries/total", headers={HANDED_ON: "1"})
            problem(twice, 503, "no-code")
    finally:
        await server.stop()


async def test_a_question_for_which_there_is_no_time(rows: Rows, db_settings: Settings) -> None:
    class Late(Without):
        def knows(self, workflow: str, version: int) -> bool:
            return True

    await counter(rows, "a")
    tail = LifecycleTail(db_settings, SHARDS)
    server = HttpServer(db_settings, ApiDependencies(list, SubmissionProducer(db_settings), tail, Late()))
    address = await server.start()
    try:
        async with httpx.AsyncClient(base_url=f"http://{address}") as client:
            response = await client.get("/api/v1/runs/a/queries/total")
            assert problem(response, 503, "busy")["detail"] == "it is late: ask again later"
            assert response.headers["retry-after"] == "1"
    finally:
        await server.stop()
