"""Migrations: their sum, their safety, and what is refused."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest

from everstep.admin import database
from everstep.admin.database import DatabaseError, DatabaseUnreachable
from everstep_schemas.sql import Migration, migrations, queries, quoted, schema_sql

pytestmark = pytest.mark.integration

ADD = Migration(9001, "pre", "add", "ALTER TABLE {schema}.parked ADD extra integer")
DROP = Migration(9002, "post", "drop", "ALTER TABLE {schema}.parked DROP extra")
BAD = Migration(9003, "pre", "bad", "CREATE TABLE {schema}.half (); SELECT 1/0")

CATALOG = """
SELECT 'column' AS kind, format('%s.%s', c.relname, a.attname) AS name,
       format('%s %s %s %s %s', a.attnum, format_type(a.atttypid, a.atttypmod), a.attnotnull,
              a.attcollation::regcollation, pg_get_expr(d.adbin, d.adrelid)) AS what
FROM pg_class c
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
WHERE c.relnamespace = $1::text::regnamespace AND c.relkind IN ('r', 'v')
UNION ALL
SELECT 'relation', relname, format('%s %s', relkind, reloptions) FROM pg_class
WHERE relnamespace = $1::text::regnamespace
UNION ALL
SELECT 'index', indexrelid::regclass::text, pg_get_indexdef(indexrelid) FROM pg_index
JOIN pg_class c ON c.oid = indrelid WHERE c.relnamespace = $1::text::regnamespace
UNION ALL
SELECT 'constraint', conname, pg_get_constraintdef(oid) FROM pg_constraint
WHERE connamespace = $1::text::regnamespace
UNION ALL
SELECT 'view', relname, pg_get_viewdef(oid) FROM pg_class
WHERE relnamespace = $1::text::regnamespace AND relkind = 'v'
ORDER BY 1, 2, 3
"""


@pytest.fixture
async def connection(postgres_dsn: str) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    connection = await asyncpg.connect(postgres_dsn)
    yield connection
    await connection.close()


async def catalog(connection: asyncpg.Connection[asyncpg.Record], schema: str) -> list[tuple[str, ...]]:
    rows = await connection.fetch(CATALOG, schema)
    return [tuple(str(value).replace(f"{schema}.", "") for value in row) for row in rows]


async def test_schema_sql_is_the_sum_of_the_migrations(
    postgres_dsn: str, connection: asyncpg.Connection[asyncpg.Record]
) -> None:
    await database.migrate(postgres_dsn, "migrated")
    await connection.execute("CREATE SCHEMA written")
    await connection.execute(schema_sql("written"))
    assert await catalog(connection, "migrated") == await catalog(connection, "written")


async def test_migrating_twice_changes_nothing(
    postgres_dsn: str, connection: asyncpg.Connection[asyncpg.Record]
) -> None:
    first = await database.migrate(postgres_dsn, "s", 3)
    assert [step.number for step in first.applied] == [step.number for step in migrations()]
    before = await catalog(connection, "s")
    again = await database.migrate(postgres_dsn, "s")
    assert (again.applied, again.shards) == ((), 3)
    assert await catalog(connection, "s") == before
    assert await connection.fetchval("SELECT count(*) FROM s.shards") == 3


async def test_many_may_migrate_at_once(postgres_dsn: str) -> None:
    done = await asyncio.gather(*(database.migrate(postgres_dsn, "s", 2) for _ in range(5)))
    assert sorted(len(each.applied) for each in done) == [0, 0, 0, 0, len(migrations())]


async def test_the_number_of_shards_never_changes(postgres_dsn: str) -> None:
    await database.migrate(postgres_dsn, "s", 3)
    with pytest.raises(DatabaseError, match="EVERSTEP_SHARDS is 4, but schema 's' was made with 3 shards"):
        await database.migrate(postgres_dsn, "s", 4)
    with pytest.raises(DatabaseError, match="set it to 3 or leave it out"):
        await database.check_reachable(postgres_dsn, "s", 4)
    assert (await database.check_reachable(postgres_dsn, "s", 3)).shards == 3


async def test_an_impossible_number_of_shards_is_refused(postgres_dsn: str) -> None:
    with pytest.raises(DatabaseError, match="1 to 1024"):
        await database.migrate(postgres_dsn, "s", 0)


async def test_a_migration_that_fails_is_undone_and_named(
    postgres_dsn: str, connection: asyncpg.Connection[asyncpg.Record]
) -> None:
    await database.migrate(postgres_dsn, "s")
    before = await catalog(connection, "s")
    with pytest.raises(DatabaseError, match=r"migration 9003 \(bad\).*was undone: division by zero"):
        await database.migrate(postgres_dsn, "s", known=[*migrations(), BAD])
    assert await catalog(connection, "s") == before


async def test_code_older_than_a_migration_that_only_grew_runs_but_does_not_migrate(
    postgres_dsn: str, connection: asyncpg.Connection[asyncpg.Record]
) -> None:
    await database.migrate(postgres_dsn, "s", known=[*migrations(), ADD])
    await database.check(connection, "s")
    with pytest.raises(DatabaseError, match="migrated to 9001 by newer code"):
        await database.migrate(postgres_dsn, "s")


async def test_code_older_than_a_migration_that_removed_something_is_refused(
    postgres_dsn: str, connection: asyncpg.Connection[asyncpg.Record]
) -> None:
    await database.migrate(postgres_dsn, "s", known=[*migrations(), ADD, DROP])
    with pytest.raises(DatabaseError, match="migration 9002, which removed what this code needs"):
        await database.check(connection, "s")


async def test_a_removal_waits_for_the_last_orchestrator_that_does_not_know_it(
    postgres_dsn: str, connection: asyncpg.Connection[asyncpg.Record]
) -> None:
    await database.migrate(postgres_dsn, "s", known=[*migrations(), ADD])
    register = queries("membership", "s")["register"]
    await connection.execute(register, "old", 1, 60.0, False, "http://x", "host", 1, "0.1", 9001, b"{}")
    known = [*migrations(), ADD, DROP]
    held_up = await database.migrate(postgres_dsn, "s", known=known)
    assert (held_up.applied, held_up.waiting) == ((), (DROP,))
    await database.check(connection, "s", known=known)
    await connection.execute("DELETE FROM s.orchestrators")
    assert (await database.migrate(postgres_dsn, "s", known=known)).applied == (DROP,)


async def test_a_database_that_lacks_a_migration_says_what_to_run(
    postgres_dsn: str, connection: asyncpg.Connection[asyncpg.Record]
) -> None:
    with pytest.raises(DatabaseError, match=r"lacks migration 1 \(first\): run `everstep migrate`"):
        await database.check(connection, "s")
    await database.migrate(postgres_dsn, "s")
    with pytest.raises(DatabaseError, match=r"lacks migration 9001 \(add\)"):
        await database.check(connection, "s", known=[*migrations(), ADD])


async def test_a_read_only_server_is_refused(postgres_dsn: str, connection: asyncpg.Connection[asyncpg.Record]) -> None:
    await database.migrate(postgres_dsn, "s")
    await connection.execute("SET default_transaction_read_only = on")
    with pytest.raises(DatabaseError, match="read-only"):
        await database.check(connection, "s")


async def test_nobody_at_the_address() -> None:
    with pytest.raises(DatabaseUnreachable, match="EVERSTEP_POSTGRES_DSN"):
        await database.check_reachable("postgresql://u@127.0.0.1:1/d")


async def test_a_user_without_rights_learns_what_is_missing(
    postgres_dsn: str, connection: asyncpg.Connection[asyncpg.Record]
) -> None:
    role = postgres_dsn.rpartition("/")[2]
    await connection.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'secret'")
    try:
        dsn = postgres_dsn.partition("://")[2].rpartition("@")[2]
        with pytest.raises(DatabaseError, match="permission denied"):
            await database.migrate(f"postgresql://{role}:secret@{dsn}", "s")
    finally:
        await connection.execute(f"DROP ROLE {role}")


async def test_events_expand_a_history_for_people(
    postgres_dsn: str, connection: asyncpg.Connection[asyncpg.Record]
) -> None:
    """Also JSON that jsonb would refuse."""
    await database.migrate(postgres_dsn, "s")
    await connection.execute(
        "INSERT INTO s.runs (run_key, shard, workflow_id, run, workflow, version, nonce, source, status, started_at)"
        " VALUES (5, 0, 'id', 1, 'w', 1, 'n', 's', 'running', now())"
    )
    data = b'[{"kind":"a","text":"\\u0000"},{"kind":"b"}]'
    await connection.execute("INSERT INTO s.history VALUES (5, 3, now(), $1)", data)
    rows = await connection.fetch("SELECT workflow_id, run, seq, event FROM s.events ORDER BY seq")
    assert [tuple(row) for row in rows] == [
        ("id", 1, 3, '{"kind":"a","text":"\\u0000"}'),
        ("id", 1, 4, '{"kind":"b"}'),
    ]


@pytest.mark.parametrize("name", ["", "x" * 64, "ü" * 32, "a\0b"])
def test_a_name_that_postgres_would_cut_or_refuse_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="cannot name a schema"):
        quoted(name)


async def test_a_schema_may_have_any_other_name(postgres_dsn: str) -> None:
    await database.migrate(postgres_dsn, 'Select "from"; --')
    assert (await database.check_reachable(postgres_dsn, 'Select "from"; --')).shards == 8
