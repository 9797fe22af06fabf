"""`everstep stack`: a local Kafka and PostgreSQL that outlive the command."""

from __future__ import annotations

import asyncio
import shlex

import click

from everstep.cli._failures import FINDING
from everstep.cli._output import as_json, fields, json_line
from everstep.stack import LocalStack, environment


@click.group("stack")
def stack_command() -> None:
    """A local Kafka and PostgreSQL for development, chosen by EVERSTEP_STACK; their data is kept."""


@stack_command.command("up")
def up() -> None:
    """Start it and print the environment to export: eval "$(everstep stack up)"."""
    for name, value in environment(asyncio.run(LocalStack().up())).items():
        click.echo(f"export {name}={shlex.quote(value)}")


@stack_command.command("down")
def down() -> None:
    """Stop it; the data stays."""
    ran = asyncio.run(LocalStack().down())
    click.echo("stopped" if ran else "nothing was running", err=True)


@stack_command.command("status")
@as_json
def status(as_json: bool) -> int:
    """Say what runs; exit code 1 unless both do."""
    found = asyncio.run(LocalStack().status())
    servers = {"kafka": found.kafka, "postgres": found.postgres}
    exported = environment(found.stack) if all(servers.values()) else {}
    if as_json:
        json_line({"directory": str(found.directory), "way": found.stack.way, **servers, "environment": exported})
    else:
        words = [(name, "running" if runs else "stopped") for name, runs in servers.items()]
        fields([("way", found.stack.way), *words, ("directory", str(found.directory)), *exported.items()])
    return 0 if all(servers.values()) else FINDING
