"""Real worker processes, ended in every way."""

from __future__ import annotations

import signal

import pytest
from tests.worker.kit import PARTITIONS, Orchestrator, eventually
from tests.worker.processes import Workers

from everstep_schemas.wire import ActivityCompleted, ActivityFailed
from everstep_worker.times import Times

pytestmark = [pytest.mark.integration, pytest.mark.process]

SOON = Times(check_out_seconds=0.1)
NEVER = Times(check_out_seconds=600.0)  # an attempt holds its partition's offset as long as it runs


async def test_what_a_killed_worker_had_begun_is_done_by_another(workers: Workers, orchestrator: Orchestrator) -> None:
    victim, survivor = await workers.start(times=NEVER), await workers.start(times=NEVER)
    await victim.ready()
    await survivor.ready()
    await orchestrator.settle()
    commands = [orchestrator.command("note", f"c{n}", "go") for n in range(6)]
    for n, command in enumerate(commands):
        await orchestrator.send(command, partition=n % PARTITIONS)
    await eventually(workers.noted(6))
    theirs = {line for line, pid in workers.notes() if pid == victim.pid}
    assert theirs
    await victim.kill()
    await eventually(workers.noted(6 + len(theirs)))
    workers.go()
    for command in commands:
        assert isinstance(await orchestrator.answer_to(command), ActivityCompleted)
    for partition in range(PARTITIONS):
        await orchestrator.until_committed(4, partition=partition)
    again = [line for line, _ in workers.notes()[6:]]
    assert sorted(again) == sorted(theirs)


async def test_what_a_killed_worker_had_checked_out_is_done_when_its_command_comes_again(
    workers: Workers, orchestrator: Orchestrator
) -> None:
    victim, survivor = await workers.start(times=SOON), await workers.start(times=SOON)
    await victim.ready()
    await survivor.ready()
    await orchestrator.settle()
    commands = [orchestrator.command("note", f"c{n}", "go") for n in range(PARTITIONS)]
    for n, command in enumerate(commands):
        await orchestrator.send(command, partition=n)
    await eventually(workers.noted(PARTITIONS))
    theirs = next(commands[int(line[1])] for line, pid in workers.notes() if pid == victim.pid)
    await orchestrator.checked_out(theirs)
    for partition in range(PARTITIONS):
        await orchestrator.until_committed(2, partition=partition)
    await victim.kill()
    last = orchestrator.command("note", "last")
    for partition in range(PARTITIONS):
        await orchestrator.send(last, partition=partition)
    await orchestrator.answers_to(last, PARTITIONS)
    assert len(workers.notes()) == PARTITIONS + 2  # nobody has repeated it
    await orchestrator.send(theirs)  # as the orchestrator does when the lease has run out
    workers.go()
    for command in commands:
        assert isinstance(await orchestrator.answer_to(command), ActivityCompleted)
    assert len(workers.notes()) == PARTITIONS + 3


async def test_sigterm_finishes_what_runs(workers: Workers, orchestrator: Orchestrator) -> None:
    worker = await workers.ready()
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
    worker = await workers.ready()
    await orchestrator.send(orchestrator.command("note", "slow", "never"))
    await eventually(workers.noted(1))
    worker.process.send_signal(number)
    await eventually(lambda: "worker stopping" in worker.log)
    worker.process.send_signal(number)
    assert await worker.ended() == 128 + number


async def test_a_thread_that_never_ends_does_not_keep_the_process(workers: Workers, orchestrator: Orchestrator) -> None:
    worker = await workers.ready(EVERSTEP_GRACE_SECONDS="0.1")
    await orchestrator.send(orchestrator.command("note_for_ever", "stuck"))
    await eventually(workers.noted(1))
    worker.process.send_signal(signal.SIGTERM)
    assert await worker.ended() == 0


async def test_one_that_comes_back_under_its_name_goes_on_and_nobody_rebalances(
    workers: Workers, orchestrator: Orchestrator
) -> None:
    first = await workers.ready(times=NEVER, EVERSTEP_WORKER_ID="pod-0")
    other = await workers.ready(times=NEVER, EVERSTEP_WORKER_ID="pod-1")
    await orchestrator.settle()
    commands = [orchestrator.command("note", f"c{n}", "go") for n in range(4)]
    for n, command in enumerate(commands):
        await orchestrator.send(command, partition=n % PARTITIONS)
    await eventually(workers.noted(4))
    theirs = {line for line, pid in workers.notes() if pid == first.pid}
    await first.kill()
    back = await workers.ready(times=NEVER, EVERSTEP_WORKER_ID="pod-0")
    await eventually(workers.noted(4 + len(theirs)))
    assert {line for line, pid in workers.notes() if pid == back.pid} == theirs
    assert "rebalancing" not in other.log
    workers.go()
    for command in commands:
        assert isinstance(await orchestrator.answer_to(command), ActivityCompleted)


async def test_an_activity_whose_own_task_exits_does_not_end_the_worker(
    workers: Workers, orchestrator: Orchestrator
) -> None:
    worker = await workers.ready()
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
    worker = await workers.start(*arguments, times=None, **environment)
    assert await worker.ended() == code, worker.log
    assert says in worker.log
