"""Commands that ask and tell runs, on a whole installation, by each of their two ways."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.e2e.installation import Installation

from everstep.settings import Settings

from .conftest import Everstep

pytestmark = [pytest.mark.integration, pytest.mark.process]

ENTRANCE = ["http", "direct"]


@pytest.fixture
async def installation(
    tmp_path: Path, postgres_dsn: str, kafka_bootstrap: str, topic_prefix: str, everstep: Everstep
) -> AsyncIterator[Installation]:
    settings = Settings(kafka_bootstrap=kafka_bootstrap, postgres_dsn=postgres_dsn, topic_prefix=topic_prefix)
    everstep.set(
        {
            "EVERSTEP_KAFKA_BOOTSTRAP": kafka_bootstrap,
            "EVERSTEP_POSTGRES_DSN": postgres_dsn,
            "EVERSTEP_TOPIC_PREFIX": topic_prefix,
        }
    )
    async with Installation(settings, tmp_path) as installation:
        await installation.start(app="tests.e2e.talking:app")
        yield installation


def enter(installation: Installation, everstep: Everstep, way: str) -> None:
    if way == "http":
        everstep.set({"EVERSTEP_API_URL": installation.orchestrators[0].url})


async def says(everstep: Everstep, id: str, text: str) -> bool:
    return text in (await everstep("describe", id)).out


@pytest.mark.parametrize("way", ENTRANCE)
async def test_updates_and_queries(installation: Installation, everstep: Everstep, way: str) -> None:
    enter(installation, everstep, way)
    await everstep("start", "account", "5", "--id", "a/b 1")
    done = await everstep("update", "a/b 1", "add", "2", "--update-id", "u1")
    assert (done.code, done.out, done.err) == (0, "7\n", "")
    assert (await everstep("update", "a/b 1", "add", "2", "--update-id", "u1")).out == "7\n"
    rejected = await everstep("update", "a/b 1", "add", "0")
    assert (rejected.code, rejected.out) == (1, "")
    assert rejected.err == "error: update 'add' of run 'a/b 1' was rejected: only numbers above 0\n"
    failed = await everstep("update", "a/b 1", "add", "13")
    assert (failed.code, failed.out) == (1, "")
    assert "unlucky" in failed.err
    missing = await everstep("update", "nobody", "add", "1")
    assert missing.code == 1
    assert "nobody" in missing.err
    await everstep("start", "account", "0", "30", "--id", "slow")
    late = await everstep("update", "slow", "add", "1", "--timeout", "2", "--update-id", "u9")
    assert (late.code, late.out) == (1, "")
    assert "has not answered after 2 s" in late.err
    assert "--update-id u9 asks for the answer again" in late.err
    await installation.until(lambda: says(everstep, "slow", "update add under way"), "the update to be shown")
    if way == "direct":
        return
    assert (await everstep("query", "a/b 1", "total")).out == "7\n"
    assert (await everstep("query", "a/b 1", "plus", "3", "--run", "1")).out == "10\n"
    assert (await everstep("query", "a/b 1")).out == "plus\ntotal\n"
    assert (await everstep("query", "a/b 1", "--json")).json == ["plus", "total"]
    unknown = await everstep("query", "a/b 1", "nothing")
    assert (unknown.code, unknown.out) == (1, "")
    assert "those it answers: 'plus', 'total'" in unknown.err


@pytest.mark.parametrize("way", ENTRANCE)
async def test_callbacks(installation: Installation, everstep: Everstep, way: str) -> None:
    enter(installation, everstep, way)
    for id in ("good", "bad"):
        await everstep("start", "approval", "--id", id)
    await installation.until(lambda: says(everstep, "bad", "callback 2 until"), "the callbacks to be waited for")
    tokens = {id: (await everstep("describe", id, "--json")).json["custom_status"] for id in ("good", "bad")}
    assert (await everstep("callback", "heartbeat", tokens["good"], '{"seen": true}')).code == 0
    done = await everstep(
        "callback", "complete", tokens["good"], '{"approved": true, "by": "Ada"}', "--submission-id", "s1"
    )
    assert (done.code, done.out, done.err) == (0, "", "")
    await everstep("signal", "good", "go", '""')
    assert (await everstep("result", "good")).json == {"approved": True, "by": "Ada"}
    assert (await everstep("callback", "fail", tokens["bad"], "nobody is there", "--type", "Away")).code == 0
    failed = await everstep("result", "bad")
    assert failed.code == 1
    assert "nobody is there" in failed.err
    told = (await everstep("history", "good")).out
    assert 'callback 2 completed with {"approved": true, "by": "Ada"}' in told
    assert tokens["good"] not in "".join(line for line in told.splitlines() if "status:" not in line)
    closed = await everstep("callback", "complete", tokens["good"], "1")
    if way == "http":
        assert closed.code == 1
        assert "its run has ended" in closed.err
        made_up = await everstep("callback", "complete", f"{tokens['bad'][:-1]}x", "1")
        assert "no callback has this token" in made_up.err
    else:
        assert closed.code == 0


@pytest.mark.parametrize("way", ENTRANCE)
async def test_starts_and_what_is_shown_of_them(installation: Installation, everstep: Everstep, way: str) -> None:
    enter(installation, everstep, way)
    options = ["--attribute", 'customer="C-9"', "--attribute", 'tags=["eu"]', "--memo", 'note={"x": 1}']
    started = await everstep("start", "account", "5", "--id", "a", *options, "--timeout", "3600")
    assert started.code == 0
    await everstep("start", "account", "--id", "later", "--start-at", "2999-01-31T18:00:00+01:00")
    await everstep("update", "a", "add", "2")
    described = (await everstep("describe", "a")).out
    for text in (
        'attribute  customer="C-9"',
        'attribute  tags=["eu"]',
        "attribute  balance=7",
        'memo       note={"x": 1}',
        "milestone  balance 7, ",
        "ends by    ",
        "waits for  signal go",
    ):
        assert text in described, described
    later = (await everstep("describe", "later")).out
    assert "begins     2999-01-31 17:00:00.000Z" in later
    assert "waits for  its beginning at 2999-01-31 17:00:00 UTC" in later
    listed = await everstep("list", "--attribute", 'customer="C-9"', "--attribute", "balance=7", "--json")
    assert [(run["workflow_id"], run["attributes"]["tags"]) for run in listed.json_lines] == [("a", ["eu"])]
    assert (await everstep("list", "--attribute", 'customer="C-8"')).out == ""
    ended = await everstep("start", "account", "5", "--id", "b", "--signal", 'go="enough"', "--wait")
    assert (ended.code, ended.out) == (0, "5\n")
    await everstep("start", "parent", "--id", "boss")
    await installation.until(lambda: says(everstep, "boss/child", "waits for  signal go"), "the child")
    assert "parent     boss, run 1" in (await everstep("describe", "boss/child")).out
    assert "waits for  child boss/child (account)" in (await everstep("describe", "boss")).out


@pytest.mark.parametrize("way", ENTRANCE)
async def test_results_of_runs_that_go_on_as_others(installation: Installation, everstep: Everstep, way: str) -> None:
    enter(installation, everstep, way)
    await everstep("start", "account", "5", "--id", "a")
    waiting = asyncio.create_task(everstep("result", "a"))
    await everstep("signal", "a", "go", '"again"')
    await installation.until(lambda: says(everstep, "a", "run        2"), "the next run")
    assert "goes on as  run 2" in (await everstep("describe", "a", "--run", "1")).out
    exactly = await everstep("result", "a", "--run", "1")
    assert (exactly.code, exactly.out, exactly.err) == (1, "", "error: run 'a' goes on as run 2\n")
    as_json = await everstep("result", "a", "--run", "1", "--json")
    assert as_json.json == {"workflow_id": "a", "run": 1, "status": "continued", "next_run": 2, "last_run": 2}
    await everstep("signal", "a", "go", '"enough"')
    assert (await waiting).out == "5\n"
    assert (await everstep("start", "flaky", "--id", "f", "--wait")).out == "3\n"
    first = await everstep("result", "f", "--run", "1")
    assert "goes on as run 2: " in first.err
    assert "attempt 1" in first.err
    limited = await everstep("start", "hurried", "--id", "h", "--wait")
    assert (limited.code, limited.err) == (1, "error: run 'h' has reached its timeout\n")


async def test_open_runs_are_replayed_with_the_code_that_is_to_come(
    installation: Installation, everstep: Everstep, tmp_path: Path
) -> None:
    for id in ("a", "b"):
        await everstep("start", "account", "5", "--id", id)
        await everstep("update", id, "add", "2")
    await everstep("start", "account", "--id", "ended", "--signal", 'go="enough"', "--wait")
    fine = await everstep("replay", "tests.e2e.talking:app", "--all-open")
    assert (fine.code, fine.out, fine.err) == (0, "replayed 2 runs\n", "")
    other = await everstep("replay", "tests.e2e.shop:app", "--all-open", "--json")
    assert (other.code, other.json["replayed"]) == (1, 2)
    assert {found["kind"] for found in other.json["differs"]} == {"unknown_workflow"}
    assert (
        await everstep("replay", "tests.e2e.shop:app", "--all-open", "--workflow", "order")
    ).out == "replayed 0 runs\n"
    lines = "".join([(await everstep("history", id, "--json")).out for id in ("a", "ended", "b")])
    (tmp_path / "histories.jsonl").write_text(lines)
    for service in (*installation.orchestrators, *installation.workers):
        await service.kill()
    everstep.environment = {k: v for k, v in everstep.environment.items() if not k.startswith("EVERSTEP_")}
    exported = await everstep("replay", "tests.e2e.talking:app", "--from", str(tmp_path / "histories.jsonl"))
    assert (exported.code, exported.out) == (0, "replayed 3 runs\n")
