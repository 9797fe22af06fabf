"""An activity of hours holds up nobody, runs once whoever comes and goes, and outlives the worker that runs it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from tests.e2e import lasting
from tests.e2e.conftest import opened
from tests.e2e.installation import Installation
from tests.support.processes import Service

from everstep import RunCancelled

pytestmark = [pytest.mark.integration, pytest.mark.process]

LASTING = "tests.e2e.lasting:app"
SOON = timedelta(seconds=60)


class Watched:
    """An installation with two workers, and what activities on it have told."""

    def __init__(self, installation: Installation, place: Path) -> None:
        self.installation = installation
        self._place = place

    def told(self, beginning: str) -> list[str]:
        file = self._place / "told"
        lines = file.read_text().splitlines() if file.exists() else []
        return [line for line in lines if line.startswith(beginning)]

    async def hears(self, beginning: str, count: int = 1) -> list[str]:
        async def ask() -> bool:
            return len(self.told(beginning)) >= count

        await self.installation.until(ask, f"{count} times {beginning!r}")
        return self.told(beginning)

    async def checked_out(self, workflow_id: str) -> None:
        async def ask() -> bool:
            return any(event["kind"] == "activity_started" for event in await self.installation.events(workflow_id))

        await self.installation.until(ask, f"{workflow_id} to be checked out")

    def who(self, line: str) -> tuple[Service, Service]:
        """The worker that told a line, and the other one."""
        one, two = self.installation.workers
        return (one, two) if str(one.process.pid) in line.split() else (two, one)

    def finish(self, name: str) -> None:
        (self._place / f"finish {name}").touch()


@pytest.fixture
async def watched(
    tmp_path: Path, postgres_dsn: str, kafka_bootstrap: str, topic_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Watched]:
    monkeypatch.setenv("E2E_PLACE", str(tmp_path))
    async with opened(tmp_path, postgres_dsn, kafka_bootstrap, topic_prefix) as installation:
        await installation.start(orchestrators=1, workers=2, app=LASTING)
        yield Watched(installation, tmp_path)


async def test_it_holds_up_nobody_and_goes_on_elsewhere_when_its_worker_is_killed(watched: Watched) -> None:
    client = watched.installation.client
    run = await client.start(lasting.last, "a", id="a")
    (line,) = await watched.hears("began a")
    await watched.checked_out("a")
    # More activities than there are partitions: some lie behind it.
    others = await client.start(lasting.count, 200, id="others")
    assert await others.result(timeout=SOON) == sum(range(200))

    holder, _ = watched.who(line)
    await holder.kill()
    _, again = await watched.hears("began a", 2)
    assert "attempt 1 after 1" in again, "the same attempt, with the details of the last heartbeat"
    assert watched.who(again)[0] is not holder
    watched.finish("a")
    assert await run.result(timeout=SOON) == "a after 1"
    assert len(watched.told("began a")) == 2
    await watched.installation.check(lasting.app)


async def test_it_runs_once_while_workers_come_and_go_and_is_given_back_by_one_that_stops(watched: Watched) -> None:
    installation = watched.installation
    run = await installation.client.start(lasting.last, "a", id="a")
    (line,) = await watched.hears("began a")
    await watched.checked_out("a")
    holder, other = watched.who(line)
    await other.terminate()
    third = await installation.services.worker(LASTING)
    await third.ready()
    await other.start()
    await other.ready()
    counted = await installation.client.start(lasting.count, 200, id="others")
    assert await counted.result(timeout=SOON) == sum(range(200))
    assert watched.told("began a") == [line]

    await holder.terminate()
    assert watched.told("cancelled a") == ["cancelled a"]
    _, again = await watched.hears("began a", 2)
    assert "attempt 1 after 1" in again, "whoever stops in good order uses up no attempt"
    watched.finish("a")
    assert await run.result(timeout=SOON) == "a after 1"
    await installation.check(lasting.app)


async def test_a_cancellation_reaches_every_kind(watched: Watched) -> None:
    run = await watched.installation.client.start(lasting.three_kinds, id="three")
    await watched.hears("began task")
    await watched.hears("began thread")
    (line,) = await watched.hears("began process")
    await run.cancel("no longer needed")
    with pytest.raises(RunCancelled, match="no longer needed"):
        await run.result(timeout=SOON)
    await watched.hears("cancelled task")
    await watched.hears("cancelled thread")
    pid = int(line.split()[-1])

    async def gone() -> bool:
        await asyncio.sleep(0)
        return not _is_alive(pid)

    await watched.installation.until(gone, "the process to be stopped")
    await watched.installation.check(lasting.app)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
