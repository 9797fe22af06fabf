"""`/metrics`, `/healthz` and `/readyz` of a worker, on its own event loop."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from typing import Any, Protocol

import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

FIRST_PORT = 8081
PORTS_TRIED = 100
STOP_SECONDS = 2.0

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class Health(Protocol):
    """What a supervisor may ask: each says what is wrong, or None."""

    def why_unhealthy(self) -> str | None:
        """A restart would help."""

    def why_unready(self) -> str | None:
        """It does no work now."""


class PortTaken(OSError):
    """The address cannot be listened on; the message says which and what to set."""


def listen(host: str, port: int | None) -> socket.socket:
    """A socket on `port`, or, if none was asked for, on the first free one from 8081 on."""
    ports = [port] if port is not None else range(FIRST_PORT, FIRST_PORT + PORTS_TRIED)
    for candidate in ports:
        try:
            return _bind(host, candidate)
        except OSError as error:
            reason = error
    raise PortTaken(f"cannot listen on {host}:{port or FIRST_PORT} ({reason}): set EVERSTEP_HTTP_PORT to a free one")


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen()  # else another could bind the same port until this one is served
    except OSError:
        listener.close()
        raise
    return listener


class Http:
    """Serves until it is closed."""

    def __init__(self, listener: socket.socket, registry: CollectorRegistry, health: Health) -> None:
        self._listener = listener
        config = uvicorn.Config(_app(registry, health), log_config=None, access_log=False, lifespan="off")
        self._server = _Server(config)
        self._task: asyncio.Task[None] | None = None

    @property
    def address(self) -> str:
        host, port, *_ = self._listener.getsockname()
        return f"{host}:{port}"

    def start(self) -> None:
        self._task = asyncio.create_task(self._server.serve(sockets=[self._listener]))

    async def close(self) -> None:
        self._server.should_exit = True
        if self._task is not None:
            done, _ = await asyncio.wait([self._task], timeout=STOP_SECONDS)
            if not done:
                self._task.cancel()
        self._listener.close()


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are the worker's business."""
        yield


def _app(registry: CollectorRegistry, health: Health) -> Any:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        status, content_type, body = _respond(scope["path"], registry, health)
        headers = [(b"content-type", content_type.encode()), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return app


def _respond(path: str, registry: CollectorRegistry, health: Health) -> tuple[int, str, bytes]:
    match path:
        case "/metrics":
            return 200, CONTENT_TYPE_LATEST, generate_latest(registry)
        case "/healthz":
            return _check(health.why_unhealthy())
        case "/readyz":
            return _check(health.why_unready())
        case _:
            return _text(404, "a worker has /metrics, /healthz and /readyz")


def _check(why: str | None) -> tuple[int, str, bytes]:
    return _text(200, "ok") if why is None else _text(503, why)


def _text(status: int, text: str) -> tuple[int, str, bytes]:
    return status, "text/plain; charset=utf-8", f"{text}\n".encode()
