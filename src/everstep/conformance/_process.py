"""The worker under test: a process, started by the command line that was given, of which nothing else is known."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

STOP_SECONDS = 60.0
LOG_TAIL_BYTES = 2_000


class WorkerProcess:
    """A process in a group of its own, so that killing it leaves nothing behind; what it writes goes to `log`."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self._process = process
        self._log = log

    @classmethod
    async def start(cls, command: Sequence[str], environment: Mapping[str, str], log: Path) -> WorkerProcess:
        """Raises `ValueError` if there is no such program."""
        with log.open("ab") as output:
            try:
                process = await asyncio.create_subprocess_exec(
                    *command,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    env=environment,
                    start_new_session=True,
                )
            except OSError as error:
                raise ValueError(f"the worker's command {command[0]!r} cannot be run: {error}") from error
        return cls(process, log)

    @property
    def has_ended(self) -> bool:
        return self._process.returncode is not None

    def ask_to_stop(self) -> None:
        """SIGTERM, as supervisors send it: to the process alone."""
        if not self.has_ended:
            self._process.send_signal(signal.SIGTERM)

    async def exit_code(self) -> int | None:
        """How the process ended, which is awaited for a minute; None if it has not."""
        with suppress(TimeoutError):
            async with asyncio.timeout(STOP_SECONDS):
                return await self._process.wait()
        return None

    async def kill(self) -> None:
        """SIGKILL to it and all its children."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        await self._process.wait()

    def tail(self) -> str:
        """The end of what it wrote."""
        return self._log.read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace").strip() or "nothing"
