"""One real Kafka and PostgreSQL for the whole session, and a check that the session leaves no process behind.

Under pytest-xdist the controller opens the stack and its workers share it. Every test has a database and topic names
of its own on it, which go when the test ends. A test that stops or kills a server takes `private_stack` instead.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest
from aiokafka.admin import AIOKafkaAdminClient

from everstep import stack as local_stack
from everstep.stack import Stack
from everstep.stack._process import command_line

leaks = pytest.StashKey[list[str]]()
shared = pytest.StashKey["Opened"]()
WAY = pytest.StashKey[str]()


class Opened:
    """A stack held open outside of any event loop."""

    def __init__(self) -> None:
        self._runner = asyncio.Runner()
        self._exits = contextlib.AsyncExitStack()
        try:
            self.stack = self._runner.run(self._exits.enter_async_context(local_stack.open()))
        except BaseException:
            self._runner.close()
            raise

    def close(self) -> None:
        self._runner.run(self._exits.aclose())
        self._runner.close()


@pytest.fixture(scope="session")
def stack(request: pytest.FixtureRequest) -> Iterator[Stack]:
    """The session's servers; never stop or kill them."""
    given = getattr(request.config, "workerinput", {}).get("stack")
    if given:
        yield local_stack.external(*given)
        return
    opened = Opened()
    request.config.stash[WAY] = opened.stack.way
    yield opened.stack
    opened.close()


@pytest.fixture
async def private_stack() -> AsyncIterator[Stack]:
    """Servers of the test's own, to stop, kill and start again at will."""
    async with local_stack.open(way=local_stack.chosen_way().name) as opened:
        yield opened


@pytest.fixture
def topic_prefix() -> str:
    """A prefix for topics, groups and client ids that no other test has."""
    return f"t{uuid.uuid4().hex[:12]}"


@pytest.fixture
async def kafka_bootstrap(stack: Stack, topic_prefix: str) -> AsyncIterator[str]:
    """The session's Kafka; topics under `topic_prefix` are deleted after the test."""
    yield stack.kafka_bootstrap
    admin = AIOKafkaAdminClient(bootstrap_servers=stack.kafka_bootstrap)
    await admin.start()
    try:
        mine = [topic for topic in await admin.list_topics() if topic.startswith(topic_prefix)]
        if mine:
            await admin.delete_topics(mine)
    finally:
        await admin.close()


@pytest.fixture
async def postgres_dsn(stack: Stack) -> AsyncIterator[str]:
    """A fresh, empty database on the session's PostgreSQL, dropped after the test."""
    name = f"t{uuid.uuid4().hex[:12]}"
    await _execute(stack.postgres_dsn, f"CREATE DATABASE {name}")
    yield urlunsplit(urlsplit(stack.postgres_dsn)._replace(path=f"/{name}"))
    await _execute(stack.postgres_dsn, f"DROP DATABASE {name} WITH (FORCE)")


async def _execute(dsn: str, statement: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: object) -> None:
    """Open the stack in xdist's controller, once, and tell each worker where it is."""
    config: pytest.Config = node.config  # type: ignore[attr-defined]  # xdist has no types
    if shared not in config.stash:
        config.stash[shared] = Opened()
    opened = config.stash[shared].stack
    config.stash[WAY] = opened.way
    node.workerinput["stack"] = [opened.kafka_bootstrap, opened.postgres_dsn]  # type: ignore[attr-defined]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: object) -> None:
    """Take over what a worker says that it left behind."""
    config: pytest.Config = node.config  # type: ignore[attr-defined]  # xdist has no types
    config.stash.setdefault(leaks, []).extend(getattr(node, "workeroutput", {}).get("leaks", []))


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a session that leaves processes behind."""
    config = session.config
    found = config.stash.setdefault(leaks, [])
    if shared in config.stash:
        config.stash[shared].close()
    else:
        found += _children()
    if hasattr(config, "workeroutput"):
        config.workeroutput["leaks"] = found
    elif found:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _children() -> list[str]:
    """The command lines of this process's children."""
    if Path("/proc/self/stat").exists():
        return [line for pid in _pids_of_proc() if (line := command_line(pid))]
    listing = subprocess.run(["/bin/ps", "-A", "-o", "ppid=,args="], capture_output=True, text=True, check=True)
    rows = (line.split(maxsplit=1) for line in listing.stdout.splitlines())
    return [row[1] for row in rows if int(row[0]) == os.getpid() and not row[1].startswith("/bin/ps -A")]


def _pids_of_proc() -> Iterator[int]:
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            # The name in parentheses may hold anything; after it come the state and the parent's pid.
            parent = stat.read_text().rpartition(")")[2].split()[1]
            if int(parent) == os.getpid():
                yield int(stat.parent.name)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say which stack ran, which ways of getting one were not tested, and what was left behind."""
    terminalreporter.section("local stack")
    terminalreporter.line(f"this session ran on: {config.stash.get(WAY, 'none; no test needed one')}")
    tested = _ways_tested(terminalreporter)
    for name, way in local_stack.WAYS.items():
        untested = f"UNTESTED: {way.missing() or 'its tests were not selected or did not pass'}"
        terminalreporter.line(f"{name}: {tested.get(name, untested)}")
    for command in config.stash.get(leaks, []):
        terminalreporter.line(f"LEFT BEHIND: {command}", red=True)


def _ways_tested(terminalreporter: pytest.TerminalReporter) -> dict[str, str]:
    reports = terminalreporter.stats.get("passed", [])
    values = [str(value) for report in reports for name, value in report.user_properties if name == "way"]
    return {value.partition(" ")[0]: f"tested{value.removeprefix(value.partition(' ')[0])}" for value in values}
