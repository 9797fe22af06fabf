"""The port: what demo, tests, benchmarks and commands ask of a local Kafka or PostgreSQL, whoever provides it."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol


class StackError(RuntimeError):
    """The local stack cannot do what was asked; the message says what to change."""


class Server(Protocol):
    """One server that can be started, stopped and killed, on the same port and data each time.

    Every method returns when its effect is there, not when it was asked for: after `start` the server answers,
    after `stop` and `kill` nothing listens any more.
    """

    @property
    def address(self) -> str:
        """What clients connect to: `host:port` of Kafka, the DSN of PostgreSQL."""
        ...

    async def start(self) -> None:
        """Start unless running; data of earlier runs is there again. `StackError` with the end of the log if not."""
        ...

    async def stop(self) -> None:
        """Shut down in good order; without effect when not running."""
        ...

    async def kill(self) -> None:
        """End at once, as a crash does (SIGKILL)."""
        ...

    async def running(self) -> bool:
        """Whether this very server runs; a stranger on its port or under its pid does not count."""
        ...


class Host(Protocol):
    """Where servers of one way run: keeps them apart from their owner's life, or ties them to it."""

    kafka: Server
    postgres: Server

    async def close(self) -> None:
        """Free what ties the servers to this process; temporary ones end and their data goes."""
        ...


class Way(Protocol):
    """A way to get the two servers: embedded, docker or system."""

    name: str

    def missing(self) -> str | None:
        """Why this way cannot work on this machine and what would change that, or None."""
        ...

    def host(self, directory: Path, *, temporary: bool, detached: bool) -> Host:
        """The servers whose data lives in `directory`, not yet started.

        Unless `detached` they end with this process, however it ends; `temporary` data goes with them.
        """
        ...
