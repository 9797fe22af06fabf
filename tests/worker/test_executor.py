"""Activities in processes of their own: they run as others do, and take nothing with them when they die."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from msgspec import Raw
from prometheus_client import generate_latest
from tests.worker import cpu
from tests.worker.kit import Orchestrator, eventually, running
from tests.worker.processes import Workers

from everstep import App, telemetry
from everstep.app import LoadError
from everstep.stack._process import command_line
from everstep_schemas.wire import ActivityCompleted, ActivityFailed
from everstep_worker.times import Times
from everstep_worker.worker import Worker

pytestmark = [pytest.mark.integration, pytest.mark.process]

SOON = Times(terminate_seconds=0.1)


@pytest.fixture
async def worker(orchestrator: Orchestrator) -> AsyncIterator[Worker]:
    async with running(cpu.app, orchestrator.settings, times=SOON) as worker:
        yield worker


async def pid_in(path: Path) -> int:
    await eventually(path.exists)
    return _number(path)


def _number(path: Path) -> int:
    return int(path.read_text())


async def ended(*pids: int) -> None:
    await eventually(lambda: not any(command_line(pid) for pid in pids))


@pytest.mark.usefixtures("worker")
class TestOutcomes:
    async def test_arguments_in_and_results_out(self, orchestrator: Orchestrator) -> None:
        assert await orchestrator.value_of("total", [1, 2, 3], kwargs=Raw(b'{"times":2}')) == 12

    async def test_the_code_knows_its_attempt(self, orchestrator: Orchestrator) -> None:
        assert await orchestrator.value_of("about_me", attempt=3, heartbeat=Raw(b'{"done":5}')) == {
            "workflow_id": "order-1",
            "attempt": 3,
            "idempotency_key": "order-1/1/2",
            "cancelled": False,
            "main_thread": True,
            "last": {"done": 5},
        }

    async def test_a_process_is_used_again(self, orchestrator: Orchestrator) -> None:
        first, second = [await orchestrator.value_of("process_id") for _ in range(2)]
        assert first == second != os.getpid()

    async def test_errors_cross_as_they_do_from_a_thread(self, orchestrator: Orchestrator) -> None:
        error = await orchestrator.failure_of("fail", "broken")
        assert (error.type, error.message, error.retryable) == ("ValueError", "broken", True)
        assert "cpu.py" in error.traceback
        assert "everstep_worker" not in error.traceback
        assert (error.cause.type, error.cause.message) == ("KeyError", "'the reason'")

    async def test_the_policy_is_asked_where_the_exception_is(self, orchestrator: Orchestrator) -> None:
        declared = await orchestrator.failure_of("decline", 51)
        assert (declared.type, declared.retryable, bytes(declared.fields)) == ("CardDeclined", False, b'{"code":51}')
        assert (await orchestrator.failure_of("picky", "again please")).retryable
        assert not (await orchestrator.failure_of("picky", "enough")).retryable

    async def test_what_does_not_fit_is_said_as_anywhere(self, orchestrator: Orchestrator) -> None:
        error = await orchestrator.failure_of("total", ["one"])
        assert (error.type, error.retryable) == ("everstep.errors.PayloadError", False)
        assert "$.numbers[0]" in error.message
        assert not (await orchestrator.failure_of("wrong_type")).retryable

    async def test_code_cannot_end_its_process_by_raising(self, orchestrator: Orchestrator) -> None:
        before = await orchestrator.value_of("process_id")
        assert (await orchestrator.failure_of("leave", "SystemExit")).type == "SystemExit"
        assert await orchestrator.value_of("process_id") == before

    @pytest.mark.parametrize("how", ["exit code 7", "SIGKILL", "SIGABRT"])
    async def test_one_that_dies_fails_its_attempt_and_another_takes_its_place(
        self, orchestrator: Orchestrator, how: str
    ) -> None:
        before = await orchestrator.value_of("process_id")
        error = await orchestrator.failure_of("leave", how)
        assert (error.type, error.retryable) == ("ProcessDied", True)
        assert how in error.message
        assert b'everstep_process_deaths_total{activity="leave"}' in generate_latest(telemetry.WORKER)
        assert await orchestrator.value_of("process_id") != before

    async def test_one_that_died_while_idle_costs_no_attempt(self, orchestrator: Orchestrator) -> None:
        before = await orchestrator.value_of("process_id")
        os.kill(before, 9)
        assert await orchestrator.value_of("process_id") != before


async def test_a_result_over_the_limit(orchestrator: Orchestrator) -> None:
    async with running(cpu.app, replace(orchestrator.settings, max_payload_bytes=10_000)):
        assert await orchestrator.value_of("text_of", 9_998)
        error = await orchestrator.failure_of("text_of", 9_999)
        assert (error.type, error.retryable) == ("PayloadTooLarge", False)


class TestEnding:
    async def test_a_timeout_ends_the_process_and_is_no_reason_for_a_restart(
        self, orchestrator: Orchestrator, tmp_path: Path
    ) -> None:
        async with running(cpu.app, replace(orchestrator.settings, concurrency=1), times=SOON) as worker:
            command = orchestrator.command("stubborn", str(tmp_path), "a", timeout_seconds=0.1)
            await orchestrator.send(command)
            answer = await orchestrator.answer_to(command)
            assert isinstance(answer, ActivityFailed)
            assert (answer.error.type, answer.error.retryable) == ("ActivityTimeout", True)
            assert worker.why_unhealthy() is None
            await ended(await pid_in(tmp_path / "a"))
            assert await orchestrator.value_of("total", [1]) == 1

    async def test_starting_a_process_does_not_count(self, orchestrator: Orchestrator) -> None:
        async with running(cpu.app, orchestrator.settings):
            assert await orchestrator.value_of("total", [1], timeout_seconds=0.2) == 1

    async def test_cancelling_lets_it_clear_up(
        self, orchestrator: Orchestrator, worker: Worker, tmp_path: Path
    ) -> None:
        command = orchestrator.command("wait", str(tmp_path), "a")
        await orchestrator.send(command)
        pid = await pid_in(tmp_path / "a")
        worker._runner._execution._processes._terminate_seconds = 60.0
        await orchestrator.control("cancel", command.token)
        await ended(pid)
        assert (tmp_path / "a-ended").read_text() == "cancelled: True"
        assert not orchestrator.read_so_far(command)

    async def test_cancelling_ends_also_what_does_not_listen_and_what_it_started(
        self, orchestrator: Orchestrator, worker: Worker, tmp_path: Path
    ) -> None:
        command = orchestrator.command("start_another", str(tmp_path), "a")
        await orchestrator.send(command)
        pids = [await pid_in(tmp_path / name) for name in ("a", "a-child")]
        assert all(command_line(pid) for pid in pids)
        await orchestrator.control("cancel", command.token)
        await ended(*pids)
        await eventually(lambda: not worker._dispatcher.running)
        assert await orchestrator.value_of("total", [1]) == 1

    async def test_a_worker_that_stops_leaves_none(self, orchestrator: Orchestrator, tmp_path: Path) -> None:
        settings = replace(orchestrator.settings, grace_seconds=0.05)
        async with running(cpu.app, settings, times=SOON) as worker:
            idle = await orchestrator.value_of("process_id")
            command = orchestrator.command("stubborn", str(tmp_path), "a")
            await orchestrator.send(orchestrator.command("wait", str(tmp_path), "b"), command)
            busy = [await pid_in(tmp_path / name) for name in "ab"]
            assert idle in busy
            assert len(worker._runner._execution._processes) == 2
        assert not any(command_line(pid) for pid in busy)
        await orchestrator.hear(lambda: orchestrator.given_back(command))

    async def test_no_more_than_run_at_once(self, orchestrator: Orchestrator) -> None:
        async with running(cpu.app, replace(orchestrator.settings, concurrency=2)) as worker:
            commands = [orchestrator.command("process_id") for _ in range(10)]
            await orchestrator.send(*commands)
            answers = [await orchestrator.answer_to(command) for command in commands]
            assert all(isinstance(answer, ActivityCompleted) for answer in answers)
            assert len(worker._runner._execution._processes) <= 2


class TestStarting:
    async def test_what_keeps_a_process_from_its_work_is_said(self, orchestrator: Orchestrator) -> None:
        worker = Worker(cpu.app, {"default": 5}, orchestrator.settings, target="tests.worker.nowhere:app")
        try:
            await worker.start()
            error = await orchestrator.failure_of("total", [1])
        finally:
            await worker.stop()
        assert (error.type, error.retryable) == ("ProcessNotStarted", True)
        assert "tests.worker.nowhere" in error.message

    async def test_an_app_that_no_module_holds_cannot_be_loaded_again(self, orchestrator: Orchestrator) -> None:
        app = App("nowhere")
        app.activity(executor="process")(len_of)
        with pytest.raises(LoadError, match="no variable of any module"):
            Worker(app, {"default": 5}, orchestrator.settings)


def len_of(text: str) -> int:
    return len(text)


# ---- of a worker that is a process itself


async def test_a_killed_worker_leaves_none(workers: Workers, orchestrator: Orchestrator, tmp_path: Path) -> None:
    worker = await workers.ready("tests.worker.cpu:app")
    for name, activity in (("a", "start_another"), ("b", "wait")):
        await orchestrator.send(orchestrator.command(activity, str(tmp_path), name))
    pids = [await pid_in(tmp_path / name) for name in ("a", "a-child", "b")]
    await worker.kill()
    await ended(*pids)


async def test_what_it_prints_and_logs_stands_with_the_worker_s(workers: Workers, orchestrator: Orchestrator) -> None:
    worker = await workers.ready("tests.worker.cpu:app")
    command = orchestrator.command("say")
    await orchestrator.send(command)
    assert isinstance(await orchestrator.answer_to(command), ActivityCompleted)
    lines = [line for line in worker.log.splitlines() if "by a" in line]
    assert "printed by an activity" in lines
    logged = {line["event"]: line for line in map(json.loads, (line for line in lines if line.startswith("{")))}
    assert logged["logged by an activity"]["colour"] == "blue"
    for line in logged.values():
        assert (line["service"], line["workflow_id"], line["activity"]) == ("worker", command.workflow_id, "say")
    assert len(logged) == 2


async def test_a_ctrl_c_in_the_terminal_is_the_worker_s_business(
    workers: Workers, orchestrator: Orchestrator, tmp_path: Path
) -> None:
    """A child is in a session of its own, so only the worker gets it."""
    worker = await workers.ready("tests.worker.cpu:app")
    command = orchestrator.command("wait", str(tmp_path), "a")
    await orchestrator.send(command)
    pid = await pid_in(tmp_path / "a")
    assert os.getsid(pid) == pid != os.getsid(worker.pid)
    for number in (15, 2):  # from a supervisor that tells every process of a service
        os.kill(pid, number)
    worker.process.terminate()
    await eventually(lambda: "worker stopping" in worker.log)
    (tmp_path / "go").touch()
    assert await worker.ended() == 0
    assert isinstance(await orchestrator.answer_to(command), ActivityCompleted)
