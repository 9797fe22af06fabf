"""Reading from Postgres beside the orchestrators: a small pool, bounded statements, and one error for its absence."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import asyncpg

from everstep.settings import Settings
from everstep_schemas.sql import queries

_CONNECT_SECONDS = 5.0
_STATEMENT_SECONDS = 10.0


class DatabaseUnavailable(Exception):
    """Postgres cannot be asked now; the message says why and what to do."""


class NotMigrated(DatabaseUnavailable):
    """The database answers and holds no installation, or an older one."""


class Database:
    """The statements of `queries/reads.sql` on a pool. Raises `DatabaseUnavailable` when Postgres does not answer."""

    def __init__(self, pool: asyncpg.Pool[asyncpg.Record], schema: str) -> None:
        self._pool = pool
        self._sql = queries("reads", schema)

    async def fetch(self, name: str, *arguments: Any) -> list[asyncpg.Record]:
        """The rows of the statement with this name."""
        with _unavailability():
            async with self._pool.acquire(timeout=_CONNECT_SECONDS) as connection:
                return await connection.fetch(self._sql[name], *arguments)

    async def first(self, name: str, *arguments: Any) -> asyncpg.Record | None:
        """The first row of the statement with this name, if there is one."""
        rows = await self.fetch(name, *arguments)
        return rows[0] if rows else None


@asynccontextmanager
async def connect(settings: Settings, connections: int) -> AsyncIterator[Database]:
    """A database with a pool of its own, which connects when first asked, so that this never waits for Postgres."""
    pool = asyncpg.create_pool(
        settings.postgres_dsn,
        min_size=0,
        max_size=connections,
        timeout=_CONNECT_SECONDS,
        command_timeout=_STATEMENT_SECONDS + _CONNECT_SECONDS,
        server_settings={
            "application_name": "everstep reads",
            "statement_timeout": str(int(_STATEMENT_SECONDS * 1000)),
            "plan_cache_mode": "force_custom_plan",
        },
    )
    await pool
    try:
        yield Database(pool, settings.postgres_schema)
    finally:
        pool.terminate()


@contextmanager
def _unavailability() -> Iterator[None]:
    """Turns the many ways in which Postgres can be away into one."""
    try:
        yield
    except asyncpg.QueryCanceledError as error:
        raise DatabaseUnavailable(
            f"Postgres took longer than {_STATEMENT_SECONDS:g} s: ask for less, or look at what keeps it busy"
        ) from error
    except (asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError, asyncpg.InvalidSchemaNameError) as error:
        raise NotMigrated(f"the database is not migrated ({error}): run `everstep migrate`") from error
    except _AWAY as error:
        why = str(error) or type(error).__name__
        raise DatabaseUnavailable(
            f"Postgres does not answer ({why}): check EVERSTEP_POSTGRES_DSN and the server"
        ) from error


_AWAY = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # a query on a connection that the server is just ending
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
)
