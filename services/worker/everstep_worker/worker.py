"""Puts the parts together, starts them in order and stops them in reverse.

Stopping: nothing more is fetched or started; what runs may end within the grace time, still as a member of its groups,
so that nobody repeats it meanwhile; answers are sent, offsets committed, the groups left, resources closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Mapping
from typing import Any

import structlog

from everstep import kafka, telemetry
from everstep.app import App
from everstep.settings import Settings
from everstep_schemas.names import Topics
from everstep_worker import http
from everstep_worker.answers import Answers
from everstep_worker.consumer import QueueConsumer
from everstep_worker.control import Control
from everstep_worker.dispatch import Dispatcher, Line
from everstep_worker.meters import Meters
from everstep_worker.results import Results
from everstep_worker.runner import Runner

log = structlog.stdlib.get_logger(__name__)

MOST_THREADS = 256
BATCH_BYTES = 256 << 10
FLUSH_SECONDS = 3.0


class Worker:
    """Executes the activities of `app` that `queues` (name: the most at once) carry, until it is stopped."""

    def __init__(self, app: App, queues: Mapping[str, int], settings: Settings) -> None:
        topics = Topics(settings.topic_prefix)
        connection = kafka.connection(settings)
        self.name = settings.worker_id or f"{socket.gethostname()}-{os.getpid()}"
        self._settings = settings
        self._activities = activities = app.activities
        self._ready = False
        meters = Meters(activities)
        self._lines = [Line(queue, limit) for queue, limit in queues.items()]
        for line in self._lines:
            meters.watch(line)
        self._runner = Runner(
            activities,
            answers=Answers(self.name, settings.max_payload_bytes),
            dlq=topics.dlq,
            threads=min(settings.concurrency, MOST_THREADS),
            meters=meters,
            send=lambda parcel: self._results.send(parcel),
            ended=lambda line: self._dispatcher.release(line),
            finished=self._offsets_moved,
        )
        self._dispatcher = Dispatcher(settings.concurrency, self._lines, self._runner.start)
        self._results = Results(
            connection,
            max_batch_bytes=min(BATCH_BYTES, settings.max_payload_bytes),
            max_request_bytes=kafka.max_dead_letter_bytes(settings),
            substitute=self._runner.substitute,
            sent=self._offsets_moved,
        )
        self._consumers = [self._consumer(connection, topics, line) for line in self._lines]
        self._control = Control(connection, topics.control, self._runner)
        listener = http.listen(settings.http_host, settings.http_port)
        self._http = http.Http(listener, telemetry.WORKER, self)

    def _consumer(self, connection: dict[str, Any], topics: Topics, line: Line) -> QueueConsumer:
        return QueueConsumer(
            connection,
            topic=topics.activities(line.queue),
            group=topics.worker_group(line.queue),
            member=self._settings.worker_id or None,
            line=line,
            room=self._results.room,
            fetched=self._dispatcher.fill,
        )

    def _offsets_moved(self) -> None:
        for consumer in self._consumers:
            consumer.finished()

    # ---- life

    async def start(self) -> None:
        """Returns when commands can arrive. Raises `KafkaError` if Kafka cannot be reached."""
        self._http.start()
        await self._results.start()
        await self._control.start()
        await asyncio.gather(*(consumer.start() for consumer in self._consumers))
        await asyncio.gather(*(consumer.joined.wait() for consumer in self._consumers))
        self._ready = True
        log.info(
            "worker ready",
            worker=self.name,
            queues={line.queue: line.limit for line in self._lines},
            activities=sorted(self._activities),
            concurrency=self._settings.concurrency,
            http=self.address,
        )

    async def stop(self) -> None:
        """Finishes what runs, within the grace time, and closes everything."""
        self._ready = False
        deadline = time.monotonic() + self._settings.grace_seconds
        log.info("worker stopping", running=self._dispatcher.running, grace_seconds=self._settings.grace_seconds)
        self._dispatcher.close()
        await asyncio.gather(*(consumer.stop_fetching() for consumer in self._consumers))
        await _until(deadline, self._dispatcher.idle.wait())
        await self._runner.close()
        await _until(max(deadline, time.monotonic() + FLUSH_SECONDS), self._results.flush())
        await self._close()
        log.info("worker stopped", unfinished=self._dispatcher.running)

    async def _close(self) -> None:
        await asyncio.gather(*(consumer.close() for consumer in self._consumers))
        await self._control.close()
        await self._results.close()
        await self._http.close()

    # ---- health

    @property
    def address(self) -> str:
        """Where HTTP listens."""
        return self._http.address

    def why_unhealthy(self) -> str | None:
        stuck = self._runner.stuck
        if stuck < self._settings.concurrency:
            return None
        return f"all {stuck} slots are held by attempts that were timed out or cancelled and do not end"

    def why_unready(self) -> str | None:
        return self.why_unhealthy() if self._ready else "starting or stopping"


async def _until(deadline: float, work: Any) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(work, max(0.0, deadline - time.monotonic()))
