"""The Compose file gives the same pair as `everstep stack up`."""

from __future__ import annotations

import re
from pathlib import Path

from everstep.stack import _docker, _jars, _kafka

COMPOSE = Path(__file__).parents[2] / "deploy" / "local" / "compose.yaml"


def test_compose_runs_the_same_versions_on_loopback_only() -> None:
    text = COMPOSE.read_text()
    images = re.findall(r"image: (\S+)", text)
    assert images == [f"apache/kafka:{_jars.kafka_version()}", _docker.POSTGRES_IMAGE]
    ports = re.findall(r"ports: \[(.*)\]", text)
    assert len(ports) == len(images)
    assert all(port.startswith('"127.0.0.1:') for port in ports)


def test_compose_configures_the_broker_alike() -> None:
    text = COMPOSE.read_text()
    wanted = _kafka.broker_properties(
        "127.0.0.1:9092", "127.0.0.1:9093", "/var/lib/kafka/data", listener="0.0.0.0:9092"
    )
    given = {name: value.strip('"') for name, value in re.findall(r"(KAFKA_\w+): (\S+)", text)}
    assert given == {_docker.variable(name): value for name, value in wanted.items()}
