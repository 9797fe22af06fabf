"""Real worker processes, ended in every way."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from tests.worker.kit import PARTITIONS, Orchestrator, eventually

from everstep_schemas.wire import ActivityCompleted, ActivityFailed

pytestmark = [pytest.mark.integration, pytest.mark.process]

ROOT = Path(__file__).parents[2]


class Process:
    """A worker as a process, and what it logged."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self.process = process
        self._log = log

    @property
    def log(self) -> str:
        return self._log.read_text()

    @property
    def pid(self) -> int:
        return self.process.pid

    async def ready(self) -> None:
        await eventually(lambda: "worker ready" in self.log or self.process.returncode is not None)
        assert self.process.returncode is None, self.log

    async def ended(self) -> int:
        async with asyncio.timeout(60):
            return await self.process.wait()

    async def kill(self) -> None:
        self.process.kill()
        await self.process.wait()


class Workers:
    """Starts workers of one installation, whose `note` activities write into `directory`."""

    def __init__(self, orchestrator: Orchestrator, directory: Path, exits: AsyncExitStack) -> None:
        self._orchestrator = orchestrator
        self.directory = directory
        self._exits = exits
        self._count = 0

    async def start(self, *arguments: str, **environment: str) -> Process:
        self._count += 1
        log = self.directory / f"log-{self._count}"
        settings = self._orchestrator.settings
        variables = {
            "EVERSTEP_KAFKA_BOOTSTRAP": settings.kafka_bootstrap,
            "EVERSTEP_TOPIC_PREFIX": settings.topic_prefix,
            "EVERSTEP_QUEUE_PARTITIONS": str(settings.queue_partitions),
            "EVERSTEP_GRACE_SECONDS": "20",
            "WORKER_TESTS_DIRECTORY": str(self.directory),
        }
        command = (sys.executable, "-m", "everstep_worker", *(arguments or ("tests.worker.flow:app",)))
        with log.open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                *command, cwd=ROOT, env=os.environ | variables | environment, stderr=output, stdout=output
            )
        self._exits.push_async_callback(_end, process)
        return Process(process, log)

    def notes(self) -> list[tuple[str, int]]:
        path = self.directory / "notes"
        lines = path.read_text().splitlines() if path.exists() else []
        return [(line.split()[0], int(line.split()[1])) for line in lines]

    def noted(self, count: int) -> Callable[[], bool]:
        return lambda: len(self.notes()) >= count

    def go(self) -> None:
        (self.directory / "go").touch()


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.kill()
        await process.wait()


@pytest.fixture
async def workers(orchestrator: Orchestrator, tmp_path: Path) -> AsyncIterator[Workers]:
    async with AsyncExitStack() as exits:
        yield Workers(orchestrator, tmp_path, exits)


@asynccontextmanager
async def _one(workers: Workers) -> AsyncIterator[Process]:
    worker = await workers.start()
    await worker.ready()
    yield worker


async def test_what_a_killed_worker_had_begun_is_done_by_another(workers: Workers, orchestrator: Orchestrator) -> None:
    victim, survivor = await workers.start(), await workers.start()
    await victim.ready()
    await survivor.ready()
    commands = [orchestrator.command("note", f"c{n}", "go") for n in range(6)]
    for n, command in enumerate(commands):
        await orchestrator.send(command, partition=n % PARTITIONS)
    await eventually(workers.noted(6))
    theirs = {line for line, pid in workers.notes() if pid == victim.pid}
    assert theirs
    await victim.kill()
    workers.go()
    for command in commands:
        assert isinstance(await orchestrator.answer_to(command), ActivityCompleted)
    for partition in range(PARTITIONS):
        await orchestrator.until_committed(3, partition=partition)
    again = [line for line, _ in workers.notes()[6:]]
    assert sorted(again) == sorted(theirs)


async def test_sigterm_finishes_what_runs(workers: Workers, orchestrator: Orchestrator) -> None:
    async with _one(workers) as worker:
        command = orchestrator.command("note", "slow", "go")
        await orchestrator.send(command)
        await eventually(workers.noted(1))
        worker.process.send_signal(signal.SIGTERM)
        await eventually(lambda: "worker stopping" in worker.log)
        late = orchestrator.command("note", "late")
        await orchestrator.send(late)
        workers.go()
        assert await worker.ended() == 0
        assert isinstance(await orchestrator.answer_to(command), ActivityCompleted)
        assert (await orchestrator.committed())[0] == 1
        assert [line for line, _ in workers.notes()] == ["slow"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_second_signal_ends_it_at_once(
    workers: Workers, orchestrator: Orchestrator, number: signal.Signals
) -> None:
    async with _one(workers) as worker:
        await orchestrator.send(orchestrator.command("note", "slow", "never"))
        await eventually(workers.noted(1))
        worker.process.send_signal(number)
        await eventually(lambda: "worker stopping" in worker.log)
        worker.process.send_signal(number)
        assert await worker.ended() == 128 + number


async def test_a_thread_that_never_ends_does_not_keep_the_process(workers: Workers, orchestrator: Orchestrator) -> None:
    worker = await workers.start(EVERSTEP_GRACE_SECONDS="0.1")
    await worker.ready()
    await orchestrator.send(orchestrator.command("note_for_ever", "stuck"))
    await eventually(workers.noted(1))
    worker.process.send_signal(signal.SIGTERM)
    assert await worker.ended() == 0


async def test_one_that_comes_back_under_its_name_goes_on_and_nobody_rebalances(
    workers: Workers, orchestrator: Orchestrator
) -> None:
    first = await workers.start(EVERSTEP_WORKER_ID="pod-0")
    await first.ready()
    other = await workers.start(EVERSTEP_WORKER_ID="pod-1")
    await other.ready()
    commands = [orchestrator.command("note", f"c{n}", "go") for n in range(4)]
    for n, command in enumerate(commands):
        await orchestrator.send(command, partition=n % PARTITIONS)
    await eventually(workers.noted(4))
    theirs = {line for line, pid in workers.notes() if pid == first.pid}
    await first.kill()
    back = await workers.start(EVERSTEP_WORKER_ID="pod-0")
    await back.ready()
    await eventually(workers.noted(4 + len(theirs)))
    assert {line for line, pid in workers.notes() if pid == back.pid} == theirs
    assert "rebalancing" not in other.log
    workers.go()
    for command in commands:
        assert isinstance(await orchestrator.answer_to(command), ActivityCompleted)


async def test_an_activity_whose_own_task_exits_does_not_end_the_worker(
    workers: Workers, orchestrator: Orchestrator
) -> None:
    async with _one(workers) as worker:
        for _ in range(3):
            assert isinstance(await orchestrator.call("leave_from_a_task"), ActivityFailed)
        assert await orchestrator.value_of("greet", "Ann") == "hello Ann"
        worker.process.send_signal(signal.SIGTERM)
        assert await worker.ended() == 0


async def test_queues_and_concurrency_from_the_command_line(workers: Workers, orchestrator: Orchestrator) -> None:
    worker = await workers.start("tests.worker.flow:app", "--queue", "other=3", "--queue", "made", "--concurrency", "5")
    await worker.ready()
    command = orchestrator.command("elsewhere")
    await orchestrator.send(command, queue="other")
    assert isinstance(await orchestrator.answer_to(command), ActivityCompleted)
    assert '"queues": {"other": 3, "made": 5}' in worker.log
    assert orchestrator.topics.activities("made") in await orchestrator.admin.list_topics()


@pytest.mark.parametrize(
    ("arguments", "environment", "code", "says"),
    [
        (["tests.worker.flow:nothing"], {}, 2, "does not exist"),
        (["tests.worker.flow:app", "--queue", "a b"], {}, 2, "queue 'a b'"),
        (["tests.worker.flow:app", "--queue", "a=0"], {}, 2, "limit"),
        (["tests.worker.flow:app"], {"EVERSTEP_CONCURRENCY": "many"}, 2, "EVERSTEP_CONCURRENCY"),
        (["tests.worker.flow:app"], {"EVERSTEP_TOPIC_PREFIX": "nobodys"}, 2, "everstep migrate"),
        (["tests.worker.flow:app"], {"EVERSTEP_CREATE_TOPICS": "no", "EVERSTEP_TOPIC_PREFIX": "nobodys"}, 2, "topic"),
        (["tests.worker.flow:app"], {"EVERSTEP_KAFKA_BOOTSTRAP": "127.0.0.1:1"}, 3, "cannot be reached"),
    ],
)
async def test_what_is_wrong_is_said_and_ends_it(
    workers: Workers, arguments: list[str], environment: dict[str, str], code: int, says: str
) -> None:
    worker = await workers.start(*arguments, **environment)
    assert await worker.ended() == code, worker.log
    assert says in worker.log
