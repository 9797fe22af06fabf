"""A pair of servers that are processes of this machine."""

from __future__ import annotations

import asyncio
from pathlib import Path

from everstep.stack._port import Server
from everstep.stack._process import Detached, Guardian, Launcher, ProcessServer, Recipe


class ProcessHost:
    """Kafka and PostgreSQL as processes, detached or tied to this process by a guardian."""

    kafka: Server
    postgres: Server

    def __init__(self, kafka: Recipe, postgres: Recipe, directory: Path, *, temporary: bool, detached: bool) -> None:
        self._launcher: Launcher = Detached() if detached else Guardian(remove=directory if temporary else None)
        self.kafka = ProcessServer(kafka, self._launcher)
        self.postgres = ProcessServer(postgres, self._launcher)

    async def close(self) -> None:
        await asyncio.to_thread(self._launcher.close)
