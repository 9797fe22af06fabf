"""Opening a stack for as long as a block of code needs it, and keeping one up across commands.

Addresses in the environment win over all; else the way is the one asked for, else that of `EVERSTEP_STACK`, else the
embedded one.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from everstep.stack._docker import Docker
from everstep.stack._embedded import Embedded
from everstep.stack._external import External
from everstep.stack._paths import data_directory, exclusive
from everstep.stack._port import Host, Server, StackError, Way
from everstep.stack._system import System

KAFKA, POSTGRES, WAY = "EVERSTEP_KAFKA_BOOTSTRAP", "EVERSTEP_POSTGRES_DSN", "EVERSTEP_STACK"
WAYS: Mapping[str, Way] = {way.name: way for way in (Embedded(), Docker(), System())}


@dataclass(frozen=True)
class Stack:
    """A Kafka and a PostgreSQL that answer."""

    way: str
    kafka: Server
    postgres: Server

    @property
    def kafka_bootstrap(self) -> str:
        """`host:port` for Kafka clients."""
        return self.kafka.address

    @property
    def postgres_dsn(self) -> str:
        """DSN of a database that may be used freely; its user may create others."""
        return self.postgres.address


def environment(stack: Stack) -> dict[str, str]:
    """What to export so that Everstep's commands use this stack."""
    return {KAFKA: stack.kafka_bootstrap, POSTGRES: stack.postgres_dsn}


def external(kafka_bootstrap: str, postgres_dsn: str) -> Stack:
    """A stack that belongs to someone else, at known addresses; its servers refuse to be stopped."""
    return Stack("external", External(kafka_bootstrap, KAFKA), External(postgres_dsn, POSTGRES))


def chosen_way(name: str | None = None) -> Way:
    """The way of that name, else of `EVERSTEP_STACK`, else embedded; whether it can work here is asked at its start."""
    wanted = name or os.environ.get(WAY) or Embedded.name
    if wanted not in WAYS:
        raise StackError(f"{WAY} is {wanted!r}; it can be {', '.join(WAYS)}")
    return WAYS[wanted]


def _usable(way: Way) -> Way:
    if missing := way.missing():
        raise StackError(f"the {way.name} stack cannot start: {missing}")
    return way


@contextlib.asynccontextmanager
async def open(way: str | None = None, directory: Path | None = None) -> AsyncIterator[Stack]:
    """A running stack for the length of the block; its servers end with it, or with this process, however that ends.

    Without `directory` the data is temporary. With one the data stays, and a stack that `LocalStack.up` left running
    there is used and left running. Addresses in the environment are used instead unless `way` is given: an explicit
    way always is a stack of one's own. `StackError` says what is missing.
    """
    given = {} if way else _given()
    if given.keys() == {KAFKA, POSTGRES}:
        yield external(given[KAFKA], given[POSTGRES])
        return
    chosen = _usable(chosen_way(way))
    async with _temporary(chosen) if directory is None else _kept(chosen, directory) as host:
        stack = _stack(chosen, host, given)
        await _start(stack)
        yield stack


class LocalStack:
    """The stack that stays up between commands, with its data; one per directory, by default one per user and way."""

    def __init__(self, directory: Path | None = None, way: str | None = None) -> None:
        self._way = chosen_way(way)
        self.directory = (directory or data_directory() / "stack" / self._way.name).absolute()

    async def up(self) -> Stack:
        """Start what is not running yet and return once both servers answer. `StackError` says what is missing."""
        _usable(self._way)
        with exclusive(self.directory):
            stack = self._stack()
            try:
                await _start(stack)
            except BaseException:
                await _stop(stack)
                raise
            return stack

    async def down(self) -> bool:
        """End the servers that `up` started, keep the data; whether there were any."""
        with exclusive(self.directory):
            stack = self._stack()
            ran = await stack.kafka.running() or await stack.postgres.running()
            await _stop(stack)
            return ran

    async def status(self) -> Status:
        """What runs now."""
        stack = self._stack()
        return Status(self.directory, stack, await stack.kafka.running(), await stack.postgres.running())

    def _stack(self) -> Stack:
        return _stack(self._way, self._way.host(self.directory, temporary=False, detached=True), {})


@dataclass(frozen=True)
class Status:
    """What `LocalStack` finds; the addresses in `stack` hold while the servers run."""

    directory: Path
    stack: Stack
    kafka: bool
    postgres: bool


def _given() -> dict[str, str]:
    """The addresses in the environment, each as a value or in a file."""
    given = {}
    for name in (KAFKA, POSTGRES):
        if value := os.environ.get(name):
            given[name] = value
        elif path := os.environ.get(f"{name}_FILE"):
            given[name] = Path(path).read_text().strip()
    return given


def _stack(way: Way, host: Host, given: Mapping[str, str]) -> Stack:
    kafka = External(given[KAFKA], KAFKA) if KAFKA in given else host.kafka
    postgres = External(given[POSTGRES], POSTGRES) if POSTGRES in given else host.postgres
    return Stack(way.name, kafka, postgres)


async def _start(stack: Stack) -> None:
    try:
        async with asyncio.TaskGroup() as both:
            both.create_task(stack.kafka.start())
            both.create_task(stack.postgres.start())
    except* StackError as failures:
        raise StackError("\n".join(map(str, failures.exceptions))) from failures


async def _stop(stack: Stack) -> None:
    await asyncio.gather(stack.kafka.stop(), stack.postgres.stop())


@contextlib.asynccontextmanager
async def _temporary(way: Way) -> AsyncIterator[Host]:
    directory = _temporary_directory()
    host = way.host(directory, temporary=True, detached=False)
    try:
        yield host
    finally:
        await host.close()
        shutil.rmtree(directory, ignore_errors=True)


def _temporary_directory() -> Path:
    directory = Path(tempfile.mkdtemp(prefix="everstep-"))
    directory.chmod(0o711)  # the database may run as another user, who must be able to enter
    return directory


@contextlib.asynccontextmanager
async def _kept(way: Way, directory: Path) -> AsyncIterator[Host]:
    local = LocalStack(directory, way.name)
    status = await local.status()
    if status.kafka and status.postgres:
        yield way.host(local.directory, temporary=False, detached=True)
        return
    with exclusive(local.directory):
        host = way.host(local.directory, temporary=False, detached=False)
        try:
            yield host
        finally:
            await asyncio.gather(host.kafka.stop(), host.postgres.stop())
            await host.close()
