"""Workers as processes of their own."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import asdict
from pathlib import Path

from tests.worker.kit import Orchestrator, eventually

from everstep_worker.times import Times

ROOT = Path(__file__).parents[2]


class Process:
    """A worker as a process, and what it logged."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self.process = process
        self._log = log

    @property
    def log(self) -> str:
        return self._log.read_text()

    @property
    def pid(self) -> int:
        return self.process.pid

    async def ready(self) -> None:
        await eventually(lambda: "worker ready" in self.log or self.process.returncode is not None)
        assert self.process.returncode is None, self.log

    async def ended(self) -> int:
        async with asyncio.timeout(60):
            return await self.process.wait()

    async def kill(self) -> None:
        self.process.kill()
        await self.process.wait()


class Workers:
    """Starts workers of one installation, whose activities write into `directory`."""

    def __init__(self, orchestrator: Orchestrator, directory: Path, exits: AsyncExitStack) -> None:
        self._orchestrator = orchestrator
        self.directory = directory
        self._exits = exits
        self._count = 0

    async def start(self, *arguments: str, times: Times | None = None, **environment: str) -> Process:
        """With shorter `times` if they are given."""
        self._count += 1
        log = self.directory / f"log-{self._count}"
        module = "everstep_worker" if times is None else "tests.worker.timed"
        command = (sys.executable, "-m", module, *(arguments or ("tests.worker.flow:app",)))
        variables = os.environ | self._variables() | environment
        if times is not None:
            variables["WORKER_TESTS_TIMES"] = json.dumps(asdict(times))
        with log.open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                *command, cwd=ROOT, env=variables, stderr=output, stdout=output
            )
        self._exits.push_async_callback(_end, process)
        return Process(process, log)

    def _variables(self) -> dict[str, str]:
        settings = self._orchestrator.settings
        return {
            "EVERSTEP_KAFKA_BOOTSTRAP": settings.kafka_bootstrap,
            "EVERSTEP_TOPIC_PREFIX": settings.topic_prefix,
            "EVERSTEP_QUEUE_PARTITIONS": str(settings.queue_partitions),
            "EVERSTEP_GRACE_SECONDS": "20",
            "WORKER_TESTS_DIRECTORY": str(self.directory),
        }

    async def ready(self, *arguments: str, times: Times | None = None, **environment: str) -> Process:
        """One that takes commands."""
        process = await self.start(*arguments, times=times, **environment)
        await process.ready()
        return process

    def notes(self) -> list[tuple[str, int]]:
        """What was noted, with the process that did."""
        path = self.directory / "notes"
        lines = path.read_text().splitlines() if path.exists() else []
        return [(line.split()[0], int(line.split()[1])) for line in lines]

    def noted(self, count: int) -> Callable[[], bool]:
        return lambda: len(self.notes()) >= count

    def go(self) -> None:
        (self.directory / "go").touch()


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.kill()
        await process.wait()
