"""The process: settings from the environment, code from its module, exit codes, signals.

SIGTERM and SIGINT drain: no more input, every commit finished and published, shards handed over one by one, then the
rest closed. A second signal, or the end of the grace time, ends at once; nothing is lost by that either.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Callable, Sequence

import structlog
from aiokafka.errors import KafkaError

from everstep import _doors, logging
from everstep.admin import database
from everstep.admin.topics import TopicError
from everstep.app import App, LoadError, load
from everstep.settings import Settings, SettingsError
from everstep_orchestrator.api import PortTaken
from everstep_orchestrator.orchestrator import Orchestrator

log = structlog.get_logger(__name__)

DONE, CONFIGURATION, UNREACHABLE = 0, 2, 3


def main(arguments: Sequence[str]) -> int:
    """Runs until a signal; the exit code says whether the configuration or a server was at fault."""
    parser = argparse.ArgumentParser(prog="everstep_orchestrator", description="Runs an Everstep orchestrator.")
    parser.add_argument("app", metavar="MODULE:app", help="where the workflows are registered")
    options = parser.parse_args(arguments)
    try:
        settings = Settings.from_environment()
        settings.require("kafka_bootstrap", "postgres_dsn")
        logging.configure(settings, "orchestrator")
        _doors.install()
        app = load(options.app)
    except (SettingsError, LoadError) as error:
        print(f"error: {error}", file=sys.stderr)
        return CONFIGURATION
    return _run(settings, app)


def _run(settings: Settings, app: App) -> int:
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(serve(settings, app))
    except (database.DatabaseUnreachable, KafkaError, OSError) as error:
        log.error("a server cannot be reached", error=f"{type(error).__name__}: {error}")
        return UNREACHABLE
    except (database.DatabaseError, TopicError) as error:
        log.error("Postgres or Kafka is not as it must be", error=str(error))
        return CONFIGURATION
    except PortTaken as error:
        log.error("the API cannot be served", error=str(error))
        return CONFIGURATION
    return DONE


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


async def serve(settings: Settings, app: App) -> None:
    """Runs an orchestrator until it is told to stop, then drains it."""
    found = await database.check_reachable(settings.postgres_dsn, settings.postgres_schema, settings.shards)
    stop = _stop_signals()
    async with Orchestrator(settings, app, found.shards).running() as orchestrator:
        log.info("ready", api=orchestrator.address, shards=found.shards, workflows=sorted(app.workflows))
        await orchestrator.work_until(stop)
    log.info("stopped")


def _stop_signals() -> asyncio.Event:
    """Set by the first signal; a second one ends the process at once, which loses nothing."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()

    def on_signal() -> None:
        if stop.is_set():
            os._exit(1)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    return stop
