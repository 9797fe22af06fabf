"""The composition root: settings and code in, a running orchestrator out.

SIGTERM and SIGINT drain: no more input, every commit finished and published, shards handed over one by one, then the
rest closed. A second signal, or the end of the grace time, ends at once; nothing is lost by that either.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import platform
import secrets
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import structlog
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError
from everstep import kafka, logging, telemetry
from everstep._core.engine import Engine
from everstep._watchdog import Watchdog
from everstep.admin import database
from everstep.app import App, LoadError, load
from everstep.settings import Settings, SettingsError
from everstep_schemas.names import Topics

from everstep_orchestrator.api import ApiDependencies, HttpServer
from everstep_orchestrator.kafka.intake import Intake
from everstep_orchestrator.kafka.publisher import Publisher
from everstep_orchestrator.kafka.queues import Queues
from everstep_orchestrator.kafka.reporting import Reporter
from everstep_orchestrator.membership import Membership
from everstep_orchestrator.pipeline.cache import Cache
from everstep_orchestrator.pipeline.counting import Counting
from everstep_orchestrator.pipeline.deciding import Rules
from everstep_orchestrator.pipeline.incoming import Reader
from everstep_orchestrator.pipeline.runtime import Pipeline
from everstep_orchestrator.store import Store

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
        app = load(options.app)
    except (SettingsError, LoadError) as error:
        print(f"error: {error}", file=sys.stderr)
        return CONFIGURATION
    return _run(settings, app)


def _run(settings: Settings, app: App) -> int:
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(serve(settings, app))
    except database.DatabaseError as error:
        log.error("the database cannot be used", error=str(error))
        return CONFIGURATION
    except (KafkaError, OSError) as error:
        log.error("a server cannot be reached", error=f"{type(error).__name__}: {error}")
        return UNREACHABLE
    return DONE


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def now_us() -> int:
    """The present instant, in microseconds since the epoch."""
    return time.time_ns() // 1000
