"""Orchestrators, workers and the submitter as processes of this machine, ended in good order whatever happens."""

import asyncio
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import httpx

ROOT = Path(__file__).parents[2]
LOG_TAIL_BYTES = 3000
READY_SECONDS = 60.0
STOP_SECONDS = 30.0
POLL_SECONDS = 0.05


class ProcessError(Exception):
    """A process of the demo did not do what it is there for; the message holds the end of its log."""


class Process:
    """One process that can be started, killed and started again."""

    def __init__(self, name: str, arguments: list[str], environment: Mapping[str, str], logs: Path) -> None:
        self.name = name
        self._arguments = arguments
        self._environment = environment
        self._log = logs / f"{name}.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """In a session of its own, so that a Ctrl-C reaches the demo alone, which then ends things in order."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *self._arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment,
                cwd=ROOT,
                start_new_session=True,
            )

    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        """SIGKILL: it gets no chance to hand anything over."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def ask_to_stop(self) -> None:
        if self._process is not None and self.running():
            self._process.send_signal(signal.SIGTERM)

    def wait_for_stop(self) -> None:
        if self._process is None:
            return
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()

    async def finish(self) -> None:
        """Waits until the process has ended by itself."""
        assert self._process is not None
        await asyncio.to_thread(self._process.wait)
        self._ended()

    async def go_on(self) -> NoReturn:
        """Never returns: raises `ProcessError` when the process ends."""
        await self.finish()
        raise self._ended_early()

    def check_running(self) -> None:
        if self._ended():
            raise self._ended_early()

    def _ended_early(self) -> ProcessError:
        return ProcessError(f"{self.name} ended before it should have.{self._tail()}")

    def _ended(self) -> bool:
        assert self._process is not None
        if code := self._process.poll():
            raise ProcessError(f"{self.name} ended with exit code {code}.{self._tail()}")
        return code is not None

    def _tail(self) -> str:
        text = self._log.read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace").strip()
        return f" The end of {self._log}:\n{text}"


class Service(Process):
    """An orchestrator or a worker of the shop."""

    def __init__(self, name: str, module: str, environment: Mapping[str, str], logs: Path) -> None:
        self.address = f"127.0.0.1:{free_port()}"
        port = self.address.rpartition(":")[2]
        super().__init__(name, [module, "examples.orders.app:app"], {**environment, "EVERSTEP_HTTP_PORT": port}, logs)

    async def ready(self) -> None:
        """Returns once the service says so itself."""
        async with asyncio.timeout(READY_SECONDS), httpx.AsyncClient() as http:
            while not await self._answers(http):
                self.check_running()
                await asyncio.sleep(POLL_SECONDS)

    async def _answers(self, http: httpx.AsyncClient) -> bool:
        try:
            return (await http.get(f"http://{self.address}/readyz")).is_success
        except httpx.TransportError:
            return False


@contextmanager
def ending(*processes: Process) -> Iterator[None]:
    """Leaves none of them behind. The services stop side by side; further Ctrl-C cannot keep any alive."""
    try:
        yield
    finally:
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        for process in processes:
            process.ask_to_stop()
        for process in processes:
            process.wait_for_stop()
        signal.signal(signal.SIGINT, before)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
