"""What a supervisor and Prometheus see of a worker."""

from __future__ import annotations

import socket
from dataclasses import replace

import httpx
import pytest
from tests.worker import flow
from tests.worker.kit import Orchestrator, eventually, running

from everstep_worker.http import PortTaken, listen

pytestmark = pytest.mark.integration


async def test_metrics_count_what_was_done(orchestrator: Orchestrator, world: flow.World) -> None:
    async with running(flow.app, orchestrator.settings) as worker:
        await orchestrator.value_of("greet", "Ann")
        await orchestrator.failure_of("fail", "x")
        await orchestrator.failure_of("nobody_has_this", 1)
        await orchestrator.failure_of("wait", "a", timeout_seconds=0.01)
        await orchestrator.send_bytes(b"nonsense", [])
        await orchestrator.dead_letter()
        command = orchestrator.command("beat", "b", [1])
        await orchestrator.send(command)
        await orchestrator.hear(lambda: orchestrator.heartbeats(command))
        await eventually(lambda: "b" in world.began)
        async with httpx.AsyncClient() as client:
            text = (await client.get(f"http://{worker.address}/metrics")).text
        world.gate.set()
    for line in (
        'everstep_activity_attempts_total{activity="greet",outcome="completed"}',
        'everstep_activity_attempts_total{activity="fail",outcome="failed"}',
        'everstep_activity_attempts_total{activity="_unknown",outcome="refused"}',
        'everstep_activity_attempts_total{activity="wait",outcome="timed_out"}',
        'everstep_activity_duration_seconds_count{activity="greet"}',
        'everstep_activity_queue_seconds_count{queue="default"}',
        'everstep_activities_running{queue="default"} 1.0',
        "everstep_activities_checked_out 1.0",
        'everstep_activity_checkouts_total{activity="beat"}',
        "everstep_leases_renewed_total",
        "everstep_activity_processes 0.0",
        'everstep_dead_commands_total{reason="command"}',
    ):
        assert line in text
    assert "nobody_has_this" not in text


async def test_ready_and_healthy_until_it_stops(orchestrator: Orchestrator, world: flow.World) -> None:
    settings = replace(orchestrator.settings, concurrency=1)
    async with running(flow.app, settings) as worker, httpx.AsyncClient() as client:
        base = f"http://{worker.address}"
        assert (await client.get(f"{base}/healthz")).text == "ok\n"
        assert (await client.get(f"{base}/readyz")).status_code == 200
        assert (await client.get(f"{base}/other")).status_code == 404
        await orchestrator.failure_of("wait_in_a_thread", "stuck", timeout_seconds=0.01)
        for path in ("healthz", "readyz"):
            answer = await client.get(f"{base}/{path}")
            assert answer.status_code == 503
            assert "slots" in answer.text
        world.gate.set()
        await eventually(lambda: worker.why_unhealthy() is None)
        assert (await client.get(f"{base}/healthz")).status_code == 200


def test_the_next_free_port_unless_one_is_asked_for() -> None:
    with listen("127.0.0.1", None) as first, listen("127.0.0.1", None) as second:
        ports = [listener.getsockname()[1] for listener in (first, second)]
        assert ports == sorted(set(ports))
        with pytest.raises(PortTaken, match=f"127.0.0.1:{ports[0]}.*EVERSTEP_HTTP_PORT"):
            listen("127.0.0.1", ports[0])


def test_a_port_that_was_asked_for() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with listen("127.0.0.1", port) as listener:
        assert listener.getsockname()[1] == port
