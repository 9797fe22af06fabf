"""Members as processes, with the timing of life: killed, frozen and thawed by real signals."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.membership.conftest import SCHEMA, SHARDS, soon

pytestmark = [pytest.mark.integration, pytest.mark.process]

ALL = set(range(SHARDS))
SCRIPT = Path(__file__).with_name("member_process.py")


class Process:
    """A member process, and what it has said so far."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.said: list[tuple[str, Any]] = []
        self.epochs: dict[int, int] = {}
        self._process = process

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Reads on until the condition holds."""
        assert self._process.stdout is not None
        while not condition():
            line = await self._process.stdout.readline()
            assert line, "the process has ended"
            self._hear(*json.loads(line))

    def _hear(self, what: str, value: Any) -> None:
        self.said.append((what, value))
        if what == "claimed":
            self.epochs.update(value)
        elif what == "lease_expired":
            self.epochs.clear()
        else:
            for shard in [value] if what == "hand_over" else value:
                self.epochs.pop(shard, None)

    async def end(self) -> int:
        if self._process.returncode is None:
            self._process.kill()
        return await self._process.wait()

    async def ended(self) -> int:
        return await self._process.wait()


Start = Callable[[], Awaitable[Process]]


@pytest.fixture
async def start(migrated: str) -> AsyncIterator[Start]:
    processes: list[Process] = []

    async def start() -> Process:
        process = await asyncio.create_subprocess_exec(
            sys.executable, str(SCRIPT), migrated, SCHEMA, stdout=asyncio.subprocess.PIPE
        )
        processes.append(Process(process))
        return processes[-1]

    yield start
    for process in processes:
        await process.end()


async def pair(start: Start) -> tuple[Process, Process]:
    """Two members with four shards each."""
    first = await start()
    await soon(first.until(lambda: set(first.epochs) == ALL))
    second = await start()
    await soon(second.until(lambda: len(second.epochs) == SHARDS // 2))
    return first, second


async def test_the_shards_of_a_killed_owner_run_elsewhere_long_before_its_lease_ends(start: Start) -> None:
    """Its lease would run for eight seconds at the least."""
    first, second = await pair(start)
    first.send(signal.SIGKILL)
    await soon(second.until(lambda: set(second.epochs) == ALL), seconds=6)


async def test_a_killed_owner_that_comes_back_alone_does_not_wait(start: Start) -> None:
    first = await start()
    await soon(first.until(lambda: set(first.epochs) == ALL))
    first.send(signal.SIGKILL)
    again = await start()
    await soon(again.until(lambda: set(again.epochs) == ALL))
    assert set(again.epochs.values()) == {2}


async def test_a_frozen_owner_loses_its_shards_to_the_lease_and_hears_that_first(start: Start) -> None:
    """Its sessions and locks are all there, as with a machine that vanished: only the lease ends its ownership."""
    first, second = await pair(start)
    first.send(signal.SIGSTOP)
    await soon(second.until(lambda: set(second.epochs) == ALL))
    heard = len(first.said)
    first.send(signal.SIGCONT)
    await soon(first.until(lambda: any(what == "lease_expired" for what, _ in first.said)))
    after = [call for call in first.said[heard:] if call[0] != "hand_over"]
    assert after[0] == ("lease_expired", False)
    await soon(first.until(lambda: len(first.epochs) == SHARDS // 2))


async def test_a_process_that_is_told_to_stop_leaves_at_once_and_in_order(start: Start) -> None:
    first, second = await pair(start)
    first.send(signal.SIGTERM)
    await soon(second.until(lambda: set(second.epochs) == ALL))
    assert await first.ended() == 0
