"""Updates over real HTTP and Kafka; the test answers as an orchestrator would."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from msgspec import Raw
from tests.http.conftest import START, Kafka, Rows, Served
from tests.http.test_reading import problem
from tests.http.test_steering import fact

from everstep_orchestrator.api import waiting
from everstep_schemas import events, wire
from everstep_schemas.errors import ErrorInfo
from everstep_schemas.wire import LifecycleType

pytestmark = pytest.mark.integration

STARTED = events.Started(workflow="w", version=1, nonce="n", source="s", python="3.11.7")
ERROR = ErrorInfo(type="shop.OutOfStock", message="none left")


def update(api: httpx.AsyncClient, wait: str = "30s", **body: Any) -> asyncio.Task[httpx.Response]:
    return asyncio.create_task(api.post("/api/v1/runs/a/updates/add", params={"wait": wait}, json=body))


def completed(update_id: str, value: bytes) -> events.UpdateCompleted:
    return events.UpdateCompleted(ref=2, update_id=update_id, value=Raw(value))


def requested(update_id: str) -> events.UpdateRequested:
    return events.UpdateRequested(name="add", value=Raw(b"1"), update_id=update_id)


async def test_an_update_is_durable_and_answered(api: httpx.AsyncClient, rows: Rows, kafka: Kafka) -> None:
    await rows.run("a")
    asked = update(api, value={"n": 1}, update_id="u1")
    assert await kafka.submitted() == wire.Update(workflow_id="a", name="add", value=Raw(b'{"n":1}'), update_id="u1")
    await kafka.publish(LifecycleType.UPDATE_COMPLETED, fact("a", submission_id="another", result=Raw(b"0")))
    await kafka.publish(LifecycleType.STARTED, fact("a", submission_id="u1"))
    await kafka.publish(LifecycleType.UPDATE_COMPLETED, fact("a", submission_id="u1", result=Raw(b"1.50")))
    response = await asked
    assert response.status_code == 200
    assert response.content == b'{"workflow_id":"a","update_id":"u1","status":"completed","run":1,"value":1.50}'


async def test_an_update_without_an_id_gets_one(api: httpx.AsyncClient, rows: Rows, kafka: Kafka) -> None:
    await rows.run("a")
    asked = update(api)
    submission = await kafka.submitted()
    assert isinstance(submission, wire.Update)
    assert submission.update_id
    await kafka.publish(
        LifecycleType.UPDATE_COMPLETED, fact("a", submission_id=submission.update_id, result=Raw(b"null"))
    )
    assert (await asked).json()["update_id"] == submission.update_id


async def test_an_update_that_failed_says_how(api: httpx.AsyncClient, rows: Rows, kafka: Kafka) -> None:
    await rows.run("a")
    asked = update(api, update_id="u1")
    await kafka.submitted()
    await kafka.publish(LifecycleType.UPDATE_FAILED, fact("a", submission_id="u1", error=ERROR))
    body = problem(await asked, 422, "update-failed")
    assert (body["detail"], body["workflow_id"], body["run"]) == ("shop.OutOfStock: none left", "a", 1)
    assert (body["error"]["type"], body["error"]["message"]) == ("shop.OutOfStock", "none left")


@pytest.mark.parametrize("reason", ["only numbers above 0", "the run takes no update 'add'; those it takes: none"])
async def test_an_update_that_the_run_does_not_accept(
    api: httpx.AsyncClient, rows: Rows, kafka: Kafka, reason: str
) -> None:
    await rows.run("a")
    asked = update(api, update_id="u1")
    await kafka.submitted()
    await kafka.publish(LifecycleType.SUBMISSION_REJECTED, fact("a", 0, 0, submission_id="u1", reason=reason))
    assert problem(await asked, 409, "update-rejected")["detail"] == reason


async def test_an_update_that_nobody_answers_can_be_asked_for_again(
    api: httpx.AsyncClient, rows: Rows, kafka: Kafka
) -> None:
    key = await rows.run("a")
    response = await update(api, "200ms", update_id="u1")
    assert response.status_code == 202
    assert response.json() == {"workflow_id": "a", "update_id": "u1", "status": "accepted"}
    await rows.history(key, 1, STARTED)
    await rows.history(key, 2, requested("u1"))
    assert (await update(api, "200ms", update_id="u1")).status_code == 202
    await rows.history(key, 3, completed("u1", b"7"))
    again = await update(api, update_id="u1")
    assert (again.status_code, again.json()["value"], again.json()["run"]) == (200, 7, 1), "it stands in the history"


async def test_a_stopping_server_answers_who_waits_for_an_update(served: Served, rows: Rows, kafka: Kafka) -> None:
    await rows.run("a")
    asked = update(served.client, "60s", update_id="u1")
    await kafka.submitted()
    await served.server.stop()
    assert (await asked).status_code == 202


# ---- answers that stand in histories


async def test_an_update_of_an_earlier_run_is_answered_as_it_was(
    api: httpx.AsyncClient, rows: Rows, kafka: Kafka
) -> None:
    first = await rows.run("a", 1, status="continued", closed_at=START)
    await rows.run("a", 2)
    await rows.history(first, 1, STARTED)
    await rows.history(first, 2, requested("u1"), completed("u1", b"7"))
    reason = "duplicate: update 'u1' was carried out by an earlier run of this id"
    for id, status in (("u1", 200), ("u2", 409)):
        asked = update(api, update_id=id)
        await kafka.submitted()
        await kafka.publish(LifecycleType.SUBMISSION_REJECTED, fact("a", 0, 0, submission_id=id, reason=reason))
        response = await asked
        assert response.status_code == status
    assert problem(response, 409, "update-rejected")["detail"] == reason
    unanswered = await update(api, "200ms", update_id="u1")
    assert unanswered.status_code == 202, "another run may yet carry it out, if it does not go on with that one's work"


@pytest.mark.parametrize("seen", ["before", "while it is asked"])
async def test_an_update_of_a_run_that_has_ended(api: httpx.AsyncClient, rows: Rows, kafka: Kafka, seen: str) -> None:
    key = await rows.run("a")
    await rows.history(key, 1, STARTED)
    await rows.history(key, 2, requested("done"), completed("done", b"7"))
    await rows.history(key, 4, requested("broken"), events.UpdateFailed(ref=4, update_id="broken", error=ERROR))

    async def ask(id: str) -> httpx.Response:
        if seen == "before":
            return await update(api, update_id=id)
        asked = update(api, update_id=id)
        await kafka.submitted()
        reason = "run 1 of 'a' has ended (completed)"
        await kafka.publish(LifecycleType.SUBMISSION_REJECTED, fact("a", 0, 0, submission_id=id, reason=reason))
        return await asked

    if seen == "before":
        await rows.close("a", "completed")
    assert (await ask("done")).json()["value"] == 7
    assert problem(await ask("broken"), 422, "update-failed")["error"]["type"] == "shop.OutOfStock"
    body = problem(await ask("never"), 409, "run-closed")
    assert "run 1 of 'a' has ended (completed)" in body["detail"]
    assert (body["workflow_id"], body["run"]) == ("a", 1)


# ---- what is refused here


async def test_an_id_without_a_run(api: httpx.AsyncClient) -> None:
    problem(await update(api), 404, "no-such-run")


@pytest.mark.parametrize(
    ("body", "status", "kind", "detail"),
    [
        ({"vlaue": 1}, 422, "invalid", "vlaue"),
        ({"update_id": ""}, 422, "invalid", "update_id has 0 bytes"),
        ({"value": "x" * 5000}, 413, "too-large", "EVERSTEP_MAX_PAYLOAD_BYTES"),
    ],
)
async def test_bad_updates_are_refused_before_kafka(
    lone_api: httpx.AsyncClient, body: dict[str, Any], status: int, kind: str, detail: str
) -> None:
    response = await lone_api.post("/api/v1/runs/a/updates/add", json=body)
    assert detail in problem(response, status, kind)["detail"]


async def test_updates_without_kafka_are_a_problem(
    reading_api: httpx.AsyncClient, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "KAFKA_SECONDS", 0.1)
    await rows.run("a")
    problem(await update(reading_api), 503, "kafka-unavailable")
