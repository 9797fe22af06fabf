"""Callbacks over real HTTP and Kafka; the test answers as an orchestrator would."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from msgspec import Raw
from tests.http.conftest import START, Kafka, Rows, Served
from tests.http.test_reading import problem
from tests.http.test_steering import fact

from everstep._core.callbacks import token_of
from everstep_schemas import events, wire
from everstep_schemas.errors import ErrorInfo
from everstep_schemas.names import Token
from everstep_schemas.wire import LifecycleType

pytestmark = pytest.mark.integration

NONCE = "7f3a" * 8
STARTED = events.Started(workflow="w", version=1, nonce=NONCE, source="s", python="3.11.7")
FAILURE = ErrorInfo(type="CallbackFailed", message="no")
BODIES: dict[str, dict[str, Any]] = {"complete": {"value": 1}, "fail": {"message": "no"}, "heartbeat": {"details": 1}}


async def held(rows: Rows, workflow_id: str = "a", **columns: Any) -> str:
    """The token of the callback that event 2 of an open run created."""
    key = await rows.run(workflow_id, nonce=NONCE, **columns)
    token = token_of(key, NONCE, 2)
    await rows.history(key, 1, STARTED, events.CallbackCreated(token=token, url="u"))
    return token


def say(api: httpx.AsyncClient, token: str, how: str = "complete", **body: Any) -> asyncio.Task[httpx.Response]:
    wait = {} if how == "heartbeat" else {"wait": "30s"}
    return asyncio.create_task(api.post(f"/api/v1/callbacks/{token}/{how}", params=wait, json=BODIES[how] | body))


async def test_a_callback_is_completed(api: httpx.AsyncClient, rows: Rows, kafka: Kafka) -> None:
    token = await held(rows)
    asked = say(api, token, value={"x": 1}, submission_id="s1")
    assert await kafka.submitted() == wire.CompleteCallback(token=token, value=Raw(b'{"x":1}'), submission_id="s1")
    await kafka.publish(LifecycleType.CALLBACK_COMPLETED, fact("a", submission_id="another"))
    await kafka.publish(LifecycleType.CALLBACK_COMPLETED, fact("a", submission_id="s1"))
    response = await asked
    assert (response.status_code, response.json()) == (200, {"submission_id": "s1", "status": "applied"})


async def test_a_callback_fails(api: httpx.AsyncClient, rows: Rows, kafka: Kafka) -> None:
    token = await held(rows)
    asked = say(api, token, "fail", type="Bounced")
    submission = await kafka.submitted()
    assert isinstance(submission, wire.FailCallback)
    assert submission.error == wire.CallbackProblem(message="no", type="Bounced")
    await kafka.publish(LifecycleType.CALLBACK_FAILED, fact("a", submission_id=submission.submission_id, error=FAILURE))
    assert (await asked).json() == {"submission_id": submission.submission_id, "status": "applied"}


async def test_a_heartbeat_is_durable_when_answered(api: httpx.AsyncClient, rows: Rows, kafka: Kafka) -> None:
    token = await held(rows)
    response = await say(api, token, "heartbeat", details=[1])
    assert (response.status_code, response.json()) == (202, {"status": "accepted"})
    assert await kafka.submitted() == wire.HeartbeatCallback(token=token, details=Raw(b"[1]"))


@pytest.mark.parametrize("how", BODIES)
async def test_a_token_that_was_made_up_tells_nothing(reading_api: httpx.AsyncClient, rows: Rows, how: str) -> None:
    token = await held(rows)
    genuine = Token.parse(token)
    assert genuine is not None
    made_up = [
        token[:-1] + ("0" if token[-1] != "0" else "1"),
        token.upper(),
        f"{token}.",
        f"0{token}",
        token_of(genuine.run_key, NONCE[:16], 2),  # workers see half of the nonce
        token_of(genuine.run_key, "", 2),
        token_of(genuine.run_key + 1000, NONCE, 2),
        str(Token(0, 1 << 70, 2, 0, "x")),
        str(Token(0, -1, 2, 0, "x")),
        "0.0.0.0.",
        "x",
    ]
    answers = [await say(reading_api, text, how) for text in made_up]
    details = {problem(answer, 404, "no-such-callback")["detail"] for answer in answers}
    assert len(details) == 1


@pytest.mark.parametrize("reason", ["the callback was completed before, or is no longer waited for", "anything"])
async def test_a_callback_that_is_closed(api: httpx.AsyncClient, rows: Rows, kafka: Kafka, reason: str) -> None:
    token = await held(rows)
    asked = say(api, token, submission_id="s2")
    await kafka.submitted()
    await kafka.publish(LifecycleType.SUBMISSION_REJECTED, fact("a", 0, 0, submission_id="s2", reason=reason))
    assert problem(await asked, 409, "callback-closed")["detail"] == reason


async def test_a_value_that_does_not_fit_leaves_the_callback_open(
    api: httpx.AsyncClient, rows: Rows, kafka: Kafka
) -> None:
    token = await held(rows)
    asked = say(api, token, submission_id="s1")
    await kafka.submitted()
    reason = "the value does not fit: Expected `str`, got `int` - at `$.name`"
    await kafka.publish(LifecycleType.SUBMISSION_REJECTED, fact("a", 0, 0, submission_id="s1", reason=reason))
    assert problem(await asked, 422, "invalid")["detail"] == reason


async def test_what_comes_again_is_answered_again(api: httpx.AsyncClient, rows: Rows, kafka: Kafka) -> None:
    token = await held(rows)
    parsed = Token.parse(token)
    assert parsed is not None
    await rows.history(parsed.run_key, 3, events.CallbackCompleted(ref=2, value=Raw(b"1"), source="s1"))
    again = await say(api, token, submission_id="s1")  # an open run says nothing to what it has applied before
    assert (again.status_code, again.json()) == (200, {"submission_id": "s1", "status": "applied"})
    await kafka.submitted()
    asked = say(api, token, submission_id="s1")
    await kafka.submitted()
    reason = "the callback was completed before, or is no longer waited for"
    await kafka.publish(LifecycleType.SUBMISSION_REJECTED, fact("a", 0, 0, submission_id="s1", reason=reason))
    assert (await asked).status_code == 200
    await rows.close("a", "completed")
    assert (await say(api, token, submission_id="s1")).status_code == 200
    for how in BODIES:
        closed = problem(await say(api, token, how), 409, "callback-closed")
        assert closed["detail"] == "nobody waits for it any more: its run has ended (completed)"


async def test_what_nobody_answers_is_durable(api: httpx.AsyncClient, rows: Rows, kafka: Kafka) -> None:
    token = await held(rows)
    response = await api.post(f"/api/v1/callbacks/{token}/complete?wait=100ms", json={"submission_id": "s1"})
    assert (response.status_code, response.json()) == (202, {"submission_id": "s1", "status": "accepted"})
    assert isinstance(await kafka.submitted(), wire.CompleteCallback)


async def test_a_stopping_server_answers_who_waits_for_a_callback(served: Served, rows: Rows, kafka: Kafka) -> None:
    token = await held(rows)
    asked = say(served.client, token)
    await kafka.submitted()
    await served.server.stop()
    assert (await asked).status_code == 202


@pytest.mark.parametrize(
    ("path", "body", "status", "kind", "detail"),
    [
        ("complete", {"vlaue": 1}, 422, "invalid", "vlaue"),
        ("complete", {"submission_id": ""}, 422, "invalid", "submission_id has 0 bytes"),
        ("complete", {"value": "x" * 5000}, 413, "too-large", "EVERSTEP_MAX_PAYLOAD_BYTES"),
        ("fail", {}, 422, "invalid", "`message`"),
        ("fail", {"message": "x" * 5000}, 413, "too-large", "EVERSTEP_MAX_PAYLOAD_BYTES"),
        ("heartbeat", {"details": "x" * 5000}, 413, "too-large", "EVERSTEP_MAX_PAYLOAD_BYTES"),
        ("heartbeat?wait=1s", {}, 422, "invalid", "'wait' is not known"),
    ],
)
async def test_bad_requests_are_refused_before_anything_is_asked(
    lone_api: httpx.AsyncClient, path: str, body: dict[str, Any], status: int, kind: str, detail: str
) -> None:
    response = await lone_api.post(f"/api/v1/callbacks/t/{path}", json=body)
    assert detail in problem(response, status, kind)["detail"]


async def test_runs_that_have_ended_take_no_callbacks(reading_api: httpx.AsyncClient, rows: Rows) -> None:
    token = await held(rows, "b", status="timed_out", closed_at=START)
    assert "timed_out" in problem(await say(reading_api, token), 409, "callback-closed")["detail"]
