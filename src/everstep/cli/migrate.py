"""`everstep migrate`: the database, then the topics."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import click

from everstep.admin import database, topics
from everstep.settings import Settings


async def migrate(settings: Settings, queues: Sequence[str] = ()) -> list[str]:
    """Brings an installation up to date and says in words what that took; nothing if it was."""
    done = await database.migrate(settings.postgres_dsn, settings.postgres_schema, settings.shards)
    created = await topics.create(settings, done.shards, queues)
    return [
        *(f"applied migration {step.number} ({step.name})" for step in done.applied),
        *(f"migration {step.number} ({step.name}) waits for older orchestrators to end" for step in done.waiting),
        *(f"created topic {name}" for name in created),
    ]


@click.command("migrate")
@click.option("--queue", "queues", multiple=True, metavar="NAME", help="Also create the topic of this queue.")
def migrate_command(queues: tuple[str, ...]) -> None:
    """Create the database schema and the topics, or bring them up to date. Doing it again is safe."""
    settings = Settings.from_environment(needs=("postgres_dsn", "kafka_bootstrap"))
    for line in asyncio.run(migrate(settings, queues)) or ["nothing to do"]:
        click.echo(line)
