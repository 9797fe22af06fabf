"""Connections to Postgres: how a session is set up, and a few of them kept ready.

A connection on which anything went wrong is closed, never used again: what its server process still does is unknown.
The next caller gets a new one. Statements are prepared once per connection, by asyncpg's cache of statements.
Sessions and prepared statements need direct connections or a pooler in session mode.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import TypeAlias

import asyncpg

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

# All that a call may raise when Postgres is away, refuses, or goes away meanwhile. asyncpg's internal errors are among
# them: it raises one when a server that shuts down says so between two calls.
FAILURES = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)

CONNECT_SECONDS = 5.0
STATEMENT_SECONDS = 10.0
CLIENT_CHECK_SECONDS = 1.0
# The server gives up at its own timeout; the client's is for a server or a network that is silent.
SILENCE_SECONDS = 1.0

_POSTGRES_EPOCH = 946_684_800_000_000

_SETTINGS = {
    # The fence judges the newest version of a row, which only this level does without an error.
    "default_transaction_isolation": "read committed",
    # What is published must be durable, whatever the server's default.
    "synchronous_commit": "on",
    "idle_in_transaction_session_timeout": "10s",
    # A shard may be quiet for days.
    "idle_session_timeout": "0",
    # A vanished machine's sessions, and with them their locks, end within about twenty seconds.
    "tcp_keepalives_idle": "10s",
    "tcp_keepalives_interval": "3s",
    "tcp_keepalives_count": "3",
    # Statements are short: compiling them costs more than running them.
    "jit": "off",
    # Arrays differ in length and in nothing that a plan depends on: one plan per statement and connection. It may be
    # made while the tables are empty and be used when they are large, so it must not rest on their size.
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
}


async def connect(dsn: str, application_name: str, *, statement_seconds: float = STATEMENT_SECONDS) -> Connection:
    """A session as Everstep needs it, in which instants are integers: microseconds since 1970.

    A statement that takes longer than `statement_seconds` ends in an error or, when nothing answers, a `TimeoutError`.
    Raises one of `FAILURES` when the server is not reachable or refuses.
    """
    connection: Connection = await asyncpg.connect(
        dsn,
        timeout=CONNECT_SECONDS,
        command_timeout=statement_seconds + SILENCE_SECONDS,
        max_cached_statement_lifetime=0,
        max_cacheable_statement_size=0,
        server_settings={
            **_SETTINGS,
            "application_name": application_name,
            "statement_timeout": f"{statement_seconds * 1000:.0f}",
        },
    )
    try:
        await _prepare(connection)
    except BaseException:
        connection.terminate()
        raise
    return connection


async def _prepare(connection: Connection) -> None:
    await connection.set_type_codec(
        "timestamptz", schema="pg_catalog", encoder=_instant_out, decoder=_instant_in, format="tuple"
    )
    # Servers on some systems cannot watch a client while they work and refuse the setting.
    with suppress(asyncpg.InvalidParameterValueError):
        await connection.execute(f"SET client_connection_check_interval = '{CLIENT_CHECK_SECONDS:g}s'")


def _instant_out(microseconds: int) -> tuple[int]:
    return (microseconds - _POSTGRES_EPOCH,)


def _instant_in(stored: tuple[int]) -> int:
    return stored[0] + _POSTGRES_EPOCH


class Connections:
    """Up to `size` connections, made when first needed; the one used last is given out first, its caches being warm."""

    def __init__(self, dsn: str, application_name: str, size: int) -> None:
        self._dsn = dsn
        self._application_name = application_name
        self._free = asyncio.Semaphore(size)
        self._idle: list[Connection] = []

    @asynccontextmanager
    async def use(self) -> AsyncIterator[Connection]:
        """A connection for one call; an exception in the block closes it."""
        async with self._free:
            connection = await self._take()
            try:
                yield connection
            except BaseException:
                connection.terminate()
                raise
            self._idle.append(connection)

    async def _take(self) -> Connection:
        while self._idle:
            connection = self._idle.pop()
            if not connection.is_closed():
                return connection
        return await connect(self._dsn, self._application_name)

    async def close(self) -> None:
        """Close what is idle. Calls under way must have ended."""
        idle, self._idle = self._idle, []
        for connection in idle:
            with suppress(*FAILURES):
                await connection.close(timeout=1.0)

    def __repr__(self) -> str:
        return f"<Connections {self._application_name!r}, {len(self._idle)} idle>"
