"""Starting and steering over real HTTP and Kafka; the test answers as an orchestrator would."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import httpx
import msgspec
import pytest
from aiokafka.errors import KafkaConnectionError, KafkaTimeoutError, MessageSizeTooLargeError
from tests.http.conftest import SHARDS, START, Kafka, Rows, Served, asker
from tests.http.test_reading import problem

from everstep.lifecycle import LifecycleTail
from everstep.settings import Settings
from everstep_orchestrator.api import ApiDependencies, HttpServer, waiting
from everstep_schemas import events, wire
from everstep_schemas.wire import Lifecycle, LifecycleType

pytestmark = pytest.mark.integration


async def created(rows: Rows, kafka: Kafka, start: wire.AnySubmission, **columns: Any) -> None:
    """Commits and announces the run that the submission asks for."""
    assert isinstance(start, wire.Start)
    assert start.submission_id is not None
    await rows.run(start.workflow_id, workflow=start.workflow, source=start.submission_id, **columns)
    await kafka.publish(LifecycleType.STARTED, fact(start.workflow_id, submission_id=start.submission_id))


def fact(workflow_id: str, run: int = 1, seq: int = 1, **fields: Any) -> Lifecycle:
    return Lifecycle(workflow_id=workflow_id, run=run, seq=seq, at=START, **fields)


def start(api: httpx.AsyncClient, wait: str = "30s", **body: Any) -> asyncio.Task[httpx.Response]:
    return asyncio.create_task(api.post("/api/v1/runs", params={"wait": wait}, json={"workflow": "w", **body}))


async def test_a_start_is_answered_with_the_run(api: httpx.AsyncClient, rows: Rows, kafka: Kafka) -> None:
    content = b'{"workflow": "w", "workflow_id": "a/b", "args": [1.50, {"x": 12345678901234567890123}], "version": 3}'
    asked = asyncio.create_task(
        api.post("/api/v1/runs", content=content, headers={"content-type": "application/json; charset=utf-8"})
    )
    submission = await kafka.submitted()
    assert isinstance(submission, wire.Start)
    assert (submission.workflow_id, submission.version, submission.on_duplicate) == ("a/b", 3, "reject")
    assert bytes(submission.args) == b'[1.50, {"x": 12345678901234567890123}]'
    await created(rows, kafka, submission)
    response = await asked
    assert response.status_code == 201
    assert response.headers["location"] == "/api/v1/runs/a%2Fb?run=1"
    assert (response.json()["workflow_id"], response.json()["status"]) == ("a/b", "running")
    assert (await api.get(response.headers["location"])).json() == response.json()


async def test_a_start_without_an_id_gets_one(api: httpx.AsyncClient, rows: Rows, kafka: Kafka) -> None:
    asked = start(api)
    submission = await kafka.request()
    await created(rows, kafka, submission)
    response = await asked
    assert (response.status_code, response.json()["workflow_id"]) == (201, submission.workflow_id)


async def test_the_same_submission_again_is_answered_with_its_run_and_sent_no_more(
    api: httpx.AsyncClient, rows: Rows, kafka: Kafka
) -> None:
    first = start(api, workflow_id="a", submission_id="s1")
    await created(rows, kafka, await kafka.submitted())
    assert (await first).status_code == 201
    again = await start(api, workflow_id="a", submission_id="s1")
    assert (again.status_code, again.json()) == (200, (await first).json())
    await start(api, "0s", workflow_id="b", submission_id="s2")
    assert (await kafka.request()).workflow_id == "b"


async def test_a_start_may_be_answered_with_an_existing_run(api: httpx.AsyncClient, rows: Rows, kafka: Kafka) -> None:
    await rows.run("a", 1, status="failed", closed_at=START)
    asked = start(api, workflow_id="a", on_duplicate="return_existing", submission_id="mine")
    submission = await kafka.submitted()
    assert isinstance(submission, wire.Start)
    assert submission.on_duplicate == "return_existing"
    await kafka.publish(LifecycleType.STARTED, fact("a", submission_id="another's"))
    await kafka.publish(LifecycleType.STARTED, fact("a", submission_id="mine"))
    response = await asked
    assert (response.status_code, response.json()["status"]) == (200, "failed")


async def test_a_start_says_what_it_says_beside_arguments(api: httpx.AsyncClient, rows: Rows, kafka: Kafka) -> None:
    asked = start(
        api,
        workflow_id="a",
        attributes={"customer": "C-9", "tags": ["eu"], "n": 2},
        memo={"note": {"x": 1}},
        start_at="2026-03-02T00:00:00Z",
        timeout_seconds=60,
        with_signal={"name": "add", "value": [1]},
    )
    submission = await kafka.submitted()
    assert isinstance(submission, wire.Start)
    assert submission.attributes == {"customer": "C-9", "tags": ["eu"], "n": 2}
    assert bytes(submission.memo["note"]) == b'{"x":1}'
    assert (submission.start_at, submission.timeout_seconds) == (datetime(2026, 3, 2, tzinfo=UTC), 60)
    assert submission.with_signal == wire.FirstSignal(name="add", value=msgspec.Raw(b"[1]"))
    await created(rows, kafka, submission)
    assert (await asked).status_code == 201


async def test_a_duplicate_is_refused(api: httpx.AsyncClient, rows: Rows, kafka: Kafka) -> None:
    await rows.run("a")
    asked = start(api, workflow_id="a", submission_id="mine")
    await kafka.submitted()
    reason = "duplicate: run 1 of 'a' exists (running)"
    await kafka.publish(LifecycleType.SUBMISSION_REJECTED, fact("a", 0, 0, submission_id="mine", reason=reason))
    body = problem(await asked, 409, "duplicate-run")
    assert body["workflow_id"] == "a"
    assert reason in body["detail"]
    assert "on_duplicate" in body["detail"]


async def test_another_rejection_says_why(api: httpx.AsyncClient, kafka: Kafka) -> None:
    asked = start(api, workflow_id="a", submission_id="mine")
    await kafka.submitted()
    await kafka.publish(LifecycleType.SUBMISSION_REJECTED, fact("a", 0, 0, submission_id="mine", reason="impossible"))
    assert problem(await asked, 422, "invalid")["detail"] == "impossible"


async def test_a_run_that_waits_for_its_code_is_shown_as_stalled(
    api: httpx.AsyncClient, rows: Rows, kafka: Kafka
) -> None:
    asked = start(api, workflow_id="a")
    submission = await kafka.submitted()
    assert isinstance(submission, wire.Start)
    reason = msgspec.json.encode({"kind": "unknown_workflow", "message": "nobody has it"})
    await rows.run("a", source=submission.submission_id, condition="stalled", reason=reason)
    await kafka.publish(LifecycleType.STALLED, fact("a", submission_id=submission.submission_id))
    response = await asked
    assert (response.status_code, response.json()["condition"]) == (201, "stalled")
    assert response.json()["reason"]["message"] == "nobody has it"


async def test_a_start_that_nobody_answers_says_how_to_ask_again(
    api: httpx.AsyncClient, rows: Rows, kafka: Kafka
) -> None:
    response = await start(api, "200ms", args=[1])
    body = problem(response, 504, "unanswered")
    submission = await kafka.submitted()
    assert isinstance(submission, wire.Start)
    assert (body["workflow_id"], body["submission_id"]) == (submission.workflow_id, submission.submission_id)
    assert response.headers["retry-after"] == "1"
    await created(rows, kafka, submission)
    again = await start(api, args=[1], workflow_id=body["workflow_id"], submission_id=body["submission_id"])
    assert again.status_code == 200


async def test_a_run_whose_announcement_is_late_is_found_at_the_end_of_the_wait(
    api: httpx.AsyncClient, rows: Rows, kafka: Kafka
) -> None:
    asked = start(api, "1s", workflow_id="a")
    submission = await kafka.submitted()
    assert isinstance(submission, wire.Start)
    await rows.run("a", source=submission.submission_id)
    assert (await asked).status_code == 201


async def test_signals_and_requests_to_end_are_durable_when_answered(
    api: httpx.AsyncClient, rows: Rows, kafka: Kafka
) -> None:
    workflow_id = "order/17 🧾"
    await rows.run(workflow_id, 1, status="failed", closed_at=START)
    await rows.run(workflow_id, 2)
    path = f"/api/v1/runs/{quote(workflow_id, safe='')}"
    for response in (
        await api.post(f"{path}/signals/{quote('ship/ed', safe='')}", json={"value": {"n": 1}, "signal_id": "s"}),
        await api.post(f"{path}/signals/empty", json={}),
        await api.post(f"{path}/cancel", json={"reason": "asked"}),
        await api.post(f"{path}/terminate", json={}),
    ):
        assert (response.status_code, response.json()) == (202, {"workflow_id": workflow_id, "run": 2})
    assert [await kafka.submitted() for _ in range(4)] == [
        wire.Signal(workflow_id=workflow_id, name="ship/ed", value=msgspec.Raw(b'{"n":1}'), signal_id="s"),
        wire.Signal(workflow_id=workflow_id, name="empty"),
        wire.Cancel(workflow_id=workflow_id, reason="asked"),
        wire.Terminate(workflow_id=workflow_id),
    ]


@pytest.mark.parametrize("action", ["signals/s", "cancel", "terminate"])
async def test_only_a_running_run_can_be_reached(api: httpx.AsyncClient, rows: Rows, action: str) -> None:
    missing = await api.post(f"/api/v1/runs/a/{action}", json={})
    problem(missing, 404, "no-such-run")
    await rows.run("a", status="completed", closed_at=START)
    ended = problem(await api.post(f"/api/v1/runs/a/{action}", json={}), 409, "run-closed")
    assert (ended["workflow_id"], ended["run"]) == ("a", 1)


# ---- results


async def test_a_result_is_given_as_soon_as_the_run_ends(api: httpx.AsyncClient, rows: Rows, kafka: Kafka) -> None:
    key = await rows.run("a", 2)
    waiting = [asyncio.create_task(api.get("/api/v1/runs/a/result?wait=60s")) for _ in range(3)]
    # Each of these is heard by a watch or comes before it; none of them is the end of this run.
    await kafka.publish(LifecycleType.COMPLETED, fact("a", 1))
    await kafka.publish(LifecycleType.ACTIVITY_FAILED, fact("a", 2))
    assert not any(task.done() for task in waiting)

    await rows.history(key, 1, events.TimerFired(ref=1), events.Completed(value=msgspec.Raw(b"[7]")))
    await rows.close("a", "completed", 2)
    closing = asyncio.create_task(_close_until(kafka, waiting))
    for task in waiting:
        response = await task
        assert (response.status_code, response.json()["value"], response.json()["run"]) == (200, [7], 2)
    await closing


async def _close_until(
    kafka: Kafka, waiting: list[asyncio.Task[httpx.Response]], run: int = 2, type: str = LifecycleType.COMPLETED
) -> None:
    """Publishes the end again as an orchestrator may after a fail-over."""
    while not all(task.done() for task in waiting):
        await kafka.publish(type, fact("a", run, 9))


async def goes_on(rows: Rows, kafka: Kafka, key: int, run: int) -> int:
    """The run is continued; the key of the next one."""
    await rows.history(key, 1, events.TimerFired(ref=1), events.Continued(workflow="w"))
    await rows.close("a", "continued", run)
    following = await rows.run("a", run + 1)
    await kafka.publish(LifecycleType.CONTINUED, fact("a", run))
    return following


async def test_a_result_is_that_of_the_run_that_ends_the_chain(
    api: httpx.AsyncClient, rows: Rows, kafka: Kafka
) -> None:
    key = await rows.run("a", 1)
    waiting = asyncio.create_task(api.get("/api/v1/runs/a/result?wait=60s"))
    exactly = asyncio.create_task(api.get("/api/v1/runs/a/result?wait=60s&run=1"))
    for run in (1, 2):
        key = await goes_on(rows, kafka, key, run)
    response = await exactly
    assert (response.status_code, response.json()["status"], response.json()["next_run"]) == (200, "continued", 2)
    assert not waiting.done()
    await rows.history(key, 1, events.TimerFired(ref=1), events.Completed(value=msgspec.Raw(b"7")))
    await rows.close("a", "completed", 3)
    closing = asyncio.create_task(_close_until(kafka, [waiting], 3))
    response = await waiting
    assert (response.status_code, response.json()["value"], response.json()["run"]) == (200, 7, 3)
    await closing


async def test_a_wait_that_ends_within_the_chain_names_the_run_that_runs(
    api: httpx.AsyncClient, rows: Rows, kafka: Kafka
) -> None:
    key = await rows.run("a", 1)
    waiting = asyncio.create_task(api.get("/api/v1/runs/a/result?wait=1s"))
    await goes_on(rows, kafka, key, 1)
    response = await waiting
    assert (response.status_code, response.json()) == (202, {"workflow_id": "a", "run": 2, "status": "running"})


async def test_a_run_that_times_out_has_ended(api: httpx.AsyncClient, rows: Rows, kafka: Kafka) -> None:
    key = await rows.run("a", 2)
    waiting = asyncio.create_task(api.get("/api/v1/runs/a/result?wait=60s"))
    await rows.history(key, 1, events.TimedOut())
    await rows.close("a", "timed_out", 2)
    closing = asyncio.create_task(_close_until(kafka, [waiting], type=LifecycleType.TIMED_OUT))
    assert (await waiting).json()["status"] == "timed_out"
    await closing


async def test_a_wait_ends_with_its_time(api: httpx.AsyncClient, rows: Rows) -> None:
    await rows.run("a")
    response = await api.get("/api/v1/runs/a/result?wait=200ms")
    assert (response.status_code, response.json()["status"]) == (202, "running")


async def test_a_stopping_server_answers_those_who_wait(served: Served, rows: Rows, kafka: Kafka) -> None:
    await rows.run("a")
    result = asyncio.create_task(served.client.get("/api/v1/runs/a/result?wait=60s"))
    starting = start(served.client, "60s", workflow_id="b")
    await kafka.submitted()
    await served.server.stop()
    assert (await result).status_code == 202
    problem(await starting, 504, "unanswered")


# ---- bodies


@pytest.mark.parametrize(
    ("body", "status", "kind", "detail"),
    [
        (b"", 400, "malformed", "not JSON"),
        (b"{", 400, "malformed", "not JSON"),
        (b"\xff\xfe", 400, "malformed", "not JSON"),
        (b'{"workflow": "w", "args": ["\xff"]}', 400, "malformed", "not JSON"),
        (b"[]", 422, "invalid", "Expected `object`"),
        (b"{}", 422, "invalid", "`workflow`"),
        (b'{"workflow": 7}', 422, "invalid", "$.workflow"),
        (b'{"workflow": "w", "wrokflow_id": "a"}', 422, "invalid", "wrokflow_id"),
        (b'{"workflow": "w", "kind": "start"}', 422, "invalid", "kind"),
        (b'{"workflow": ""}', 422, "invalid", "workflow has 0 bytes"),
        (b'{"workflow": "a\\u0000b"}', 422, "invalid", "control character"),
        (b'{"workflow": "a\\ud800"}', 400, "malformed", "not JSON"),
        (b'{"workflow": "w", "workflow_id": "' + b"x" * 1000 + b'"}', 422, "invalid", "workflow_id has 1000 bytes"),
        (b'{"workflow": "w", "submission_id": "a\\nb"}', 422, "invalid", "submission_id"),
        (b'{"workflow": "w", "args": {"a": 1}}', 422, "invalid", "JSON array"),
        (b'{"workflow": "w", "kwargs": [1]}', 422, "invalid", "JSON object"),
        (b'{"workflow": "w", "version": 0}', 422, "invalid", "$.version"),
        (b'{"workflow": "w", "version": 99999999999}', 422, "invalid", "$.version"),
        (b'{"workflow": "w", "on_duplicate": "maybe"}', 422, "invalid", "$.on_duplicate"),
        (b'{"workflow": "w", "attributes": {"a": {"b": 1}}}', 422, "invalid", "$.attributes"),
        (b'{"workflow": "w", "attributes": {"a": null}}', 422, "invalid", "$.attributes"),
        (b'{"workflow": "w", "attributes": {"a": "\\u0000"}}', 422, "invalid", "attribute 'a' holds a NUL"),
        (b'{"workflow": "w", "attributes": {"a": "' + b"x" * 17_000 + b'"}}', 422, "invalid", "use the memo"),
        (b'{"workflow": "w", "memo": []}', 422, "invalid", "$.memo"),
        (b'{"workflow": "w", "memo": {"m": "' + b"x" * 4096 + b'"}}', 413, "too-large", "memo and with_signal"),
        (b'{"workflow": "w", "start_at": "soon"}', 422, "invalid", "$.start_at"),
        (b'{"workflow": "w", "start_at": "2026-03-02T00:00:00"}', 422, "invalid", "start_at has no time zone"),
        (b'{"workflow": "w", "timeout_seconds": 0}', 422, "invalid", "timeout_seconds is 0"),
        (b'{"workflow": "w", "with_signal": {"value": 1}}', 422, "invalid", "$.with_signal"),
        (b'{"workflow": "w", "with_signal": {"name": ""}}', 422, "invalid", "with_signal.name has 0 bytes"),
        (b'{"workflow": "w", "with_signal": {"name": "a", "vlaue": 1}}', 422, "invalid", "vlaue"),
        (b'{"workflow": "w", "args": [' + b"[" * 10_000 + b"]" * 10_000 + b"]}", 422, "invalid", "nested too deep"),
        (b'{"workflow": "w", "args": ["' + b"x" * 4096 + b'"]}', 413, "too-large", "EVERSTEP_MAX_PAYLOAD_BYTES"),
        (b'{"workflow": "w", "args": ["' + b"x" * 300_000 + b'"]}', 413, "too-large", "EVERSTEP_MAX_PAYLOAD_BYTES"),
    ],
)
async def test_bad_starts_are_refused_before_kafka(
    lone_api: httpx.AsyncClient, body: bytes, status: int, kind: str, detail: str
) -> None:
    response = await lone_api.post("/api/v1/runs", content=body, headers={"content-type": "application/json"})
    assert detail in problem(response, status, kind)["detail"]


@pytest.mark.parametrize("content_type", ["", "text/plain", "application/x-www-form-urlencoded", "application/xml"])
@pytest.mark.parametrize("path", ["", "/a/cancel", "/a/terminate", "/a/signals/s"])
async def test_bodies_of_other_types_are_refused(lone_api: httpx.AsyncClient, content_type: str, path: str) -> None:
    headers = {"content-type": content_type} if content_type else {}
    response = await lone_api.post(f"/api/v1/runs{path}", content=b"{}", headers=headers)
    assert "application/json" in problem(response, 415, "not-json")["detail"]


@pytest.mark.parametrize(
    ("path", "body", "detail"),
    [
        ("a/signals/s", {"vlaue": 1}, "vlaue"),
        ("a/signals/s", {"signal_id": ""}, "signal_id"),
        ("a/signals/a%0Ab", {}, "name holds a control character"),
        ("a%00/signals/s", {}, "workflow_id holds a control character"),
        ("a/cancel", {"reason": 1}, "$.reason"),
        ("a/cancel?run=1", {}, "'run' is not known"),
        ("a/terminate", {"why": "x"}, "why"),
    ],
)
async def test_bad_requests_to_steer_are_refused(
    lone_api: httpx.AsyncClient, path: str, body: dict[str, Any], detail: str
) -> None:
    assert detail in problem(await lone_api.post(f"/api/v1/runs/{path}", json=body), 422, "invalid")["detail"]


async def test_a_signal_over_the_limit_is_refused(lone_api: httpx.AsyncClient) -> None:
    response = await lone_api.post("/api/v1/runs/a/signals/s", json={"value": "x" * 5000})
    problem(response, 413, "too-large")


async def test_starting_without_kafka_is_a_problem(lone_api: httpx.AsyncClient) -> None:
    response = await lone_api.post("/api/v1/runs", json={"workflow": "w"})
    problem(response, 503, "kafka-unavailable")


# ---- Kafka away


@dataclass
class Troubled:
    """A Kafka that fails in the way the test says, or never answers."""

    error: Exception | None

    async def send(self, submission: wire.AnySubmission) -> None:
        if self.error is not None:
            raise self.error
        await asyncio.Event().wait()


@pytest.mark.parametrize(
    ("error", "status", "kind", "detail"),
    [
        (KafkaTimeoutError(), 503, "kafka-unavailable", "send it again with the same ids"),
        (KafkaConnectionError("no broker"), 503, "kafka-unavailable", "no broker"),
        (None, 503, "kafka-unavailable", "TimeoutError"),
        (MessageSizeTooLargeError("too big"), 413, "too-large", "too big"),
    ],
)
async def test_what_kafka_does_not_take_is_a_problem(
    rows: Rows,
    db_settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception | None,
    status: int,
    kind: str,
    detail: str,
) -> None:
    monkeypatch.setattr(waiting, "KAFKA_SECONDS", 0.1)
    await rows.run("a")
    tail = LifecycleTail(db_settings, SHARDS)
    server = HttpServer(db_settings, ApiDependencies(list, Troubled(error), tail, asker()))
    address = await server.start()
    try:
        async with httpx.AsyncClient(base_url=f"http://{address}") as client:
            assert detail in problem(await client.post("/api/v1/runs/a/cancel", json={}), status, kind)["detail"]
    finally:
        await server.stop()
