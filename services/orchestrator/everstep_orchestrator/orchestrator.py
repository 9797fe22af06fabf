"""Puts an orchestrator together: every part is made here, once, from the settings and the author's code."""

from __future__ import annotations

import asyncio
import os
import platform
import secrets
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from typing import Any

import structlog

from everstep import kafka
from everstep._core.engine import Engine
from everstep._watchdog import Watchdog
from everstep.admin.topics import TopicError, admin_client, problems, topics_of
from everstep.app import App
from everstep.lifecycle import LifecycleTail
from everstep.settings import Settings
from everstep.submissions import SubmissionProducer
from everstep_orchestrator.api import ApiDependencies, HttpServer
from everstep_orchestrator.kafka.intake import Intake
from everstep_orchestrator.kafka.publisher import Publisher
from everstep_orchestrator.kafka.queues import Queues
from everstep_orchestrator.kafka.reporting import Reporter
from everstep_orchestrator.membership import Membership
from everstep_orchestrator.pipeline.asking import Asker
from everstep_orchestrator.pipeline.cache import Cache
from everstep_orchestrator.pipeline.counting import Counting
from everstep_orchestrator.pipeline.incoming import Reader
from everstep_orchestrator.pipeline.rules import Rules
from everstep_orchestrator.pipeline.runtime import Pipeline
from everstep_orchestrator.store import Store
from everstep_schemas.names import Topics

log = structlog.get_logger(__name__)

STUCK = 70  # exit code of a process whose main thread could not be broken out of an author's code


def now_us() -> int:
    """The present instant, in microseconds since the epoch."""
    return time.time_ns() // 1000


class Orchestrator:
    """All parts of one orchestrator process."""

    def __init__(self, settings: Settings, app: App, shards: int) -> None:
        self._settings = settings
        self._app = app
        self._shards = shards
        self._topics = Topics(settings.topic_prefix)
        self._connection = kafka.connection(settings)
        self._wake = asyncio.Event()
        self._watchdog = Watchdog()
        self._queues = Queues(settings)
        self._store = Store(settings.postgres_dsn, settings.postgres_schema)
        self._intake = Intake(self._connection)
        self._publisher = Publisher(
            self._connection,
            self._queues,
            max_request_bytes=kafka.max_dead_letter_bytes(settings),
            acked=self._wake.set,
            refused=lambda ticket, message, why: self._pipeline.refused(ticket, message, why),
            partitions={self._topics.inbox: shards},
        )
        self._counting = Counting(app.workflows, app.activities)
        self._engine = Engine(
            app,
            self._topics,
            max_payload_bytes=settings.max_payload_bytes,
            guard=self._watchdog,
            log=log,
            api_url=self._api_url,
        )
        self._pipeline: Pipeline = self._new_pipeline()
        self._membership: Membership | None = None
        self.address = ""

    def _new_pipeline(self) -> Pipeline:
        settings = self._settings
        rules = Rules(
            engine=self._engine,
            directory=self,
            topics=self._topics,
            python=platform.python_version(),
            new_nonce=lambda: secrets.token_hex(16),
            ignored=self._counting.ignored,
            early_signal_us=settings.early_signals // timedelta(microseconds=1),
        )
        return Pipeline(
            store=self._store,
            intake=self._intake,
            publisher=self._publisher,
            rules=rules,
            reader=Reader(self._shards, settings.max_payload_bytes),
            topics=self._topics,
            cache=Cache(settings.cache_runs, settings.cache_bytes),
            counting=self._counting,
            now=now_us,
            wake=self._wake,
        )

    def _api_url(self) -> str:
        """Where whoever is given a callback's address finds the API."""
        return self._settings.api_url.rstrip("/") or f"http://{self.address}"

    def others_know(self, workflow: str, version: int) -> bool:
        """Whether another live orchestrator has code that this one lacks."""
        return self._membership is not None and self._membership.others_know(workflow, version)

    def readiness(self) -> list[str]:
        """Why this process is not ready; nothing if it is."""
        reasons = [f"commands wait: {why}" for why in self._queues.missing.values()]
        if self._membership is None or not self._membership.holds_lease():
            reasons.append("no lease: Postgres has not confirmed this orchestrator's membership")
        return reasons + self._pipeline.troubles()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Orchestrator]:
        """Starts every part in order and stops them in the opposite one."""
        async with AsyncExitStack() as stack:
            self._watchdog.start()
            stack.callback(self._watchdog.stop)
            stack.push_async_callback(self._store.close)
            await self._check_kafka()
            await self._intake.start()
            stack.push_async_callback(self._intake.stop)
            await self._publisher.start()
            stack.push_async_callback(self._publisher.close)
            await self._start_api(stack)
            self._join(stack)
            yield self

    async def _check_kafka(self) -> None:
        """The topics must be as migrated, and the cluster the one that the positions belong to."""
        async with admin_client(self._settings) as admin:
            if wrong := await problems(admin, topics_of(self._settings, self._shards)):
                raise TopicError("; ".join(wrong))
            cluster = str((await admin.describe_cluster())["cluster_id"])
        stored = await self._store.remember("kafka_cluster_id", cluster)
        if stored != cluster:
            raise TopicError(
                f"this Kafka cluster is {cluster}, but the positions in Postgres belong to cluster {stored}: "
                "check EVERSTEP_KAFKA_BOOTSTRAP; positions of another cluster mean nothing here"
            )

    async def _start_api(self, stack: AsyncExitStack) -> None:
        submissions = SubmissionProducer(self._settings)
        await submissions.start()
        stack.push_async_callback(submissions.stop)
        lifecycle = LifecycleTail(self._settings, self._shards)
        stack.push_async_callback(lifecycle.close)
        server = HttpServer(
            self._settings, ApiDependencies(self.readiness, submissions, lifecycle, Asker(self._engine))
        )
        self.address = await server.start()
        stack.push_async_callback(server.stop)

    def _join(self, stack: AsyncExitStack) -> None:
        workflows = {name: sorted(versions) for name, versions in self._app.workflows.items()}
        self._membership = Membership(
            self._settings.postgres_dsn,
            self._settings.postgres_schema,
            address=self.address,
            workflows=workflows,
            listener=self._pipeline,
            loop=asyncio.get_running_loop(),
            on_stuck=lambda: os._exit(STUCK),
        )
        self._pipeline.join(self._membership)
        self._membership.start()
        stack.push_async_callback(self._membership.stop)

    async def work_until(self, stop: asyncio.Event) -> None:
        """Works until `stop` is set, then hands everything over within the grace time."""
        queues = sorted({activity.queue for activity in self._app.activities.values()})
        reporter = Reporter(self._settings, queues, self._pipeline.positions)
        running = asyncio.create_task(self._pipeline.run())
        reporting = asyncio.create_task(reporter.run())
        try:
            await _first(running, stop.wait(), None)
            log.info("stopping", grace_seconds=self._settings.grace_seconds)
            await self._drain(running)
        finally:
            for task in (running, reporting):
                task.cancel()
            await asyncio.gather(running, reporting, return_exceptions=True)

    async def _drain(self, running: asyncio.Task[None]) -> None:
        if self._membership is not None:
            self._membership.leave()
        await _first(running, self._pipeline.drain(), self._settings.grace_seconds)


async def _first(running: asyncio.Task[None], awaited: Coroutine[Any, Any, object], seconds: float | None) -> None:
    """Waits until the other ends, or for so long; a main loop that ends by itself is an error of ours and is raised."""
    waiting = asyncio.create_task(awaited)
    try:
        await asyncio.wait((running, waiting), timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
    if running.done():
        running.result()
