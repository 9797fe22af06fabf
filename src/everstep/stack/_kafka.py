"""Apache Kafka as a process: one node that is broker and controller (KRaft), on loopback."""

from __future__ import annotations

import contextlib
import json
import logging
import signal
import socket
import subprocess
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from aiokafka.client import AIOKafkaClient, CoordinationType
from aiokafka.errors import KafkaError

from everstep.stack._paths import free_port
from everstep.stack._port import StackError
from everstep.stack._process import Program, in_thread

# One collector thread and half a gigabyte suit a broker that shares a developer's machine.
JVM_FLAGS = (
    "-Xms128m",
    "-Xmx512m",
    "-XX:+UseSerialGC",
    "-XX:-UsePerfData",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
)


@dataclass(frozen=True)
class Java:
    """A Java runtime, Kafka's jars, and the flags that suit the two."""

    executable: Path
    class_path: str
    flags: tuple[str, ...] = ()
    broker_flags: tuple[str, ...] = ()

    def tool(self, *words: str) -> tuple[str, ...]:
        """The command line of one of Kafka's tools."""
        return (str(self.executable), *self.flags, "-cp", self.class_path, *words)

    def broker(self, properties: Path) -> tuple[str, ...]:
        """The command line of the broker."""
        flags = (*self.flags, *self.broker_flags)
        return (str(self.executable), *flags, "-cp", self.class_path, "kafka.Kafka", str(properties))


class KafkaRecipe:
    """A single node under `directory`."""

    name = "Kafka"
    stop_signal = signal.SIGTERM

    def __init__(self, directory: Path, find_java: Callable[[], Java]) -> None:
        self.directory = directory
        self._properties = directory / "server.properties"
        self.mark = str(self._properties)
        self._find_java = find_java
        self._java: Java | None = None
        self._settings_file = directory / "settings.json"
        self._settings = self._read_settings()

    def _read_settings(self) -> dict[str, str]:
        if self._settings_file.exists():
            settings: dict[str, str] = json.loads(self._settings_file.read_text())
            return settings
        return {"port": str(free_port()), "controller_port": str(free_port()), "cluster": new_cluster_id()}

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._settings['port']}"

    async def prepare(self) -> None:
        if self._java is None:
            self._java = await in_thread(self._find_java)
        if not self._settings_file.exists():
            await self._lay_out(self._java)

    async def _lay_out(self, java: Java) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        controller = f"127.0.0.1:{self._settings['controller_port']}"
        properties = broker_properties(self.address, controller, str(self.directory / "data"))
        self._properties.write_text("".join(f"{name}={value}\n" for name, value in properties.items()))
        await in_thread(self._format, java)
        self._settings_file.write_text(json.dumps(self._settings))

    def _format(self, java: Java) -> None:
        # An id may begin with "-", so it must not stand as a word of its own.
        arguments = ("format", f"--cluster-id={self._settings['cluster']}", "-c", str(self._properties))
        command = java.tool("kafka.tools.StorageTool", *arguments)
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own command
        if done.returncode != 0:
            raise StackError(f"Kafka could not format {self.directory}: {done.stderr.strip() or done.stdout.strip()}")

    def program(self) -> Program:
        assert self._java is not None  # noqa: S101 - `prepare` found it
        return Program(
            argv=self._java.broker(self._properties),
            log=self.directory / "log",
            death_signal=signal.SIGKILL,
        )

    async def answers(self) -> bool:
        return await kafka_answers(self.address)


def new_cluster_id() -> str:
    """An identity for a new cluster, in the form that Kafka wants."""
    return urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")


def broker_properties(broker: str, controller: str, data: str, *, listener: str | None = None) -> dict[str, str]:
    """The configuration of the node; it listens on `listener` if that is not the address that clients use."""
    return {
        "process.roles": "broker,controller",
        "node.id": "1",
        "controller.quorum.voters": f"1@{controller}",
        "listeners": f"PLAINTEXT://{listener or broker},CONTROLLER://{controller}",
        "advertised.listeners": f"PLAINTEXT://{broker}",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "controller.listener.names": "CONTROLLER",
        "inter.broker.listener.name": "PLAINTEXT",
        "log.dirs": data,
        "auto.create.topics.enable": "false",
        "group.initial.rebalance.delay.ms": "0",
        "offsets.topic.replication.factor": "1",
        "offsets.topic.num.partitions": "4",
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.min.isr": "1",
        "transaction.state.log.num.partitions": "4",
        "share.coordinator.state.topic.replication.factor": "1",
        "share.coordinator.state.topic.min.isr": "1",
        "log.segment.delete.delay.ms": "1000",
        # A killed broker that comes back is refused until its former session has ended.
        "broker.session.timeout.ms": "3000",
        "broker.heartbeat.interval.ms": "500",
    }


async def kafka_answers(address: str) -> bool:
    """Whether the broker takes part and serves consumer groups, whose topic it makes at the first question."""
    if not _listens(address):
        return False
    client = AIOKafkaClient(bootstrap_servers=address, request_timeout_ms=3000)
    try:
        with _quiet("aiokafka"):
            await client.bootstrap()
            if not client.cluster.brokers():
                return False
            await client.coordinator_lookup(CoordinationType.GROUP, "everstep")
        return True
    except (KafkaError, OSError):
        return False
    finally:
        await client.close()


def _listens(address: str) -> bool:
    host, port = address.rsplit(":", 1)
    try:
        with socket.create_connection((host, int(port)), timeout=1):
            return True
    except OSError:
        return False


@contextlib.contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Keep a library from logging errors that a server which is still starting gives rise to."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(before)
