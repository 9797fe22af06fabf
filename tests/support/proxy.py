"""A TCP proxy that a test puts before a server to hold, delay and cut what passes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit, urlunsplit


@dataclass(eq=False)
class _Link:
    """One connection: its two ends, and the tasks that carry bytes between them."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def abandon(self) -> None:
        for task in self.tasks:
            task.cancel()
        self.client.transport.abort()

    def cut(self) -> None:
        self.abandon()
        self.server.transport.abort()


class Proxy:
    """Passes connections on to one server; `before` opens it.

    While `requests` or `answers` is cleared, bytes of that direction are kept, those on their way included.
    While `refusing`, new connections are dropped.
    """

    def __init__(self, host: str, port: int) -> None:
        self.requests = asyncio.Event()
        self.answers = asyncio.Event()
        self.requests.set()
        self.answers.set()
        self.delay_seconds = 0.0
        self.refusing = False
        self._target = (host, port)
        self._links: list[_Link] = []
        self._server: asyncio.Server | None = None

    @property
    def port(self) -> int:
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    def abandon(self) -> None:
        """Cut the clients off; the server does not learn of it and goes on with what it was asked."""
        for link in self._links:
            link.abandon()

    def cut(self) -> None:
        """Cut all connections at both ends."""
        for link in self._links:
            link.cut()

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)

    async def close(self) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        await asyncio.gather(*(task for link in self._links for task in link.tasks), return_exceptions=True)
        await self._server.wait_closed()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refusing:
            writer.transport.abort()
            return
        try:
            from_server, to_server = await asyncio.open_connection(*self._target)
        except OSError:
            writer.transport.abort()
            return
        link = _Link(writer, to_server)
        link.tasks.append(asyncio.create_task(self._carry(reader, to_server, self.requests)))
        link.tasks.append(asyncio.create_task(self._carry(from_server, writer, self.answers)))
        self._links.append(link)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, gate: asyncio.Event) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                if self.delay_seconds:
                    await asyncio.sleep(self.delay_seconds)
                await gate.wait()
                writer.write(data)
                await writer.drain()
        writer.close()


@contextlib.asynccontextmanager
async def before(dsn: str) -> AsyncIterator[tuple[Proxy, str]]:
    """A proxy before the server of a DSN, and the DSN that leads through it."""
    parts = urlsplit(dsn)
    proxy = Proxy(parts.hostname or "127.0.0.1", parts.port or 5432)
    await proxy.open()
    user, at, _ = parts.netloc.rpartition("@")
    try:
        yield proxy, urlunsplit(parts._replace(netloc=f"{user}{at}127.0.0.1:{proxy.port}"))
    finally:
        await proxy.close()
