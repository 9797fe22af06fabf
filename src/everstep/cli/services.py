"""`everstep orchestrator` and `everstep worker`: this process becomes the service."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

import click


def command_of(module: str, *arguments: str) -> list[str]:
    """The command line of a service."""
    return [sys.executable, "-m", module, *arguments]


@click.command("orchestrator")
@click.argument("app", metavar="MODULE:app")
def orchestrator_command(app: str) -> None:
    """Run an orchestrator for the workflows of MODULE:app until SIGTERM.

    Needs EVERSTEP_KAFKA_BOOTSTRAP and EVERSTEP_POSTGRES_DSN, and an installation that `everstep migrate` has made.
    """
    _become(command_of("everstep_orchestrator", app))


@click.command("worker")
@click.argument("app", metavar="MODULE:app")
@click.option("--queue", "queues", multiple=True, metavar="NAME[=LIMIT]", help="A queue to serve; may be repeated.")
@click.option("--concurrency", type=click.IntRange(1), metavar="N", help="The most activities at once.")
def worker_command(app: str, queues: tuple[str, ...], concurrency: int | None) -> None:
    """Run a worker for the activities of MODULE:app until SIGTERM.

    Without --queue it serves every queue that the activities of the app name. Needs EVERSTEP_KAFKA_BOOTSTRAP.
    """
    options = [part for queue in queues for part in ("--queue", queue)]
    if concurrency is not None:
        options += ["--concurrency", str(concurrency)]
    _become(command_of("everstep_worker", app, *options))


def _become(command: list[str]) -> NoReturn:
    os.execv(command[0], command)  # noqa: S606  # our own interpreter, no shell
