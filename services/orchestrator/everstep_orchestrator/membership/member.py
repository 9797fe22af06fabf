"""The membership of one orchestrator, in a thread of its own, so that engine work cannot keep it from being renewed.

Authority over a shard is its row in Postgres and nothing else: a claim raises the epoch, and from then on commits under
an older one write nothing. What this thread does about leases only decides how soon shards move, and keeps an owner
that was cut off from publishing for long.

A lease is renewed while the main loop reports progress. It runs by the database's clock there, and here by a clock that
counts a machine's sleep, from the moment the renewal was sent: so it always ends here first. When it has, the listener
hears it before anything else, and everything that this process still owns by the database is claimed anew once Postgres
answers.
"""

from __future__ import annotations

import asyncio
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import structlog

from everstep_orchestrator.membership.holdings import Holdings
from everstep_orchestrator.membership.model import DEFAULT_TIMING, Listener, Member, Timing
from everstep_orchestrator.membership.registry import Registry, Self
from everstep_orchestrator.membership.sharing import Deaths
from everstep_orchestrator.store.connections import FAILURES, connect
from everstep_schemas.sql import queries

log = structlog.get_logger(__name__)

CHANNEL = "everstep"
MAX_BACKOFF_SECONDS = 1.0

_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # macOS counts sleep in CLOCK_MONOTONIC


class Membership:
    """Claims a fair share of the shards, keeps it by a lease, and gives surplus away.

    `listener` is called on `loop`. `on_stuck` is called in this thread when the main loop has been silent for too long;
    it should end the process, as nothing else can. `workflows` names the versions that this process has code for.
    """

    def __init__(
        self,
        dsn: str,
        schema: str,
        *,
        address: str,
        workflows: Mapping[str, Sequence[int]],
        listener: Listener,
        loop: asyncio.AbstractEventLoop,
        on_stuck: Callable[[], object],
        timing: Timing = DEFAULT_TIMING,
    ) -> None:
        self.id = uuid.uuid4().hex
        self._dsn = dsn
        self._schema = schema
        self._sql = queries("membership", schema)
        code = {name: frozenset(versions) for name, versions in workflows.items()}
        self._self = Self(self.id, address, code)
        self._listener = listener
        self._loop = loop
        self._on_stuck = on_stuck
        self._timing = timing
        self._thread = threading.Thread(target=self._run, name="membership", daemon=True)
        self._thread_loop: asyncio.AbstractEventLoop | None = None
        self._wake = asyncio.Event()
        self._requests: deque[tuple[str, list[int]]] = deque()
        self._stopping = False
        self._leaving = False
        self._progress_at = time.monotonic()
        self._joined = False
        self._lease_until = 0.0
        self._renew_at = 0.0
        self._backoff = 0.0
        self._holdings = Holdings(Member(self.id, code=code), listener, self._tell)

    # ---- called by the main loop, from any thread

    def start(self) -> None:
        """Join. Claims arrive at the listener."""
        self.progress()
        self._thread.start()

    async def stop(self, timeout: float = 5.0) -> None:
        """Give up all shards, which must be drained, and leave the register; if Postgres is away, just end."""
        self._stopping = True
        self._nudge()
        await asyncio.to_thread(self._thread.join, timeout)

    def leave(self) -> None:
        """Take no more shards, as this process is about to stop."""
        self._leaving = True
        self._renew_at = 0.0
        self._nudge()

    def progress(self) -> None:
        """The main loop is alive; to be called at least every second, or the lease is not renewed."""
        self._progress_at = time.monotonic()

    def release(self, shard: int) -> None:
        """Give up a shard: everything of it is committed, published and dropped."""
        self._ask("release", [shard])

    def reclaim(self, shards: Sequence[int]) -> None:
        """Claim shards of ours anew, under a new epoch. Answered by `claimed`, by `lost` for those that others have."""
        self._ask("reclaim", list(shards))

    def others_know(self, workflow: str, version: int) -> bool:
        """Whether another living orchestrator has this code."""
        return any(member.knows((workflow, version)) for member in self._holdings.others)

    def holds_lease(self) -> bool:
        """Whether the lease runs, by this machine's clock; worth asking right before publishing."""
        return time.clock_gettime(_CLOCK) < self._lease_until

    def _ask(self, what: str, shards: list[int]) -> None:
        self._requests.append((what, shards))
        self._nudge()

    def _nudge(self) -> None:
        if self._thread_loop is not None:
            with suppress(RuntimeError):  # the thread has ended
                self._thread_loop.call_soon_threadsafe(self._wake.set)

    # ---- the thread

    def _run(self) -> None:
        asyncio.run(self._main())

    async def _main(self) -> None:
        self._thread_loop = asyncio.get_running_loop()
        watching = asyncio.create_task(self._watch())
        try:
            await self._stay_connected()
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)

    async def _watch(self) -> None:
        """Minds the clocks, also while Postgres does not answer.

        Silence of the main loop is counted in ticks of this one: a process that was frozen as a whole is not stuck.
        """
        seen, ticks = self._progress_at, 0
        while ticks * self._timing.poll_seconds < self._timing.stuck_seconds:
            await asyncio.sleep(self._timing.poll_seconds)
            self._end_lease_in_time()
            ticks = ticks + 1 if self._progress_at == seen else 0
            seen = self._progress_at
        log.critical("the main loop is stuck", silent_seconds=round(self._silence(), 1))
        self._on_stuck()

    async def _stay_connected(self) -> None:
        while not self._stopping:
            try:
                await self._serve()
            except FAILURES as error:
                log.warning("membership lost its connection to Postgres", error=f"{type(error).__name__}: {error}")
            except Exception:
                # A thread that ended here would take the lease with it, and say nothing.
                log.exception("membership failed and connects anew")
            else:
                return
            self._backoff = min(MAX_BACKOFF_SECONDS, self._backoff * 2 or self._timing.poll_seconds / 2)
            await self._pause(self._backoff)

    async def _serve(self) -> None:
        connection = await connect(self._dsn, "everstep membership", statement_seconds=self._timing.statement_seconds)
        try:
            deaths = Deaths(self._timing.restart_seconds, reconnected=self._joined, now=time.monotonic())
            registry = Registry(connection, self._sql, self._schema, self._self, deaths)
            await connection.add_listener(CHANNEL, self._notified)
            self._renew_at = 0.0
            while not self._stopping:
                await self._work(registry)
                await self._pause(self._timing.poll_seconds)
            await registry.depart()
            self._lease_until = 0.0
        finally:
            connection.terminate()

    async def _work(self, registry: Registry) -> None:
        """One round. While the main loop is silent nothing is renewed, claimed or given."""
        if self._silence() >= self._timing.silent_seconds:
            return
        await self._keep_lease(registry)
        await self._obey(registry)
        await self._holdings.share(registry, leaving=self._leaving)
        self._backoff = 0.0

    async def _keep_lease(self, registry: Registry) -> None:
        self._end_lease_in_time()
        sent = time.clock_gettime(_CLOCK)
        if sent < self._renew_at:
            return
        self._renew_at = sent + self._timing.renew_seconds
        await registry.renew(self._timing.lease_seconds, self._leaving)
        self._lease_until = sent + self._timing.lease_seconds
        self._joined = True

    def _end_lease_in_time(self) -> None:
        if self._lease_until and not self.holds_lease():
            log.warning("the lease has passed")
            self._lease_until = 0.0
            self._holdings.clear()
            self._tell(self._listener.lease_expired)

    async def _obey(self, registry: Registry) -> None:
        """A request stays queued until it is done: it must survive a lost connection."""
        while self._requests:
            what, shards = self._requests[0]
            if what == "release":
                await self._holdings.release(registry, shards)
            else:
                await self._holdings.reclaim(registry, shards)
            self._requests.popleft()

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), seconds)
        self._wake.clear()

    def _notified(self, connection: Any, pid: int, channel: str, payload: object) -> None:
        if payload == self._schema:
            self._wake.set()

    def _silence(self) -> float:
        return time.monotonic() - self._progress_at

    def _tell(self, call: Callable[..., None], *arguments: Any) -> None:
        with suppress(RuntimeError):  # the main loop is closed
            self._loop.call_soon_threadsafe(call, *arguments)
