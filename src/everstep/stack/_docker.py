"""The docker way: the official images of Kafka and PostgreSQL, through testcontainers.

Containers of a process that owns them are removed when it ends, by testcontainers' reaper even after SIGKILL; detached
ones are left out of its reach. Data that is to stay lives in named volumes, so it does not depend on a container.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
import socket
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from everstep.stack._jars import kafka_version
from everstep.stack._kafka import broker_properties, kafka_answers, new_cluster_id
from everstep.stack._paths import free_port
from everstep.stack._port import Host, Server, StackError
from everstep.stack._postgres import DATABASE, SETTINGS, USER, dsn, postgres_answers

if TYPE_CHECKING:
    from docker.models.containers import Container

DAEMON = "unix:///var/run/docker.sock"
POSTGRES_IMAGE = "postgres:18"
START_SECONDS = 90.0
STOP_SECONDS = 30
CONTROLLER_PORT = 14999  # inside the container only, outside of the range that listeners take theirs from


class Docker:
    """Kafka and PostgreSQL in containers, published on loopback only."""

    name = "docker"

    def missing(self) -> str | None:
        if find_spec("testcontainers") is None:
            return "testcontainers not installed: pip install 'everstep[docker]'"
        from testcontainers.core.docker_client import get_docker_host

        host = get_docker_host() or DAEMON
        if not host.startswith("unix://"):
            return f"the Docker daemon is not on this machine but at {host}"
        return None if _accepts(host.removeprefix("unix://")) else f"no Docker daemon answers at {host}"

    def host(self, directory: Path, *, temporary: bool, detached: bool) -> Host:
        return DockerHost(directory, temporary=temporary, detached=detached)


@dataclass(frozen=True)
class Image:
    """What to run in a container."""

    name: str
    port: int  # inside
    data: str  # inside
    environment: Mapping[str, str]
    command: list[str] | None = None


class DockerHost:
    """The two containers of one directory."""

    kafka: Server
    postgres: Server

    def __init__(self, directory: Path, *, temporary: bool, detached: bool) -> None:
        settings = _settings(directory)
        name = f"everstep-{hashlib.sha256(str(directory).encode()).hexdigest()[:12]}"
        kept: dict[str, bool] = {"volume": not temporary, "reaped": not detached}
        bootstrap, database = (
            f"127.0.0.1:{settings['kafka']}",
            dsn(settings["password"], settings["postgres"], DATABASE),
        )
        self._containers = (
            ContainerServer(_kafka(settings), f"{name}-kafka", settings["kafka"], bootstrap, kafka_answers, **kept),
            ContainerServer(
                _postgres(settings), f"{name}-postgres", settings["postgres"], database, postgres_answers, **kept
            ),
        )
        self.kafka, self.postgres = self._containers

    async def close(self) -> None:
        for container in self._containers:
            await container.remove()


class ContainerServer:
    """A `Server` that is a container known by its name."""

    def __init__(
        self, image: Image, name: str, port: str, address: str, answers: Callable[[str], Awaitable[bool]],
        *, volume: bool, reaped: bool,
    ) -> None:  # fmt: skip
        self.address = address
        self._image = image
        self._name = name
        self._port = port
        self._answers = answers
        self._volume = volume
        self._reaped = reaped

    async def start(self) -> None:
        if not await self.running():
            await asyncio.to_thread(self._run)
        deadline = asyncio.get_running_loop().time() + START_SECONDS
        while not await self._answers(self.address):
            if asyncio.get_running_loop().time() > deadline or not await self.running():
                raise StackError(f"{self._image.name} did not answer; see `docker logs {self._name}`")
            await asyncio.sleep(0.1)

    async def stop(self) -> None:
        await asyncio.to_thread(self._do, lambda container: container.stop(timeout=STOP_SECONDS))

    async def kill(self) -> None:
        await asyncio.to_thread(self._do, lambda container: container.kill())

    async def running(self) -> bool:
        states: list[str] = []
        await asyncio.to_thread(self._do, lambda container: states.append(container.status))
        return bool(states)

    async def remove(self) -> None:
        """Remove the container; data in a named volume stays."""
        await asyncio.to_thread(self._do, lambda container: container.remove(force=True, v=True), every=True)

    def _do(self, action: Callable[[Container], Any], *, every: bool = False) -> None:
        """Apply `action` to the container if it runs, or if it exists at all (`every`)."""
        import docker
        from testcontainers.core.docker_client import DockerClient

        client = DockerClient().client
        try:
            container = client.containers.get(self._name)
            if every or container.status == "running":
                action(container)
        except docker.errors.NotFound:
            pass
        finally:
            client.close()

    def _run(self) -> None:
        started: list[bool] = []

        def again(container: Container) -> None:
            container.start()
            started.append(True)

        self._do(again, every=True)
        if not started:
            self._create()

    def _create(self) -> None:
        from testcontainers.core.config import testcontainers_config
        from testcontainers.core.container import DockerContainer

        testcontainers_config.ryuk_disabled = not self._reaped
        container = DockerContainer(self._image.name, name=self._name, env=dict(self._image.environment))
        container.ports[f"{self._image.port}/tcp"] = ("127.0.0.1", int(self._port))  # type: ignore[assignment]  # docker takes a host too
        if self._volume:
            container.with_volume_mapping(self._name, self._image.data, "rw")
        if self._image.command:
            container.with_command(self._image.command)
        container.start()
        container.get_docker_client().client.close()


def _accepts(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(path) == 0


def _settings(directory: Path) -> dict[str, str]:
    file = directory / "docker.json"
    if not file.exists():
        directory.mkdir(parents=True, exist_ok=True)
        file.touch(mode=0o600)
        new = {"kafka": str(free_port()), "postgres": str(free_port()), "password": secrets.token_urlsafe(12)}
        file.write_text(json.dumps({**new, "cluster": new_cluster_id()}))
    settings: dict[str, str] = json.loads(file.read_text())
    return settings


def variable(name: str) -> str:
    """The environment variable by which Kafka's image takes a setting."""
    return f"KAFKA_{name.upper().replace('.', '_')}"


def _kafka(settings: Mapping[str, str]) -> Image:
    # The broker also connects to the address that it advertises, so it listens on the published port inside as well.
    port, data = settings["kafka"], "/var/lib/kafka/data"
    properties = broker_properties(
        f"127.0.0.1:{port}", f"127.0.0.1:{CONTROLLER_PORT}", data, listener=f"0.0.0.0:{port}"
    )
    environment = {variable(name): value for name, value in properties.items()}
    image = f"apache/kafka:{kafka_version()}"
    return Image(image, int(port), data, {**environment, "CLUSTER_ID": settings["cluster"]})


def _postgres(settings: Mapping[str, str]) -> Image:
    environment = {"POSTGRES_USER": USER, "POSTGRES_PASSWORD": settings["password"], "POSTGRES_DB": DATABASE}
    command = [word for name, value in SETTINGS.items() for word in ("-c", f"{name}={value}")]
    return Image(POSTGRES_IMAGE, 5432, "/var/lib/postgresql", environment, command)
