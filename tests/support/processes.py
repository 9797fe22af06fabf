"""Orchestrators and workers as real processes, to be started, killed and started again by tests.

Whatever a test does, leaving `Services` ends every process it started. A service that ends by itself, or never becomes
ready, is an `AssertionError` with the end of its log.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import msgspec

ROOT = Path(__file__).parents[2]
READY_SECONDS = 60.0
STOP_SECONDS = 60.0
_POLL_SECONDS = 0.03
_LOG_TAIL_BYTES = 5000


class Service:
    """One orchestrator or worker, at the same address and with the same log through all of its lives."""

    def __init__(self, name: str, arguments: list[str], environment: Mapping[str, str], log: Path) -> None:
        self.name = name
        self.address = f"127.0.0.1:{_free_port()}"
        self._arguments = arguments
        self._environment = {**environment, "EVERSTEP_HTTP_PORT": self.address.rpartition(":")[2]}
        self._log = log
        self._process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    @property
    def process(self) -> asyncio.subprocess.Process:
        """The latest life of the service; its `pid` and `returncode` are of interest."""
        assert self._process is not None, f"{self.name} was never started"
        return self._process

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def start(self) -> None:
        """Starts the process, for the first time or again, without waiting for anything."""
        assert not self.running, f"{self.name} runs already"
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                *self._arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment,
                cwd=ROOT,
            )

    async def ready(self, seconds: float = READY_SECONDS) -> None:
        """Returns once `/readyz` says so."""
        async with httpx.AsyncClient(base_url=self.url) as http:
            await self._until(lambda: _is_ready(http), "to be ready", seconds)

    async def logged(self, event: str, seconds: float = READY_SECONDS) -> dict[str, Any]:
        """The first line of the log with this event, once there is one."""

        async def found() -> dict[str, Any] | None:
            return next((line for line in self.log_lines() if line.get("event") == event), None)

        line: dict[str, Any] = await self._until(found, f"to log {event!r}", seconds)
        return line

    async def kill(self) -> None:
        """SIGKILL: nothing is handed over, flushed or closed."""
        self.process.kill()
        await self.process.wait()

    async def terminate(self, seconds: float = STOP_SECONDS) -> int:
        """SIGTERM; the exit code, once the service has stopped in good order."""
        self.process.send_signal(signal.SIGTERM)
        return await self.ended(seconds)

    async def ended(self, seconds: float = STOP_SECONDS) -> int:
        """The exit code, once the process has ended by itself."""
        try:
            async with asyncio.timeout(seconds):
                return await self.process.wait()
        except TimeoutError:
            raise AssertionError(f"{self.name} did not end within {seconds:g} s.{self.log_tail()}") from None

    def log_lines(self) -> list[dict[str, Any]]:
        """The log of all lives as far as it is written; what is no JSON object stands under `text`."""
        return [_parsed(line) for line in self._log.read_bytes().splitlines()] if self._log.exists() else []

    def log_tail(self) -> str:
        """The end of the log, for the message of a failure."""
        text = self._log.read_bytes()[-_LOG_TAIL_BYTES:].decode(errors="replace") if self._log.exists() else ""
        return f" The end of its log:\n{text}"

    async def _until(self, ask: Callable[[], Any], what: str, seconds: float) -> Any:
        try:
            async with asyncio.timeout(seconds):
                while not (answer := await ask()):
                    assert self.running, f"{self.name} ended with {self.process.returncode}.{self.log_tail()}"
                    await asyncio.sleep(_POLL_SECONDS)
                return answer
        except TimeoutError:
            raise AssertionError(f"{self.name} took more than {seconds:g} s {what}.{self.log_tail()}") from None


class Services:
    """Makes services that share an environment; every process they have is killed at the end.

    `environment` holds the settings, as in `EVERSTEP_KAFKA_BOOTSTRAP`; those of the test's own process do not count.
    Further settings of one service are given by field name, as in `orchestrator(app, cache_runs=0)`.
    """

    def __init__(self, directory: Path, environment: Mapping[str, str]) -> None:
        own = {name: value for name, value in os.environ.items() if not name.startswith("EVERSTEP_")}
        self._environment = {**own, "EVERSTEP_LOG_FORMAT": "json", **environment}
        self._directory = directory
        self._services: list[Service] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        for service in self._services:
            if service.running:
                await service.kill()

    async def orchestrator(self, app: str, **settings: object) -> Service:
        """A started orchestrator of `MODULE:app`, as seen from the repository's root."""
        return await self._started("orchestrator", [app], settings)

    async def worker(self, app: str, *arguments: str, **settings: object) -> Service:
        """A started worker of `MODULE:app`; `arguments` are those of its command line."""
        return await self._started("worker", [app, *arguments], settings)

    async def _started(self, kind: str, arguments: list[str], settings: Mapping[str, object]) -> Service:
        name = f"{kind}-{len(self._services)}"
        environment = {f"EVERSTEP_{field.upper()}": str(value) for field, value in settings.items()}
        service = Service(
            name,
            [f"everstep_{kind}", *arguments],
            {**self._environment, **environment},
            self._directory / f"{name}.log",
        )
        self._services.append(service)
        await service.start()
        return service


async def _is_ready(http: httpx.AsyncClient) -> bool:
    try:
        return (await http.get("/readyz")).is_success
    except httpx.TransportError:
        return False


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        parsed = msgspec.json.decode(line)
    except msgspec.DecodeError:
        parsed = None
    return parsed if isinstance(parsed, dict) else {"text": line.decode(errors="replace")}


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port
