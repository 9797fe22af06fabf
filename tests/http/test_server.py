"""Ports, addresses and signal handlers of the server, and the document that it serves."""

from __future__ import annotations

import signal
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import msgspec
import pytest
from tests.http.conftest import asker

from everstep.lifecycle import LifecycleTail
from everstep.settings import Settings
from everstep.submissions import SubmissionProducer
from everstep_orchestrator.api import ApiDependencies, HttpServer, PortTaken, openapi_document, problems, server

SETTINGS = Settings(kafka_bootstrap="127.0.0.1:1", postgres_dsn="postgresql://u@127.0.0.1:1/x")
ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "schemas" / "openapi.json"
GUIDE = ROOT / "docs" / "http.md"


@asynccontextmanager
async def serving(settings: Settings) -> AsyncIterator[str]:
    deps = ApiDependencies(list, SubmissionProducer(settings), LifecycleTail(settings, 1), asker())
    http = HttpServer(settings, deps)
    try:
        yield await http.start()
    finally:
        await http.stop()


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that somebody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


async def test_takes_the_next_free_port_when_none_was_set(taken: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "DEFAULT_PORT", taken)
    async with serving(SETTINGS) as first, serving(SETTINGS) as second:
        ports = [int(address.rpartition(":")[2]) for address in (first, second)]
        assert taken < ports[0] < ports[1]
        async with httpx.AsyncClient() as client:
            for address in (first, second):
                assert (await client.get(f"http://{address}/healthz")).json() == {"status": "alive"}


async def test_a_port_that_was_set_and_is_taken_is_an_error(taken: int) -> None:
    with pytest.raises(PortTaken, match=rf"listens on 127\.0\.0\.1:{taken}: choose another EVERSTEP_HTTP_PORT"):
        async with serving(replace(SETTINGS, http_port=taken)):
            pass


async def test_is_reached_at_the_advertised_address() -> None:
    async with serving(replace(SETTINGS, http_port=0, http_advertise="orchestrator-0:80")) as address:
        assert address == "orchestrator-0:80"


async def test_leaves_signals_to_the_process() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    async with serving(replace(SETTINGS, http_port=0)):
        assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


async def test_gives_the_port_back(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = replace(SETTINGS, http_port=0)
    async with serving(settings) as address:
        port = int(address.rpartition(":")[2])
    async with serving(replace(SETTINGS, http_port=port)) as address:
        assert address == f"127.0.0.1:{port}"


async def test_serves_the_document_that_is_checked_in() -> None:
    async with serving(replace(SETTINGS, http_port=0)) as address, httpx.AsyncClient() as client:
        response = await client.get(f"http://{address}/openapi.json")
    assert response.headers["content-type"] == "application/json"
    assert response.content == openapi_document()
    assert response.content == DOCUMENT.read_bytes(), (
        "the API has changed: run `python -m everstep_orchestrator.api > schemas/openapi.json`"
    )


def test_the_document_describes_every_path_and_refers_to_nothing_that_is_missing() -> None:
    document = msgspec.json.decode(openapi_document())
    assert document["openapi"].startswith("3.1.")
    assert {(method, path) for path, methods in document["paths"].items() for method in methods} == {
        ("get", "/healthz"),
        ("get", "/readyz"),
        ("get", "/metrics"),
        ("get", "/api/v1/runs"),
        ("post", "/api/v1/runs"),
        ("get", "/api/v1/runs/{workflow_id}"),
        ("get", "/api/v1/runs/{workflow_id}/history"),
        ("get", "/api/v1/runs/{workflow_id}/result"),
        ("post", "/api/v1/runs/{workflow_id}/signals/{name}"),
        ("post", "/api/v1/runs/{workflow_id}/cancel"),
        ("post", "/api/v1/runs/{workflow_id}/terminate"),
        ("get", "/api/v1/runs/{workflow_id}/queries"),
        ("get", "/api/v1/runs/{workflow_id}/queries/{name}"),
        ("post", "/api/v1/runs/{workflow_id}/updates/{name}"),
        ("post", "/api/v1/callbacks/{token}/complete"),
        ("post", "/api/v1/callbacks/{token}/fail"),
        ("post", "/api/v1/callbacks/{token}/heartbeat"),
    }
    schemas = document["components"]["schemas"]
    assert set(_references(document)) == {f"#/components/schemas/{name}" for name in schemas}
    assert schemas["StartRequest"]["additionalProperties"] is False
    assert schemas["StartRequest"]["required"] == ["workflow"]


def _references(value: object) -> list[str]:
    if isinstance(value, dict):
        own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
        return own + [reference for item in value.values() for reference in _references(item)]
    if isinstance(value, list):
        return [reference for item in value for reference in _references(item)]
    return []


def test_the_guide_names_every_path_and_every_problem() -> None:
    guide = GUIDE.read_text()
    for path in msgspec.json.decode(openapi_document())["paths"]:
        assert path in guide
    for kind in problems.KINDS:
        assert f"| `{kind.name}` | {kind.status} |" in guide
