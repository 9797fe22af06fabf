"""Bad input: a clear error, nothing lost, and everybody else goes on."""

from __future__ import annotations

import asyncio
import json
import random
import string
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import httpx
import pytest
import pytest_asyncio
from msgspec import Raw
from tests.e2e import shop
from tests.e2e.installation import SHARDS, Installation

from everstep import RunAlreadyExists, RunFailed
from everstep.settings import Settings
from everstep.stack import Stack
from everstep_schemas import wire
from everstep_schemas.names import shard_of

pytestmark = [pytest.mark.integration, pytest.mark.process, pytest.mark.asyncio(loop_scope="module")]

SOON = timedelta(seconds=60)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Installation]:
    """One installation for all of these tests: what one of them does must not trouble another."""
    dsn = await _database(stack, "bad_input")
    directory: Path = tmp_path_factory.mktemp("bad-input")
    settings = Settings(
        kafka_bootstrap=stack.kafka_bootstrap, postgres_dsn=dsn, topic_prefix="bad-input", shards=SHARDS
    )
    async with Installation(settings, directory, early_signals="2s") as installation:
        await installation.start()
        yield installation
    await _database(stack, "bad_input")


async def _database(stack: Stack, name: str) -> str:
    connection = await asyncpg.connect(stack.postgres_dsn)
    await connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
    await connection.execute(f"CREATE DATABASE {name}")
    await connection.close()
    return urlunsplit(urlsplit(stack.postgres_dsn)._replace(path=f"/{name}"))


def start(workflow_id: str, workflow: str = "three", *args: Any, **more: Any) -> dict[str, Any]:
    return {"kind": "start", "workflow": workflow, "workflow_id": workflow_id, "args": list(args), **more}


async def works(installation: Installation) -> None:
    """Somebody else's run goes through."""
    run = await installation.client.start(shop.threaded, 3, id=f"other-{random.random()}")  # noqa: S311  # just a name
    assert await run.result(timeout=SOON) == 6


LONG_ID = "".join(random.Random(7).choices(string.ascii_letters, k=10_000))  # noqa: S311  # incompressible


@pytest.mark.parametrize(
    ("value", "reason", "detail"),
    [
        (b"\x00\xff not json", "not_json", ""),
        (b'{"kind": "start", "workflow_id": "a"}', "invalid", "workflow"),
        (b'{"kind": "start", "workflow": "three", "workflow_id": "a", "colour": "red"}', "invalid", "colour"),
        (b'{"kind": "start", "workflow": 7, "workflow_id": "a"}', "invalid", "$.workflow"),
        (b'{"kind": "cancel", "workflow_id": "\\ud800"}', "not_json", ""),
        (b'{"kind": "start", "workflow": "w", "workflow_id": "a", "args": ["\\ud800"]}', "not_json", ""),
        (b'{"kind": "cancel", "workflow_id": "a\\u0000b"}', "invalid", "control character"),
        (json.dumps({"kind": "cancel", "workflow_id": LONG_ID}).encode(), "invalid", "512"),
        (
            b'{"kind": "start", "workflow": "three", "workflow_id": "deep", "args": '
            + b"[" * 10_000
            + b"]" * 10_000
            + b"}",
            "too_deep",
            "deep",
        ),
    ],
    ids=["bytes", "missing", "unknown", "wrong type", "surrogate", "surrogate inside", "nul", "long id", "deep"],
)
async def test_what_cannot_be_understood_becomes_a_dead_letter(
    running: Installation, value: bytes, reason: str, detail: str
) -> None:
    partition, offset = await running.submit(value, partition=1)
    headers = await running.dead_letter(value)
    assert headers["everstep_reason"] == reason
    assert detail in headers["everstep_detail"]
    assert headers["everstep_topic"] == running.topics.submissions
    assert (int(headers["everstep_partition"]), int(headers["everstep_offset"])) == (partition, offset)
    await works(running)


async def test_a_payload_over_the_limit_is_rejected(running: Installation) -> None:
    await running.submit(start("too-large", "large", "x" * (running.settings.max_payload_bytes + 1)))
    assert "EVERSTEP_MAX_PAYLOAD_BYTES" in await running.rejection("too-large")


async def test_a_workflow_that_passes_too_much_on_fails_with_the_reason(running: Installation) -> None:
    run = await running.client.start(shop.large, running.settings.max_payload_bytes + 1, id="passes-too-much")
    with pytest.raises(RunFailed, match="EVERSTEP_MAX_PAYLOAD_BYTES"):
        await run.result(timeout=SOON)


async def test_arguments_that_do_not_fit_fail_the_run_with_their_path(running: Installation) -> None:
    await running.submit(start("misfit", "three", "seven"))

    async def failed() -> bool:
        row = await running.row("misfit")
        return row is not None and row["status"] == "failed"

    await running.until(failed, "the run to fail")
    events = await running.events("misfit")
    assert events[-1]["kind"] == "failed"
    assert "$" in events[-1]["error"]["message"]


async def test_the_same_submission_twice_is_one_run(running: Installation) -> None:
    for partition in range(SHARDS):
        await running.submit(start("twice", "three", 1, submission_id="same"), partition=partition)

    async def done() -> bool:
        row = await running.row("twice")
        return row is not None and row["status"] == "completed"

    await running.until(done, "the run to complete")
    await running.client.start("three", 1, id="twice", submission_id="same")
    assert await running.sql.fetchval("SELECT count(*) FROM runs WHERE workflow_id = 'twice'") == 1
    assert [event["kind"] for event in await running.events("twice")].count("started") == 1


async def test_another_start_of_the_same_id_is_rejected(running: Installation) -> None:
    await running.client.start(shop.wait_for_go, 1, id="taken")
    with pytest.raises(RunAlreadyExists):
        await running.client.start(shop.wait_for_go, 2, id="taken")
    existing = await running.client.start(shop.wait_for_go, 2, id="taken", on_duplicate="return_existing")
    await existing.signal(shop.go, {"a": 1})
    assert await existing.result(timeout=SOON) == {"a": 1}
    await running.submit(start("taken", "three", 3))
    assert "duplicate" in await running.rejection("taken")


async def test_names_that_nobody_has_share_one_label(running: Installation) -> None:
    await asyncio.gather(*(running.submit(start(f"nobody-{i}", f"nobody-has-{i}")) for i in range(1000)))

    async def all_stalled() -> bool:
        query = "SELECT count(*) FROM runs WHERE workflow LIKE 'nobody-has-%' AND condition = 'stalled'"
        return bool(await running.sql.fetchval(query) == 1000)

    await running.until(all_stalled, "all to be stalled")
    metrics = await running.metrics()
    assert "nobody-has" not in metrics
    assert 'everstep_runs_open{workflow="_unknown"}' in metrics
    await works(running)
    await asyncio.gather(*(running.submit({"kind": "terminate", "workflow_id": f"nobody-{i}"}) for i in range(1000)))

    async def all_terminated() -> bool:
        query = "SELECT count(*) FROM runs WHERE workflow LIKE 'nobody-has-%' AND status = 'terminated'"
        return bool(await running.sql.fetchval(query) == 1000)

    await running.until(all_terminated, "all to be terminated")
    assert await running.sql.fetchval("SELECT count(*) FROM parked WHERE workflow_id LIKE 'nobody-%'") == 0


async def test_a_signal_for_a_run_that_has_ended_is_rejected(running: Installation) -> None:
    run = await running.client.start(shop.three, 1, id="ended")
    await run.result(timeout=SOON)
    await running.submit({"kind": "signal", "workflow_id": "ended", "name": "go"})
    assert "has ended (completed)" in await running.rejection("ended")


async def test_a_signal_for_nobody_waits_a_while_and_is_rejected(running: Installation) -> None:
    await running.submit({"kind": "signal", "workflow_id": "never-comes", "name": "go"})
    assert "no run has the id 'never-comes'" in await running.rejection("never-comes")
    assert await running.sql.fetchval("SELECT count(*) FROM parked WHERE workflow_id = 'never-comes'") == 0


async def test_a_cancellation_for_nobody_is_rejected_at_once(running: Installation) -> None:
    await running.submit({"kind": "cancel", "workflow_id": "nobody"})
    assert "no run has the id 'nobody'" in await running.rejection("nobody")


async def test_results_that_nobody_waits_for_are_ignored_and_counted(running: Installation) -> None:
    """For an activity that nobody scheduled, and a second time for one that is done."""
    run = await running.client.start(shop.wait_for_go, 5, id="answered")
    token = await running.first_token("answered")
    row = await running.row("answered")
    assert row is not None
    before = await running.counter("everstep_inputs_ignored_total")
    forged = token.replace(".2.1.", ".9.1.")
    for claimed, seq in ((token, 2), (forged, 9)):
        await running.answer(
            wire.ActivityCompleted(
                workflow_id="answered", run=1, seq=seq, attempt=1, token=claimed, value=Raw(b'"forged"')
            ),
            shard_of("answered", SHARDS),
        )

    async def both_ignored() -> bool:
        return await running.counter("everstep_inputs_ignored_total") >= before + 2

    await running.until(both_ignored, "both to be ignored")
    await run.signal(shop.go, {})
    await run.result(timeout=SOON)
    assert "forged" not in json.dumps(await running.events("answered"))


async def test_an_activity_that_returns_something_unserialisable_fails_the_run(running: Installation) -> None:
    run = await running.client.start(shop.returns_nothing_sensible, id="unserialisable")
    with pytest.raises(RunFailed, match="unserialisable"):
        await run.result(timeout=SOON)
    kinds = [event["kind"] for event in await running.events("unserialisable")]
    assert kinds.count("activity_failed") == 1, "it is not tried again"


async def test_a_workflow_that_never_yields_is_stalled(running: Installation) -> None:
    await running.submit(start("never", "never_yields"))
    row = await running.condition("never", "stalled")
    reason = json.loads(row["reason"])
    assert reason["kind"] == "blocked"
    assert "shop.py" in reason["message"]
    await works(running)


async def test_a_row_that_postgres_refuses_stalls_its_run_alone(running: Installation) -> None:
    """The batch is split until the one input stands alone."""
    await running.forbid_status("poison")
    bodies = [start(f"beside-{i}", "three", i) for i in range(50)]
    bodies.insert(25, start("poison", "sets_status", "poison"))
    await asyncio.gather(*map(running.submit, bodies))
    row = await running.condition("poison", "stalled")
    assert json.loads(row["reason"])["kind"] == "data"

    async def all_done() -> bool:
        query = "SELECT count(*) FROM runs WHERE workflow_id LIKE 'beside-%' AND status = 'completed'"
        return bool(await running.sql.fetchval(query) == 50)

    await running.until(all_done, "the others to complete")
    await works(running)


async def test_nul_in_a_status_fails_the_run_with_the_reason(running: Installation) -> None:
    run = await running.client.start(shop.sets_status, "a\0b", id="nul")
    with pytest.raises(RunFailed, match="NUL"):
        await run.result(timeout=SOON)


async def test_nul_in_a_payload_is_only_text(running: Installation) -> None:
    run = await running.client.start("echoes", "a\0b", id="nul-payload")
    assert await run.result(timeout=SOON) == "a\0b"


async def test_a_worker_without_the_activity_answers_and_the_run_waits(running: Installation) -> None:
    """`everstep_worker` of another app takes from the same queue now and then; the shop's takes it at the next try."""
    other = await running.services.worker("tests.e2e.changed:app")
    await other.ready()
    # Few activities: each pause is twice the one before, so one that goes to the wrong worker ten times is too slow.
    runs = [await running.client.start(shop.threaded, 1, id=f"shared-queue-{i}") for i in range(5)]
    assert [await run.result(timeout=SOON) for run in runs] == [0] * 5
    assert await other.terminate() == 0


async def test_histories_are_whole_after_all_that(running: Installation) -> None:
    await works(running)
    await running.settled()
    await running.check(shop.app)
    async with httpx.AsyncClient(base_url=running.orchestrators[0].url) as http:
        assert (await http.get("/readyz")).is_success
