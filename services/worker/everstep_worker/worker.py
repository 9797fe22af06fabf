"""Puts the parts together, starts them in order and stops them in reverse.

Stopping: nothing more is fetched or started; what runs is checked out, so that the groups can be left at once and
others take over the queues; it may end within the grace time; what still runs then is broken off and given back;
answers are sent, processes ended and resources closed.
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
from everstep.definitions import Activity
from everstep.settings import Settings
from everstep_schemas.names import Topics
from everstep_worker import http
from everstep_worker.answers import Answers
from everstep_worker.consumer import QueueConsumer
from everstep_worker.control import Control
from everstep_worker.dispatch import Dispatcher, Line
from everstep_worker.meters import Meters
from everstep_worker.processes import Processes, target_of
from everstep_worker.results import Results
from everstep_worker.runner import Runner
from everstep_worker.times import Times

log = structlog.stdlib.get_logger(__name__)

MOST_THREADS = 256
BATCH_BYTES = 256 << 10
FLUSH_SECONDS = 3.0


class Worker:
    """Executes the activities of `app` that `queues` (name: the most at once) carry, until it is stopped.

    `target` is the `MODULE:app` that the app was loaded from. Raises `LoadError` if activities run in processes, which
    have to load it, and it is neither given nor found.
    """

    def __init__(
        self, app: App, queues: Mapping[str, int], settings: Settings, *, target: str = "", times: Times | None = None
    ) -> None:
        topics = Topics(settings.topic_prefix)
        connection = kafka.connection(settings)
        self.name = settings.worker_id or f"{socket.gethostname()}-{os.getpid()}"
        self._settings = settings
        self._times = times = times or Times()
        self._activities = activities = own(app)
        if not target and any(activity.in_process for activity in activities.values()):
            target = target_of(app)
        self._ready = False
        meters = Meters(activities)
        processes = Processes(target, settings, times.terminate_seconds)
        self._lines = [Line(queue, limit) for queue, limit in queues.items()]
        for line in self._lines:
            meters.watch(line)
        self._runner = Runner(
            activities,
            answers=Answers(self.name, settings.max_payload_bytes),
            dlq=topics.dlq,
            threads=min(settings.concurrency, MOST_THREADS),
            processes=processes,
            times=times,
            meters=meters,
            send=lambda parcel: self._results.send(parcel),
            ended=lambda line: self._dispatcher.release(line),
            finished=self._offsets_moved,
        )
        meters.watch_holds(lambda: self._runner.checked_out, lambda: len(processes))
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
            check_out=self._check_out,
        )

    async def _check_out(self, line: Line) -> bool:
        """Whether Kafka has in time that what runs of the queue is this worker's, and every answer so far."""
        self._runner.check_out(line)
        return await self._results.flush(self._times.acknowledge_seconds)

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
        """Finishes what runs, within the grace time, gives back what does not end, and closes everything."""
        self._ready = False
        deadline = time.monotonic() + self._settings.grace_seconds
        log.info("worker stopping", running=self._dispatcher.running, grace_seconds=self._settings.grace_seconds)
        self._dispatcher.close()
        await asyncio.gather(*(consumer.hand_over() for consumer in self._consumers))
        await _until(deadline, self._dispatcher.idle.wait())
        await self._runner.break_off()
        await self._results.flush(max(FLUSH_SECONDS, deadline - time.monotonic()))
        await self._close()
        log.info("worker stopped", unfinished=self._dispatcher.running)

    async def _close(self) -> None:
        await asyncio.gather(*(consumer.close() for consumer in self._consumers))
        await self._runner.close()
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
        async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
            await work


def own(app: App) -> dict[str, Activity[..., Any]]:
    """The activities of an app whose code is here."""
    return {name: activity for name, activity in app.activities.items() if not activity.is_remote}
