"""The worker as a process: `python -m everstep_worker MODULE:app [--queue NAME[=LIMIT]]... [--concurrency N]`.

This is the only reader of the environment. Exit codes: 0 stopped, 2 configuration, 3 Kafka not reachable.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import replace
from typing import Any

import structlog
from aiokafka.errors import KafkaError

from everstep import logging
from everstep.admin import topics
from everstep.app import App, LoadError, load
from everstep.settings import Settings, SettingsError
from everstep_schemas.names import why_bad_queue
from everstep_worker.clients import TopicMissing
from everstep_worker.http import PortTaken
from everstep_worker.times import Times
from everstep_worker.worker import Worker, own

new_event_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
with contextlib.suppress(ImportError):  # an optional extra
    from uvloop import new_event_loop

log = structlog.stdlib.get_logger("everstep_worker")

MISCONFIGURED, UNREACHABLE = 2, 3


def main(arguments: Sequence[str] | None = None, times: Times | None = None) -> int:
    options = _options(arguments)
    try:
        settings = Settings.from_environment(needs=["kafka_bootstrap"])
        settings = replace(settings, concurrency=options.concurrency or settings.concurrency)
        app = load(options.app)
        queues = queues_of(app, options.queue, settings.concurrency)
    except (SettingsError, LoadError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return MISCONFIGURED
    logging.configure(settings, "worker")
    return run(lambda: serve(lambda: Worker(app, queues, settings, target=options.app, times=times), queues, settings))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="everstep worker", description="Executes activities of an app.")
    parser.add_argument("app", metavar="MODULE:app", help="where the App is, as in orders.flow:app")
    parser.add_argument(
        "--queue",
        action="append",
        default=[],
        metavar="NAME[=LIMIT]",
        help="a queue to serve, and the most of its activities at once; by default all that the app's activities name",
    )
    parser.add_argument("--concurrency", type=int, metavar="N", help="the most activities at once")
    return parser.parse_args(arguments)


def queues_of(app: App, wanted: Sequence[str], concurrency: int) -> dict[str, int]:
    """The queues to serve and the most that may run of each; by default those that the app's activities name."""
    named = sorted({activity.queue for activity in own(app).values()})
    if not wanted and not named:
        raise ValueError("the app has no activity of its own and no --queue is given: there is nothing to do")
    return dict(_queue(text, concurrency) for text in wanted or named)


def _queue(text: str, concurrency: int) -> tuple[str, int]:
    name, _, limit = text.partition("=")
    if why := why_bad_queue(name):
        raise ValueError(f"the queue {name!r} {why}")
    if limit and not (limit.isdecimal() and int(limit) > 0):
        raise ValueError(f"--queue {text}: the limit must be a number from 1 on")
    return name, min(int(limit or concurrency), concurrency)


def run(main: Callable[[], Coroutine[Any, Any, int]]) -> int:
    """Runs `main` to its end.

    A task that an author's code started may raise SystemExit or KeyboardInterrupt. asyncio hands these to whoever
    awaits the task, and also lets them fall out of the loop, which therefore is entered again.
    """
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        loop = runner.get_loop()
        task = loop.create_task(main())
        while True:
            try:
                return loop.run_until_complete(task)
            except (SystemExit, KeyboardInterrupt) as error:
                if task.done():
                    raise
                log.warning("an activity's task tried to end the worker", error=repr(error))


async def serve(build: Callable[[], Worker], queues: Iterable[str], settings: Settings) -> int:
    """Runs a worker until a signal stops it; a second signal ends the process at once."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, _asked_to_stop, stop, number)
    try:
        worker = build()
        try:
            await _until_stopped(_start(worker, settings, queues), stop)
        finally:
            await worker.stop()
    except (PortTaken, TopicMissing, topics.TopicError) as error:
        log.error("the worker cannot start", error=str(error))
        return MISCONFIGURED
    except KafkaError as error:
        log.error("Kafka cannot be reached", bootstrap=settings.shown("kafka_bootstrap"), error=str(error))
        return UNREACHABLE
    return 0


async def _start(worker: Worker, settings: Settings, queues: Iterable[str]) -> None:
    async with topics.admin_client(settings) as admin:
        for queue in queues:
            await topics.ensure_queue(admin, settings, queue)
    await worker.start()


async def _until_stopped(start: Coroutine[Any, Any, None], stop: asyncio.Event) -> None:
    """Starts, unless that fails or takes longer than anybody waits, and returns when a signal came."""
    starting, stopping = asyncio.create_task(start), asyncio.create_task(stop.wait())
    await asyncio.wait([starting, stopping], return_when=asyncio.FIRST_COMPLETED)
    if stopping.done():
        starting.cancel()
        await asyncio.wait([starting])
    else:
        await starting
        await stopping


def _asked_to_stop(stop: asyncio.Event, number: int) -> None:
    if stop.is_set():
        os._exit(128 + number)
    stop.set()


if __name__ == "__main__":
    sys.exit(main())
