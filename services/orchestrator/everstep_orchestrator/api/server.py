"""The HTTP server of an orchestrator: uvicorn inside the event loop and under the signal handlers of its host."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections.abc import Iterator
from ipaddress import ip_address

import uvicorn

from everstep import reads
from everstep.kafka import max_record_bytes
from everstep.settings import Settings
from everstep_orchestrator.api import application
from everstep_orchestrator.api.dependencies import Api, ApiDependencies
from everstep_orchestrator.api.peers import Peers

DEFAULT_PORT = 8080
_PORTS_TRIED = 100
# A stopping server cuts waits short at once; this is for answers under way.
_STOP_SECONDS = 5


class PortTaken(Exception):
    """Somebody else listens where this server was told to; the message says where and what to do."""


class HttpServer:
    """Serves the API of one orchestrator from `start` to `stop`."""

    def __init__(self, settings: Settings, deps: ApiDependencies) -> None:
        self._settings = settings
        self._deps = deps
        self._stopping = asyncio.Event()
        self._exits = contextlib.AsyncExitStack()

    async def start(self) -> str:
        """Listens, and returns the `host:port` at which others reach this server.

        Needs neither Postgres nor Kafka: `/healthz` and `/readyz` answer without them. Raises `PortTaken`
        when the port that was set is taken.
        """
        reader = await self._exits.enter_async_context(reads.connect(self._settings))
        listener = _listen(self._settings)
        peers = Peers()
        self._exits.push_async_callback(peers.close)
        server = _Server(self._application(reader, peers))
        serving = asyncio.create_task(server.serve(sockets=[listener]), name="http server")
        self._exits.push_async_callback(self._stop, server, serving)
        await server.listening.wait()
        return self._settings.http_advertise or _address(listener)

    async def stop(self) -> None:
        """Answers those who wait with what is known, finishes what is under way, and closes."""
        self._stopping.set()
        await self._exits.aclose()

    def _application(self, reader: reads.Reader, peers: Peers) -> uvicorn.Config:
        api = Api(
            reader=reader,
            readiness=self._deps.readiness,
            submissions=self._deps.submissions,
            lifecycle=self._deps.lifecycle,
            asker=self._deps.asker,
            peers=peers,
            max_payload_bytes=self._settings.max_payload_bytes,
            stopping=self._stopping,
        )
        return uvicorn.Config(
            application.create(api, max_body_bytes=max_record_bytes(self._settings)),
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            http="h11",
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=_STOP_SECONDS,
        )

    async def _stop(self, server: uvicorn.Server, serving: asyncio.Task[None]) -> None:
        server.should_exit = True
        await serving


class _Server(uvicorn.Server):
    """Leaves signals to the process and says when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()


def _listen(settings: Settings) -> socket.socket:
    """A bound socket: on the port that was set, else on the first free one from the default on."""
    first = DEFAULT_PORT if settings.http_port is None else settings.http_port
    last = first + _PORTS_TRIED if settings.http_port is None else first
    for port in range(first, last + 1):
        try:
            return _bind(settings.http_host, port)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
    raise PortTaken(
        f"somebody else listens on {settings.http_host}:{first}: choose another EVERSTEP_HTTP_PORT,"
        " or none for the next free port"
    )


def _bind(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(
        host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listener = socket.socket(family, kind, protocol)
    try:
        # A port whose last connections linger is free; one that somebody listens on is not.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        # At once: as long as neither listens, two processes can be bound to one port.
        listener.listen()
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    return listener


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    host = socket.gethostname() if ip_address(host).is_unspecified else host
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
