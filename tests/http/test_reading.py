"""What the API reads, over real HTTP; Kafka is away and not needed."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import httpx
import msgspec
import pytest
from tests.http.conftest import START, Rows, Unready

from everstep_schemas import events

pytestmark = pytest.mark.integration


def problem(response: httpx.Response, status: int, kind: str) -> dict[str, Any]:
    """The problem in a response, which must be of this kind."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert body["type"] == f"urn:everstep:problem:{kind}"
    assert body["status"] == status
    assert body["instance"] == response.request.url.raw_path.partition(b"?")[0].decode()
    assert body["title"]
    return body


async def test_lists_and_pages(rows: Rows, reading_api: httpx.AsyncClient) -> None:
    for name in ("a", "b", "c"):
        await rows.run(name)
    await rows.run("d", workflow="nightly")

    first = (await reading_api.get("/api/v1/runs", params={"workflow": "fulfil_order", "limit": 2})).json()
    assert [run["workflow_id"] for run in first["runs"]] == ["c", "b"]
    assert first["runs"][0] == {
        "workflow_id": "c",
        "run": 1,
        "workflow": "fulfil_order",
        "version": 1,
        "status": "running",
        "condition": None,
        "custom_status": None,
        "started_at": "2026-03-01T12:00:03Z",
        "closed_at": None,
        "parent": None,
        "attributes": {},
    }
    params = {"workflow": "fulfil_order", "limit": 2, "cursor": first["cursor"]}
    second = (await reading_api.get("/api/v1/runs", params=params)).json()
    assert ([run["workflow_id"] for run in second["runs"]], second["cursor"]) == (["a"], None)


async def test_lists_by_attributes(rows: Rows, reading_api: httpx.AsyncClient) -> None:
    await rows.run("a", attributes='{"customer": "C=9", "tags": ["eu", "late"]}')
    await rows.run("b", attributes='{"customer": "C=9"}')
    for wanted, ids in ((['customer="C=9"'], ["b", "a"]), (['customer="C=9"', 'tags=["eu"]'], ["a"]), (["x=1"], [])):
        response = await reading_api.get("/api/v1/runs", params={"attribute": wanted})
        assert [run["workflow_id"] for run in response.json()["runs"]] == ids


async def test_a_huge_limit_is_capped(rows: Rows, reading_api: httpx.AsyncClient) -> None:
    await rows.run("a")
    response = await reading_api.get("/api/v1/runs", params={"limit": 10**30})
    assert len(response.json()["runs"]) == 1


@pytest.mark.parametrize(
    ("query", "detail"),
    [
        ("status=finished", "status"),
        ("limit=0", "limit"),
        ("limit=many", "limit"),
        ("cursor=nonsense", "not a cursor"),
        ("stauts=failed", "'stauts' is not known"),
        ("where=x", "'where' is not known"),
        ("workflow=a%00b", "control character"),
        ("attribute=a", "attribute: 'a' is not name=JSON"),
        ("attribute=a%3Dtext", "text needs its quotes"),
        ("attribute=a%3Dnull", "attribute 'a' is text, a number"),
        ("attribute=%3D1", "the name '' has 0 bytes"),
        ("attribute=a%3D1&attribute=a%3D2", "'a' is given twice"),
        ("workflow=" + "x" * 600, "512"),
    ],
)
async def test_questions_that_make_no_sense_are_refused(lone_api: httpx.AsyncClient, query: str, detail: str) -> None:
    assert detail in problem(await lone_api.get(f"/api/v1/runs?{query}"), 422, "invalid")["detail"]


async def test_describes_a_stalled_run_with_both_sides(rows: Rows, reading_api: httpx.AsyncClient) -> None:
    reason = {"kind": "nondeterminism", "message": "differs", "expected": "activity pay", "got": "timer", "seq": 4}
    await rows.run("a", condition="stalled", reason=msgspec.json.encode(reason))
    body = (await reading_api.get("/api/v1/runs/a")).json()
    assert (body["condition"], body["reason"]) == ("stalled", reason)


async def test_describes_the_run_asked_for(rows: Rows, reading_api: httpx.AsyncClient) -> None:
    await rows.run("a", 1, status="failed", closed_at=START)
    await rows.run("a", 2)
    assert (await reading_api.get("/api/v1/runs/a")).json()["run"] == 2
    assert (await reading_api.get("/api/v1/runs/a?run=1")).json()["run"] == 1
    gone = problem(await reading_api.get("/api/v1/runs/a?run=3"), 404, "no-such-run")
    assert (gone["workflow_id"], gone["run"]) == ("a", 3)
    assert "no run number 3" in gone["detail"]
    problem(await reading_api.get(f"/api/v1/runs/a?run={2**31}"), 422, "invalid")
    problem(await reading_api.get("/api/v1/runs/a?run=0"), 422, "invalid")


@pytest.mark.parametrize("path", ["", "/history", "/result"])
async def test_a_run_that_does_not_exist_is_not_found(reading_api: httpx.AsyncClient, path: str) -> None:
    assert "'b' has no run" in problem(await reading_api.get(f"/api/v1/runs/b{path}"), 404, "no-such-run")["detail"]


async def test_shows_history_as_typed_events(rows: Rows, reading_api: httpx.AsyncClient) -> None:
    key = await rows.run("a")
    args = msgspec.Raw(b'[{"price": 1.50, "big": 123456789012345678901234567890}]')
    started = events.Started(workflow="w", version=1, nonce="n", source="s", python="3.11.7", args=args)
    await rows.history(key, 1, started, events.ActivityScheduled(name="pay", queue="default"))
    await rows.history(key, 3, events.TimerFired(ref=2))

    response = await reading_api.get("/api/v1/runs/a/history?limit=2")
    page = response.json()
    assert [(event["seq"], event["event"]["kind"]) for event in page["events"]] == [
        (1, "started"),
        (2, "activity_scheduled"),
    ]
    assert b'"price": 1.50, "big": 123456789012345678901234567890' in response.content
    assert (page["workflow_id"], page["run"], page["next_after"]) == ("a", 1, 2)
    rest = (await reading_api.get("/api/v1/runs/a/history?after=2")).json()
    assert [event["seq"] for event in rest["events"]] == [3]


async def test_gives_results_of_closed_runs_without_kafka(rows: Rows, reading_api: httpx.AsyncClient) -> None:
    key = await rows.run("a")
    await rows.history(key, 1, events.TimerFired(ref=1), events.Completed(value=msgspec.Raw(b'{"ok": true}')))
    await rows.close("a", "completed")
    response = await reading_api.get("/api/v1/runs/a/result?wait=30s")
    assert response.status_code == 200
    assert response.json() == {
        "workflow_id": "a",
        "run": 1,
        "status": "completed",
        "value": {"ok": True},
        "closed_at": "2026-03-01T13:00:00Z",
    }


async def test_says_that_a_run_is_still_running(rows: Rows, reading_api: httpx.AsyncClient) -> None:
    await rows.run("a")
    response = await reading_api.get("/api/v1/runs/a/result")
    assert (response.status_code, response.json()) == (202, {"workflow_id": "a", "run": 1, "status": "running"})


async def test_waiting_for_a_result_without_kafka_is_a_problem(rows: Rows, reading_api: httpx.AsyncClient) -> None:
    await rows.run("a")
    response = await reading_api.get("/api/v1/runs/a/result?wait=1s")
    assert "Kafka does not answer" in problem(response, 503, "kafka-unavailable")["detail"]
    assert response.headers["retry-after"] == "1"


@pytest.mark.parametrize("wait", ["soon", "-1s", "1h", "1e9", "", "9" * 40])
async def test_waits_that_make_no_sense_are_refused(lone_api: httpx.AsyncClient, wait: str) -> None:
    response = await lone_api.get("/api/v1/runs/a/result", params={"wait": wait})
    assert "as in 30s" in problem(response, 422, "invalid")["detail"]


# ---- ids


IDS = (
    "a/b/c",
    "a%2Fb",
    "%",
    "a b+c&d=e?f#g",
    "/",
    "//",
    "history",
    "🧾 заказ",
    "e\u0301",
    "'; DROP TABLE runs; --",
    "../../etc",
    "a;b:c@d",
    "x" * 512,
)


async def test_an_id_is_one_segment_whatever_it_holds(rows: Rows, reading_api: httpx.AsyncClient) -> None:
    for workflow_id in IDS:
        await rows.run(workflow_id)
    for workflow_id in IDS:
        for path in ("", "/history", "/result"):
            response = await reading_api.get(f"/api/v1/runs/{quote(workflow_id, safe='')}{path}")
            assert response.json()["workflow_id"] == workflow_id
    listed = (await reading_api.get("/api/v1/runs")).json()["runs"]
    assert [run["workflow_id"] for run in listed] == list(reversed(IDS))


async def test_ids_that_differ_in_encoding_alone_are_different_ids(rows: Rows, reading_api: httpx.AsyncClient) -> None:
    await rows.run("a%2Fb", custom_status="percent")
    await rows.run("a/b", custom_status="slash")
    assert (await reading_api.get("/api/v1/runs/a%252Fb")).json()["custom_status"] == "percent"
    assert (await reading_api.get("/api/v1/runs/a%2Fb")).json()["custom_status"] == "slash"
    problem(await reading_api.get("/api/v1/runs/a/b"), 404, "no-such-path")


@pytest.mark.parametrize("encoded", ["a%00b", "a%0Ab", "%0D%0A", "%C2%85", "%FF%FE", "%ED%A0%80", "x" * 513])
async def test_what_can_be_no_id_is_refused(lone_api: httpx.AsyncClient, encoded: str) -> None:
    for path in ("", "/history", "/result"):
        problem(await lone_api.get(f"/api/v1/runs/{encoded}{path}"), 422, "invalid")


@pytest.mark.parametrize(
    "path", ["/api/v1/runs//history", "//api/v1/runs", "/nowhere", "/api/v2/runs", "/api/v1/runs/a/x"]
)
async def test_paths_that_lead_nowhere_are_not_found(rows: Rows, reading_api: httpx.AsyncClient, path: str) -> None:
    await rows.run("history")
    url = reading_api.base_url.copy_with(raw_path=path.encode())
    assert "/openapi.json" in problem(await reading_api.get(url), 404, "no-such-path")["detail"]


async def test_other_methods_are_not_allowed(lone_api: httpx.AsyncClient) -> None:
    response = await lone_api.delete("/api/v1/runs")
    problem(response, 405, "method-not-allowed")
    assert set(response.headers["allow"].split(", ")) >= {"GET", "POST"}


# ---- operating


async def test_is_alive_and_says_what_it_waits_for(lone_api: httpx.AsyncClient, unready: Unready) -> None:
    assert (await lone_api.get("/healthz")).status_code == 200
    ready = await lone_api.get("/readyz")
    assert (ready.status_code, ready.json()) == (200, {"ready": True, "reasons": []})
    unready.reasons.append("Postgres does not answer")
    waiting = await lone_api.get("/readyz")
    assert (waiting.status_code, waiting.json()) == (503, {"ready": False, "reasons": ["Postgres does not answer"]})


async def test_metrics_are_those_of_an_orchestrator(lone_api: httpx.AsyncClient) -> None:
    response = await lone_api.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=")
    assert "# TYPE everstep_runs_started_total counter" in response.text
    assert "everstep_activity_duration_seconds" not in response.text


async def test_postgres_away_is_a_problem_and_probes_still_answer(lone_api: httpx.AsyncClient) -> None:
    away = problem(await lone_api.get("/api/v1/runs"), 503, "database-unavailable")
    assert "check EVERSTEP_POSTGRES_DSN" in away["detail"]
    assert (await lone_api.get("/healthz")).status_code == 200
