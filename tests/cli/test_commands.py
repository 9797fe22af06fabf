"""Commands on a whole installation, by each of their two ways: the HTTP API, and Kafka with Postgres."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.e2e.installation import Installation

from everstep.settings import Settings

from .conftest import Everstep

pytestmark = [pytest.mark.integration, pytest.mark.process]


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
        yield installation


@pytest.mark.parametrize("way", ["http", "direct"])
async def test_the_life_of_runs(installation: Installation, everstep: Everstep, way: str) -> None:
    await installation.start()
    if way == "http":
        everstep.set({"EVERSTEP_API_URL": installation.orchestrators[0].url})
    started = await everstep("start", "wait_for_go", "1", "--id", "a/b 1")
    assert (started.code, started.out, started.err) == (0, "a/b 1\n", "")
    again = await everstep("start", "wait_for_go", "1", "--id", "a/b 1")
    assert again.code == 1
    assert again.err.startswith("error: duplicate: run 1 of 'a/b 1' exists (running)")

    still = await everstep("result", "a/b 1", "--timeout", "0.1")
    assert (still.code, still.err) == (1, "error: run 'a/b 1' is still running after 0.1 s\n")
    waiting = asyncio.create_task(everstep("result", "a/b 1"))
    assert (await everstep("signal", "a/b 1", "go", '{"by": "cli"}')).code == 0
    assert (await waiting).out == '{"by":"cli"}\n'
    assert (await everstep("result", "a/b 1", "--json")).json["value"] == {"by": "cli"}

    described = (await everstep("show", "a/b 1")).out
    assert "wait_for_go version 1" in described
    assert "completed" in described
    assert 'returned   {"by":"cli"}' in described
    other = await everstep("describe", "a/b 1", "--run", "2")
    assert other.code == 1
    assert "'a/b 1'" in other.err
    assert "no run number 2" in other.err
    told = (await everstep("history", "a/b 1")).out.splitlines()
    assert told[0].endswith("wait_for_go (version 1) started with 1")
    assert told[-1].endswith('completed with {"by":"cli"}')
    events = (await everstep("history", "a/b 1", "--json")).json_lines
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))

    failed = await everstep("start", "gives_up_at_once", "--id", "bad", "--wait")
    assert (failed.code, failed.out) == (1, "")
    assert "never again" in failed.err
    assert "never again" in (await everstep("describe", "bad")).out
    assert (await everstep("start", "retried", "0", "--wait", "--json")).json["value"] == 1
    listed = (await everstep("list", "--json")).json_lines
    assert [run["workflow"] for run in listed] == ["retried", "gives_up_at_once", "wait_for_go"]
    assert [run["workflow_id"] for run in (await everstep("list", "--status", "failed", "--json")).json_lines] == [
        "bad"
    ]
    assert (await everstep("list", "--workflow", "wait_for_go", "--limit", "1")).out.split("\t")[0] == "a/b 1"


@pytest.mark.parametrize("way", ["http", "direct"])
async def test_ending_a_run(installation: Installation, everstep: Everstep, way: str) -> None:
    await installation.start()
    if way == "http":
        everstep.set({"EVERSTEP_API_URL": installation.orchestrators[0].url})
    for id, verb, said in (("c", "cancel", "cancelled"), ("t", "terminate", "terminated")):
        await everstep("start", "wait_for_go", "1", "--id", id)
        assert (await everstep(verb, id, "--reason", "enough")).code == 0
        ended = await everstep("result", id)
        assert (ended.code, ended.err) == (1, f"error: run '{id}' was {said}: enough\n")
        assert (await everstep("result", id, "--json")).json["status"] == said
        assert "reason     enough" in (await everstep("describe", id)).out
    for command in ("describe", "history", "result"):
        missing = await everstep(command, "nobody")
        assert missing.code == 1
        assert "nobody" in missing.err


async def test_what_a_run_waits_for(installation: Installation, everstep: Everstep) -> None:
    await installation.start()
    await everstep("start", "wait_for_go", "1", "--id", "a")
    await installation.until(lambda: _says(everstep, "signal go"), "the run to wait for its signal")
    await everstep("start", "unheard_of", "--id", "b")
    described = (await everstep("describe", "b")).out
    assert "stalled" in described
    assert "no orchestrator has code for workflow 'unheard_of'" in described


@pytest.mark.parametrize("command", [["start", "unheard_of", "--id", "a b", "--wait"], ["result", "a b"]])
async def test_who_waits_for_long_is_told_where_to_look(
    installation: Installation, everstep: Everstep, command: list[str]
) -> None:
    await installation.start()
    await everstep("start", "unheard_of", "--id", "a b", "--submission-id", "one")
    process = await everstep.begin(*command, *(["--submission-id", "one"] if "start" in command else []))
    try:
        assert process.stderr is not None
        assert (await process.stderr.readline()) == b"still waiting; `everstep describe 'a b'` tells what for\n"
    finally:
        process.terminate()
        await process.wait()


async def _says(everstep: Everstep, text: str) -> bool:
    return text in (await everstep("describe", "a")).out


async def test_reading_needs_no_orchestrator(installation: Installation, everstep: Everstep) -> None:
    await installation.start()
    await everstep("start", "retried", "0", "--id", "a", "--wait")
    for service in (*installation.orchestrators, *installation.workers):
        await service.kill()
    assert (await everstep("result", "a")).out == "1\n"
    assert len((await everstep("list")).out.splitlines()) == 1
    assert (await everstep("history", "a")).code == 0


async def test_a_start_that_nobody_answers_says_so(installation: Installation, everstep: Everstep) -> None:
    process = await everstep.begin("start", "retried", "0", "--id", "a")
    assert process.stderr is not None
    assert b"no orchestrator has answered yet" in await process.stderr.readline()
    await installation.start()
    assert await process.wait() == 0


async def test_dead_letters(installation: Installation, everstep: Everstep) -> None:
    assert (await everstep("dlq", "list")).out == ""
    await installation.start()
    await installation.submit(b"\x1b[31mnot JSON\xff")
    await installation.submit({"kind": "start", "workflow_id": "a"})
    await installation.dead_letter(b'{"kind": "start", "workflow_id": "a"}')
    listed = (await everstep("dlq", "list", "--json")).json_lines
    assert sorted(letter["reason"] for letter in listed) == ["invalid", "not_json"]
    assert {letter["topic"] for letter in listed} == {installation.topics.submissions}
    number = next(str(letter["number"]) for letter in listed if letter["reason"] == "not_json")
    shown = await everstep("dlq", "show", number)
    assert "\\x1b[31mnot JSON\\xff" in shown.out
    assert "not_json" in shown.out
    assert (await everstep("dlq", "show", number, "--json")).json["value"] == "\\x1b[31mnot JSON\\xff"
    assert len((await everstep("dlq", "list", "--limit", "1")).out.splitlines()) == 1
    missing = await everstep("dlq", "show", "99")
    assert (missing.code, missing.out) == (1, "")


async def test_migrate_and_check_config(
    postgres_dsn: str, kafka_bootstrap: str, topic_prefix: str, everstep: Everstep
) -> None:
    everstep.set(
        {
            "EVERSTEP_KAFKA_BOOTSTRAP": kafka_bootstrap,
            "EVERSTEP_POSTGRES_DSN": postgres_dsn,
            "EVERSTEP_TOPIC_PREFIX": topic_prefix,
            "EVERSTEP_SHARDS": "3",
        }
    )
    before = await everstep("check-config", "--json")
    assert before.code == 2
    assert all("everstep migrate" in check["text"] for check in before.json["checks"])
    for command in (["list"], ["dlq", "list"]):
        early = await everstep(*command)
        assert (early.code, early.out) == (2, "")
        assert "everstep migrate" in early.err
    unsent = await everstep("start", "w")
    assert unsent.code == 3
    assert f"knows no topic {topic_prefix}.submissions" in unsent.err
    first = await everstep("migrate", "--queue", "mail")
    assert first.code == 0
    assert f"created topic {topic_prefix}.activities.mail" in first.out
    assert (await everstep("migrate")).out == "nothing to do\n"
    after = await everstep("check-config", "--json")
    assert after.code == 0
    assert [check["text"].rpartition(", ")[2] for check in after.json["checks"]] == [
        "3 shards",
        "all there; queues: mail",
    ]
    everstep.set({"EVERSTEP_SHARDS": "4"})
    assert (await everstep("migrate")).code == 2
