"""What running code says of its progress reaches the run, and the next attempt."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from msgspec import UNSET, Raw
from tests.worker import cpu, flow
from tests.worker.kit import Orchestrator, eventually, running

from everstep import App
from everstep_schemas.wire import ActivitiesRenewed, ActivityCommand, ActivityFailed, ActivityStarted
from everstep_worker.times import Times

pytestmark = pytest.mark.integration

RARELY = Times(check_out_seconds=600.0, heartbeat_seconds=600.0)


class Case:
    """One way to run code that makes heartbeats, waits and fails."""

    def __init__(self, app: App, name: str, directory: Path, world: flow.World) -> None:
        self.app = app
        self._name = name
        self._directory = directory
        self._world = world

    def command(self, orchestrator: Orchestrator, *details: object, **changes: Any) -> ActivityCommand:
        arguments = [str(self._directory)] if self.app is cpu.app else []
        return orchestrator.command(self._name, *arguments, "a", details, **changes)

    async def began(self) -> None:
        await eventually(lambda: "a" in self._world.began or (self._directory / "a").exists())

    def go(self) -> None:
        self._world.gate.set()
        (self._directory / "go").touch()


@pytest.fixture(params=["beat", "beat_in_a_thread", "in a process"])
def case(request: pytest.FixtureRequest, tmp_path: Path, world: flow.World) -> Case:
    in_process = request.param == "in a process"
    return Case(cpu.app if in_process else flow.app, "beat" if in_process else request.param, tmp_path, world)


async def failure_of(orchestrator: Orchestrator, command: ActivityCommand) -> ActivityFailed:
    answer = await orchestrator.answer_to(command)
    assert isinstance(answer, ActivityFailed), answer
    return answer


async def test_the_first_is_reported_at_once_after_a_check_out(orchestrator: Orchestrator, case: Case) -> None:
    async with running(case.app, orchestrator.settings, times=RARELY):
        command = case.command(orchestrator, {"done": 1})
        await orchestrator.send(command)
        await orchestrator.hear(lambda: orchestrator.heartbeats(command) == [{"done": 1}])
        started, renewed = orchestrator.said()
        assert isinstance(started, ActivityStarted)
        assert isinstance(renewed, ActivitiesRenewed)
        assert renewed.tokens == (started.token,) == (command.token,)
        case.go()
        await orchestrator.answer_to(command)


async def test_of_many_the_latest_goes_to_the_next_attempt(orchestrator: Orchestrator, case: Case) -> None:
    async with running(case.app, orchestrator.settings, times=RARELY):
        command = case.command(orchestrator, *range(1000))
        await orchestrator.send(command)
        await case.began()
        await orchestrator.hear(lambda: len(orchestrator.heartbeats(command)) == 1)
        case.go()
        answer = await failure_of(orchestrator, command)
        assert (answer.error.type, answer.details) == ("ValueError", Raw(b"999"))
        assert len(orchestrator.heartbeats(command)) == 1


async def test_now_and_then_the_latest_is_reported(orchestrator: Orchestrator, case: Case) -> None:
    async with running(case.app, orchestrator.settings, times=replace(RARELY, heartbeat_seconds=0.05)):
        command = case.command(orchestrator, *range(1000))
        await orchestrator.send(command)
        await orchestrator.hear(lambda: orchestrator.heartbeats(command)[-1:] == [999])
        case.go()


async def test_one_without_details_leaves_those_that_are_known(orchestrator: Orchestrator, case: Case) -> None:
    async with running(case.app, orchestrator.settings, times=RARELY):
        said, before = case.command(orchestrator, 7, None), case.command(orchestrator, None, heartbeat=Raw(b"3"))
        await orchestrator.send(said, before)
        await orchestrator.hear(lambda: orchestrator.heartbeats(said) and orchestrator.heartbeats(before))
        assert orchestrator.heartbeats(before) == [3]
        case.go()
        assert (await failure_of(orchestrator, said)).details == Raw(b"7")
        assert (await failure_of(orchestrator, before)).details is UNSET  # the run knows them


async def test_the_next_attempt_goes_on_where_the_last_one_stood(orchestrator: Orchestrator) -> None:
    async with running(flow.app, orchestrator.settings):
        assert await orchestrator.value_of("go_on", heartbeat=Raw(b'{"done":5}')) == {"done": 5}
        assert await orchestrator.value_of("go_on") is None
        assert (await orchestrator.failure_of("go_on", heartbeat=Raw(b"[1]"))).type == "everstep.errors.PayloadError"


async def test_silence_fails_the_attempt_and_ends_its_code(orchestrator: Orchestrator, case: Case) -> None:
    async with running(case.app, orchestrator.settings, times=replace(RARELY, terminate_seconds=0.1)) as worker:
        command = case.command(orchestrator, 7, heartbeat_timeout_seconds=0.1)
        await orchestrator.send(command)
        answer = await failure_of(orchestrator, command)
        assert (answer.error.type, answer.error.retryable, answer.details) == ("ActivityTimeout", True, Raw(b"7"))
        assert json.loads(bytes(answer.error.fields)) == {"which": "heartbeat"}  # type: ignore[arg-type]  # it is set
        assert "no heartbeat came for 0.1 s" in answer.error.message
        if case.app is cpu.app or command.activity == "beat":
            await eventually(lambda: not worker._dispatcher.running)
        case.go()


async def test_code_that_says_nothing_at_all_is_silent_from_its_start(
    orchestrator: Orchestrator, world: flow.World
) -> None:
    async with running(flow.app, orchestrator.settings):
        error = await orchestrator.failure_of("wait", "a", heartbeat_timeout_seconds=0.1)
        assert json.loads(bytes(error.fields)) == {"which": "heartbeat"}
        await eventually(lambda: world.cancelled == ["a"])


async def test_heartbeats_keep_an_attempt_alive(orchestrator: Orchestrator) -> None:
    async with running(flow.app, orchestrator.settings):
        assert await orchestrator.value_of("beat_for", 2.0, heartbeat_timeout_seconds=1.0) == "done"


async def test_details_over_the_limit_are_the_code_s_error(orchestrator: Orchestrator) -> None:
    async with running(flow.app, replace(orchestrator.settings, max_payload_bytes=10_000)):
        error = await orchestrator.failure_of("beat_too_much", 10_000)
        assert (error.type, error.retryable) == ("everstep.errors.PayloadError", False)
        assert "EVERSTEP_MAX_PAYLOAD_BYTES" in error.message


async def test_what_is_said_right_before_the_end_is_not_lost(orchestrator: Orchestrator) -> None:
    async with running(flow.app, orchestrator.settings, times=RARELY):
        for name, details in (("beat_and_fail_at_once", Raw(b"7")), ("beat_and_decline", UNSET)):
            command = orchestrator.command(name, 7)
            await orchestrator.send(command)
            assert (await failure_of(orchestrator, command)).details == details
        done = orchestrator.command("beat_and_return", 7)
        await orchestrator.send(done)
        await orchestrator.answer_to(done)
        assert not orchestrator.check_outs(done)


async def test_a_worker_that_stops_says_how_far_what_it_gives_back_was(orchestrator: Orchestrator, case: Case) -> None:
    settings = replace(orchestrator.settings, grace_seconds=0.05)
    async with running(case.app, settings, times=replace(RARELY, terminate_seconds=0.1)):
        command = case.command(orchestrator, *range(1000))
        await orchestrator.send(command)
        await case.began()
        await orchestrator.hear(lambda: orchestrator.heartbeats(command))
    await orchestrator.hear(lambda: orchestrator.given_back(command))
    assert orchestrator.heartbeats(command)[-1] == 999
    assert not orchestrator.read_so_far(command)
