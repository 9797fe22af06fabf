"""Migrates the database and says whether it is fit for use.

Migrations are numbered files, applied in order, each in a transaction that also records it, all under one advisory
lock, so that several may be started at once. `pre` migrations only grow the schema: code older than the database runs
on it as long as it knows every `post` migration that was applied. A `post` migration removes what no running code needs
any more; it waits while an orchestrator is registered whose code does not know it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeAlias

import asyncpg

from everstep_schemas.sql import Migration, migrations, queries, quoted

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

MIN_SERVER_VERSION = 140_000
DEFAULT_SHARDS = 8
MAX_SHARDS = 1024
CONNECT_SECONDS = 5.0
STATEMENT_SECONDS = 10.0

_LOST = (OSError, TimeoutError, asyncpg.PostgresConnectionError, asyncpg.InterfaceError, asyncpg.InternalClientError)
_UNREACHABLE = (*_LOST, asyncpg.PostgresError, ValueError)


class DatabaseError(Exception):
    """The database cannot be used as it is; the message says why and what to do."""


class DatabaseUnreachable(DatabaseError):
    """Nobody answers at the address, or not to this user."""


@dataclass(frozen=True, slots=True)
class Database:
    """What a check found."""

    server_version: int
    shards: int


@dataclass(frozen=True, slots=True)
class Migrated:
    """What `migrate` did. `waiting` names post-migrations that older orchestrators still hold up."""

    applied: tuple[Migration, ...]
    waiting: tuple[Migration, ...]
    shards: int


async def migrate(
    dsn: str, schema: str = "everstep", shards: int | None = None, *, known: Iterable[Migration] | None = None
) -> Migrated:
    """Bring the database to what this code knows. Safe to repeat and to run from several places at once.

    The first migration stores the number of shards (8 unless given), which never changes; a later `shards` that differs
    is a `DatabaseError`, as is a database that newer code has migrated.
    """
    steps = tuple(migrations() if known is None else known)
    async with _connection(dsn) as connection:
        await _check_server(connection)
        sql = queries("admin", schema)
        await connection.execute("SET statement_timeout = 0")
        await connection.execute(sql["lock"], schema)
        applied = await _applied(connection, sql, schema)
        if newer := sorted(set(applied) - {step.number for step in steps}):
            raise DatabaseError(
                f"schema {schema!r} was migrated to {newer[-1]} by newer code than this: run `everstep migrate` there"
            )
        pending = [step for step in steps if step.number not in applied]
        done = await _apply(connection, sql, schema, pending)
        stored = await _fix_shards(connection, sql, schema, shards)
        return Migrated(tuple(done), tuple(pending[len(done) :]), stored)


async def check(
    connection: Connection,
    schema: str = "everstep",
    shards: int | None = None,
    *,
    known: Iterable[Migration] | None = None,
) -> Database:
    """Whether the database is fit for this code: version, migrations, number of shards, writable.

    Reads alone, in a few milliseconds. Raises `DatabaseError`, and what asyncpg raises when the connection is lost.
    """
    version = await _check_server(connection)
    sql = queries("admin", schema)
    applied = await _applied(connection, sql, schema)
    steps = tuple(migrations() if known is None else known)
    if missing := [step for step in steps if step.phase == "pre" and step.number not in applied]:
        raise DatabaseError(
            f"schema {schema!r} lacks migration {missing[0].number} ({missing[0].name}): run `everstep migrate`"
        )
    numbers = {step.number for step in steps}
    if unknown := [number for number, phase in applied.items() if phase == "post" and number not in numbers]:
        raise DatabaseError(
            f"schema {schema!r} has migration {unknown[0]}, which removed what this code needs: start a newer version"
        )
    stored = await connection.fetchval(sql["shards"])
    if stored is None:
        raise DatabaseError(f"schema {schema!r} was migrated in part: run `everstep migrate`")
    _check_shards(schema, stored, shards)
    return Database(version, stored)


async def check_reachable(dsn: str, schema: str = "everstep", shards: int | None = None) -> Database:
    """`check` over a connection of its own; `DatabaseUnreachable` when there is none to be had."""
    async with _connection(dsn) as connection:
        return await check(connection, schema, shards)


@asynccontextmanager
async def _connection(dsn: str) -> AsyncIterator[Connection]:
    try:
        connection: Connection = await asyncpg.connect(
            dsn,
            timeout=CONNECT_SECONDS,
            server_settings={
                "application_name": "everstep admin",
                "statement_timeout": str(int(STATEMENT_SECONDS * 1000)),
            },
        )
    except _UNREACHABLE as error:
        why = str(error) or type(error).__name__
        raise DatabaseUnreachable(
            f"Postgres cannot be reached ({why}): check EVERSTEP_POSTGRES_DSN and the server"
        ) from error
    try:
        yield connection
    except _LOST as error:
        raise DatabaseUnreachable(f"the connection to Postgres was lost ({error}): try again") from error
    except asyncpg.InsufficientPrivilegeError as error:
        raise DatabaseError(
            f"{error}: grant it, or migrate as the owner of the schema (EVERSTEP_POSTGRES_DSN names the user)"
        ) from error
    finally:
        connection.terminate()


async def _check_server(connection: Connection) -> int:
    row = await connection.fetchrow(queries("admin", "everstep")["server"])
    assert row is not None  # noqa: S101  # the query has no FROM
    if row["version"] < MIN_SERVER_VERSION:
        raise DatabaseError(f"PostgreSQL {row['version'] // 10_000} is too old: Everstep needs 14 or later")
    if row["read_only"]:
        raise DatabaseError("this PostgreSQL is read-only: let EVERSTEP_POSTGRES_DSN name the primary")
    return int(row["version"])


async def _applied(connection: Connection, sql: dict[str, str], schema: str) -> dict[int, str]:
    """The phases of the migrations recorded, by number."""
    if not await connection.fetchval(sql["migrated"], f"{quoted(schema)}.migrations"):
        return {}
    return {row["number"]: row["phase"] for row in await connection.fetch(sql["applied"])}


async def _apply(connection: Connection, sql: dict[str, str], schema: str, pending: list[Migration]) -> list[Migration]:
    """Apply in order, up to the first post-migration that running code holds up."""
    await connection.execute(f"CREATE SCHEMA IF NOT EXISTS {quoted(schema)}")
    for position, step in enumerate(pending):
        if step.phase == "post" and await connection.fetch(sql["older_members"], step.number):
            return pending[:position]
        try:
            async with connection.transaction():
                await connection.execute(step.sql(schema))
                await connection.execute(sql["record"], step.number, step.phase, step.name)
        except asyncpg.PostgresError as error:
            raise DatabaseError(
                f"migration {step.number} ({step.name}) of schema {schema!r} failed and was undone: {error}"
            ) from error
    return pending


async def _fix_shards(connection: Connection, sql: dict[str, str], schema: str, shards: int | None) -> int:
    if shards is not None and not 1 <= shards <= MAX_SHARDS:
        raise DatabaseError(f"EVERSTEP_SHARDS is {shards}: 1 to {MAX_SHARDS} are possible")
    async with connection.transaction():
        await connection.execute(sql["fix_shards"], str(shards or DEFAULT_SHARDS))
        await connection.execute(sql["create_shards"])
    stored = int(await connection.fetchval(sql["shards"]))
    _check_shards(schema, stored, shards)
    return stored


def _check_shards(schema: str, stored: int, wanted: int | None) -> None:
    if wanted is not None and wanted != stored:
        raise DatabaseError(
            f"EVERSTEP_SHARDS is {wanted}, but schema {schema!r} was made with {stored} shards, which never changes: "
            f"set it to {stored} or leave it out"
        )
