"""However an attempt ends, it is answered once, in words that help, and its offset passes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest
from msgspec import UNSET, Raw
from tests.worker import flow
from tests.worker.kit import Orchestrator, eventually, running

from everstep_schemas import cloudevents
from everstep_schemas.wire import ActivityCompleted, ActivityFailed, ReplyTo, encoder
from everstep_worker.worker import Worker

pytestmark = pytest.mark.integration


@pytest.fixture
async def worker(orchestrator: Orchestrator) -> AsyncIterator[Worker]:
    async with running(flow.app, orchestrator.settings) as worker:
        yield worker


@pytest.mark.usefixtures("worker")
class TestResults:
    async def test_on_the_loop(self, orchestrator: Orchestrator) -> None:
        assert await orchestrator.value_of("greet", "Ann") == "hello Ann"

    async def test_in_a_thread(self, orchestrator: Orchestrator) -> None:
        assert await orchestrator.value_of("double", 21) == 42

    async def test_typed_arguments_by_position_and_by_name(self, orchestrator: Orchestrator) -> None:
        kwargs = Raw(b'{"discount":5}')
        assert await orchestrator.value_of("price", {"sku": "A", "quantity": 2}, kwargs=kwargs) == 195

    async def test_the_answer_goes_where_the_command_says_and_names_it(self, orchestrator: Orchestrator) -> None:
        command = orchestrator.command("greet", "Ann", reply_to=ReplyTo(orchestrator.topics.inbox, 1))
        traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        headers = cloudevents.headers("everstep.activity.command", command.token, traceparent)
        await orchestrator.send_bytes(encoder.encode(command), list(headers))
        answer = await orchestrator.answer_to(command)
        assert answer.worker
        (record,) = orchestrator.answers
        assert (record.partition, record.key) == (1, command.workflow_id.encode())
        assert cloudevents.header(record.headers, "ce_id") == command.token
        assert cloudevents.header(record.headers, "ce_type") == "everstep.activity.completed"
        assert cloudevents.header(record.headers, "traceparent") == traceparent

    @pytest.mark.parametrize("name", ["about_me", "about_me_in_a_thread"])
    async def test_the_code_knows_its_attempt(self, orchestrator: Orchestrator, name: str) -> None:
        told = await orchestrator.value_of(name, workflow_id="order-x", attempt=3)
        assert told == {
            "workflow_id": "order-x",
            "run": 1,
            "seq": 2,
            "attempt": 3,
            "idempotency_key": "order-x/1/2",
            "cancelled": False,
            "main_thread": name == "about_me",
        }

    async def test_what_one_activity_sets_the_next_does_not_see(self, orchestrator: Orchestrator) -> None:
        assert await orchestrator.value_of("leak", "mine") == "nothing"
        assert await orchestrator.value_of("leak", "yours") == "nothing"

    async def test_many_at_once_in_both_ways(self, orchestrator: Orchestrator) -> None:
        commands = [orchestrator.command("double" if n % 2 else "greet", n if n % 2 else str(n)) for n in range(400)]
        for n, command in enumerate(commands):
            await orchestrator.send(command, partition=n % 2)
        for n, command in enumerate(commands):
            answer = await orchestrator.answer_to(command)
            assert isinstance(answer, ActivityCompleted)
            assert json.loads(bytes(answer.value)) == (2 * n if n % 2 else f"hello {n}")
        await orchestrator.until_committed(200, partition=0)
        await orchestrator.until_committed(200, partition=1)
        assert len(orchestrator.answers) == 400


@pytest.mark.usefixtures("worker")
class TestErrors:
    async def test_type_message_traceback_and_cause(self, orchestrator: Orchestrator) -> None:
        error = await orchestrator.failure_of("fail", "broken")
        assert (error.type, error.message, error.retryable) == ("ValueError", "broken", True)
        assert "flow.py" in error.traceback
        assert "everstep_worker" not in error.traceback
        assert (error.cause.type, error.cause.message) == ("KeyError", "'the reason'")

    async def test_of_a_thread(self, orchestrator: Orchestrator) -> None:
        error = await orchestrator.failure_of("fail_in_a_thread", "broken")
        assert (error.type, error.message) == ("ValueError", "broken")
        assert "flow.py" in error.traceback

    async def test_declared_errors_are_final_and_can_be_rebuilt(self, orchestrator: Orchestrator) -> None:
        error = await orchestrator.failure_of("decline", 51)
        assert (error.type, error.retryable) == ("CardDeclined", False)
        assert error.fields is not UNSET

    async def test_what_the_code_says_about_retries(self, orchestrator: Orchestrator) -> None:
        assert not (await orchestrator.failure_of("refuse")).retryable
        later = await orchestrator.failure_of("later")
        assert (later.retryable, later.retry_after_seconds) == (True, 7.0)

    async def test_retry_if_is_asked_in_the_worker(self, orchestrator: Orchestrator) -> None:
        assert (await orchestrator.failure_of("picky", "again please")).retryable
        assert not (await orchestrator.failure_of("picky", "enough")).retryable
        assert (await orchestrator.failure_of("confused")).retryable

    @pytest.mark.parametrize("kind", ["exit", "interrupt", "cancel"])
    async def test_code_cannot_end_the_worker(self, orchestrator: Orchestrator, kind: str) -> None:
        error = await orchestrator.failure_of("leave", kind)
        assert error.retryable
        assert error.type.endswith({"exit": "SystemExit", "interrupt": "KeyboardInterrupt"}.get(kind, "CancelledError"))
        assert await orchestrator.value_of("greet", "Ann") == "hello Ann"

    @pytest.mark.parametrize("kind", ["exit", "interrupt"])
    async def test_code_in_a_thread_cannot_end_the_worker(self, orchestrator: Orchestrator, kind: str) -> None:
        assert (await orchestrator.failure_of("leave_in_a_thread", kind)).retryable
        assert await orchestrator.value_of("double", 2) == 4

    async def test_an_unknown_name_may_be_known_to_the_next_worker(self, orchestrator: Orchestrator) -> None:
        error = await orchestrator.failure_of("charge", 1)
        assert (error.type, error.retryable) == ("ActivityNotRegistered", True)
        assert "'charge'" in error.message
        assert "greet" in error.message

    async def test_arguments_that_do_not_fit_name_the_field(self, orchestrator: Orchestrator) -> None:
        error = await orchestrator.failure_of("price", {"sku": "A", "quantity": "two"})
        assert (error.type, error.retryable) == ("everstep.errors.PayloadError", False)
        assert "quantity" in error.message
        assert "price" in error.message

    async def test_text_that_is_no_text(self, orchestrator: Orchestrator) -> None:
        assert not (await orchestrator.failure_of("half_a_surrogate_pair", False)).retryable
        assert (await orchestrator.failure_of("half_a_surrogate_pair", True)).type == "ValueError"
        assert (await orchestrator.failure_of("unprintable")).type.endswith("Unprintable")

    async def test_too_many_arguments(self, orchestrator: Orchestrator) -> None:
        assert not (await orchestrator.failure_of("greet", "Ann", "Bob")).retryable

    async def test_arguments_that_are_no_list(self, orchestrator: Orchestrator) -> None:
        assert not (await orchestrator.failure_of("greet", args=Raw(b'{"a":1}'))).retryable

    @pytest.mark.parametrize("name", ["unserialisable", "wrong_type"])
    async def test_results_that_are_no_json_of_their_type(self, orchestrator: Orchestrator, name: str) -> None:
        error = await orchestrator.failure_of(name)
        assert not error.retryable
        assert error.message

    async def test_a_deadline_that_has_passed(self, orchestrator: Orchestrator, world: flow.World) -> None:
        error = await orchestrator.failure_of("wait", "late", deadline=datetime.now(UTC) - timedelta(seconds=1))
        assert (error.type, error.retryable) == ("ActivityTimeout", False)
        assert "deadline" in error.message
        assert not world.began
        assert await orchestrator.value_of("greet", "Ann", deadline=datetime.now(UTC) + timedelta(hours=1))


async def test_a_result_over_the_limit_is_a_final_error_that_says_so(orchestrator: Orchestrator) -> None:
    settings = replace(orchestrator.settings, max_payload_bytes=10_000)
    async with running(flow.app, settings):
        assert await orchestrator.value_of("text_of", 9_998)
        error = await orchestrator.failure_of("text_of", 9_999)
        assert (error.type, error.retryable) == ("PayloadTooLarge", False)
        assert "EVERSTEP_MAX_PAYLOAD_BYTES" in error.message
        assert (await orchestrator.failure_of("long_error", 1_000_000)).type == "ValueError"


class TestTimeouts:
    async def test_code_on_the_loop_is_cancelled(self, orchestrator: Orchestrator, world: flow.World) -> None:
        async with running(flow.app, orchestrator.settings):
            error = await orchestrator.failure_of("wait", "a", timeout_seconds=0.05)
            assert (error.type, error.retryable) == ("ActivityTimeout", True)
            assert json.loads(bytes(error.fields)) == {"which": "attempt"}
            assert "0.05 s" in error.message
            await eventually(lambda: world.cancelled == ["a"])

    async def test_code_in_a_thread_is_answered_for_and_told(
        self, orchestrator: Orchestrator, world: flow.World
    ) -> None:
        async with running(flow.app, orchestrator.settings):
            assert (await orchestrator.failure_of("wait_until_cancelled", "a", timeout_seconds=0.05)).retryable
            await eventually(lambda: world.cancelled == ["a"])
            assert await orchestrator.value_of("double", 1) == 2
        assert len(orchestrator.answers) == 2

    async def test_a_thread_that_does_not_end_keeps_its_slot_and_in_the_end_the_worker_is_unhealthy(
        self, orchestrator: Orchestrator, world: flow.World
    ) -> None:
        settings = replace(orchestrator.settings, concurrency=2)
        async with running(flow.app, settings) as worker:
            await orchestrator.failure_of("wait_in_a_thread", "a", timeout_seconds=0.05)
            assert worker.why_unhealthy() is None
            assert await orchestrator.value_of("double", 1) == 2
            await orchestrator.failure_of("stubborn", "b", timeout_seconds=0.05)
            assert "2 slots" in (worker.why_unhealthy() or "")
            late = orchestrator.command("double", 4)
            await orchestrator.send(late)
            world.gate.set()
            assert isinstance(await orchestrator.answer_to(late), ActivityCompleted)
            assert worker.why_unhealthy() is None
        assert sorted(world.ended) == ["a", "b"]
        assert len(orchestrator.answers) == 4

    async def test_waiting_for_a_slot_does_not_count(self, orchestrator: Orchestrator, world: flow.World) -> None:
        async with running(flow.app, replace(orchestrator.settings, concurrency=1)):
            first = orchestrator.command("wait", "first")
            second = orchestrator.command("greet", "second", timeout_seconds=0.001)
            await orchestrator.send(first, second)
            await eventually(lambda: world.began == ["first"])
            world.gate.set()
            assert isinstance(await orchestrator.answer_to(second), ActivityCompleted)


class TestControl:
    async def test_cancel_reaches_code_on_the_loop(self, orchestrator: Orchestrator, world: flow.World) -> None:
        async with running(flow.app, orchestrator.settings):
            command = orchestrator.command("wait", "a")
            await orchestrator.send(command)
            await eventually(lambda: world.began == ["a"])
            await orchestrator.control("cancel", command.token)
            await eventually(lambda: world.cancelled == ["a"])
            await orchestrator.until_committed(1)
            assert await orchestrator.value_of("greet", "Ann")
        assert not orchestrator.read_so_far(command)

    async def test_cancel_reaches_code_in_a_thread(self, orchestrator: Orchestrator, world: flow.World) -> None:
        async with running(flow.app, orchestrator.settings):
            command = orchestrator.command("wait_until_cancelled", "a")
            await orchestrator.send(command)
            await eventually(lambda: world.began == ["a"])
            await orchestrator.control("cancel", command.token)
            await eventually(lambda: world.cancelled == ["a"])
            assert await orchestrator.value_of("greet", "Ann")
        assert not orchestrator.read_so_far(command)

    @pytest.mark.parametrize("kind", ["cancel", "drop"])
    async def test_what_is_told_before_the_command_comes_is_remembered(
        self, orchestrator: Orchestrator, world: flow.World, kind: str
    ) -> None:
        async with running(flow.app, orchestrator.settings) as worker:
            skipped, marker = orchestrator.command("wait", "a"), orchestrator.command("wait", "marker")
            await orchestrator.control(kind, skipped.token)
            await eventually(lambda: skipped.token in worker._runner._skips)
            await orchestrator.send(skipped, marker)
            await eventually(lambda: bool(world.began))
            await orchestrator.until_committed(1)
            assert world.began == ["marker"]
            world.gate.set()
            await orchestrator.answer_to(marker)
        assert not orchestrator.read_so_far(skipped)

    async def test_drop_leaves_what_runs(self, orchestrator: Orchestrator, world: flow.World) -> None:
        async with running(flow.app, orchestrator.settings) as worker:
            command, later = orchestrator.command("wait", "a"), orchestrator.command("greet", "b")
            await orchestrator.send(command)
            await eventually(lambda: world.began == ["a"])
            await orchestrator.control("drop", command.token)
            await orchestrator.control("drop", later.token)
            await eventually(lambda: later.token in worker._runner._skips)
            world.gate.set()
            assert isinstance(await orchestrator.answer_to(command), ActivityCompleted)

    async def test_nonsense_is_passed_over(self, orchestrator: Orchestrator, world: flow.World) -> None:
        async with running(flow.app, orchestrator.settings):
            for value in (b"", b"\xff", b'{"kind":"explode","token":"x"}'):
                await orchestrator.producer.send_and_wait(orchestrator.topics.control, value)
            command = orchestrator.command("wait", "a")
            await orchestrator.send(command)
            await eventually(lambda: world.began == ["a"])
            await orchestrator.control("cancel", command.token)
            await eventually(lambda: world.cancelled == ["a"])


class TestCommands:
    @pytest.mark.usefixtures("worker")
    @pytest.mark.parametrize(
        "value", [b"not json", b"\xff\xfe", b"", b'{"activity":"greet"}', b"[" * 10_000, b'{"args":' + b"[" * 10_000]
    )
    async def test_bytes_that_are_no_command_become_a_dead_letter(
        self, orchestrator: Orchestrator, value: bytes
    ) -> None:
        offset = await orchestrator.send_bytes(value, [("mine", b"kept")], partition=1)
        letter = await orchestrator.dead_letter()
        headers = dict(letter.headers)
        assert letter.value == value
        assert headers["mine"] == b"kept"
        assert headers["everstep_topic"].decode() == orchestrator.topics.activities("default")
        assert (headers["everstep_partition"], headers["everstep_offset"]) == (b"1", str(offset).encode())
        assert headers["everstep_reason"] == b"command"
        assert headers["everstep_detail"]
        await orchestrator.until_committed(offset + 1, partition=1)
        assert await orchestrator.value_of("greet", "Ann") == "hello Ann"

    async def test_the_same_command_twice_at_once_runs_once_and_both_offsets_pass(
        self, orchestrator: Orchestrator, world: flow.World
    ) -> None:
        async with running(flow.app, orchestrator.settings):
            command, marker = orchestrator.command("wait", "a"), orchestrator.command("greet", "b")
            await orchestrator.send(command, command, marker)
            await orchestrator.answer_to(marker)
            assert world.began == ["a"]
            assert not (await orchestrator.committed()).get(0)
            world.gate.set()
            await orchestrator.until_committed(3)
        assert len(await orchestrator.answers_to(command, 1)) == 1

    async def test_the_offset_passes_only_what_is_answered(self, orchestrator: Orchestrator, world: flow.World) -> None:
        async with running(flow.app, orchestrator.settings):
            quick = [orchestrator.command("greet", str(n)) for n in range(10)]
            slow = orchestrator.command("wait", "slow")
            await orchestrator.send(*quick[:5], slow, *quick[5:])
            for command in quick:
                await orchestrator.answer_to(command)
            await orchestrator.until_committed(5)
            assert (await orchestrator.committed())[0] == 5
            world.gate.set()
            await orchestrator.until_committed(11)


class TestQueues:
    async def test_each_queue_has_its_limit(self, orchestrator: Orchestrator, world: flow.World) -> None:
        async with running(flow.app, orchestrator.settings, {"default": 2, "other": 10}):
            commands = [orchestrator.command("wait", str(n)) for n in range(5)]
            await orchestrator.send(*commands)
            await eventually(lambda: len(world.began) == 2)
            other = orchestrator.command("elsewhere")
            await orchestrator.send(other, queue="other")
            assert isinstance(await orchestrator.answer_to(other), ActivityCompleted)
            assert len(world.began) == 2
            world.gate.set()
            for command in commands:
                await orchestrator.answer_to(command)

    async def test_the_worker_has_one_too(self, orchestrator: Orchestrator, world: flow.World) -> None:
        async with running(flow.app, replace(orchestrator.settings, concurrency=3), {"default": 3, "other": 3}):
            commands = [orchestrator.command("wait", str(n)) for n in range(8)]
            await orchestrator.send(*commands[:4])
            await orchestrator.send(*commands[4:], queue="other")
            await eventually(lambda: len(world.began) == 3)
            world.gate.set()
            for command in commands:
                await orchestrator.answer_to(command)
            assert len(world.began) == 8


class TestResources:
    async def test_opened_once_at_first_use_closed_in_reverse(
        self, orchestrator: Orchestrator, world: flow.World
    ) -> None:
        async with running(flow.app, orchestrator.settings):
            await orchestrator.value_of("greet", "Ann")
            assert not world.opened
            commands = [orchestrator.command("use_both") for _ in range(20)]
            await orchestrator.send(*commands)
            for command in commands:
                answer = await orchestrator.answer_to(command)
                assert isinstance(answer, ActivityCompleted)
                assert bytes(answer.value) == b'"first second"'
            assert await orchestrator.value_of("use_in_a_thread") == "second"
            assert world.opened == ["first", "second"]
            assert not world.closed
        assert world.closed == ["second", "first"]

    async def test_one_that_cannot_be_opened_fails_the_attempt_and_is_tried_again(
        self, orchestrator: Orchestrator, world: flow.World
    ) -> None:
        async with running(flow.app, orchestrator.settings):
            world.broken = True
            for name in ("use_both", "use_in_a_thread"):
                error = await orchestrator.failure_of(name)
                assert error.retryable
                assert "second" in error.message
                assert "no database" in error.message
            world.broken = False
            assert await orchestrator.value_of("use_both") == "first second"


class TestStopping:
    async def test_what_runs_is_finished_what_waits_is_left(
        self, orchestrator: Orchestrator, world: flow.World
    ) -> None:
        async with running(flow.app, replace(orchestrator.settings, concurrency=1)) as worker:
            runs, waits = orchestrator.command("wait", "runs"), orchestrator.command("wait", "waits")
            await orchestrator.send(runs, waits)
            await eventually(lambda: world.began == ["runs"])
            stopping = asyncio.create_task(worker.stop())
            await eventually(lambda: worker.why_unready() is not None)
            world.gate.set()
            await stopping
            assert world.began == ["runs"]
            assert (await orchestrator.committed())[0] == 1
        assert isinstance(await orchestrator.answer_to(runs), ActivityCompleted)

    async def test_what_outlives_the_grace_time_is_given_back_and_begins_elsewhere(
        self, orchestrator: Orchestrator, world: flow.World
    ) -> None:
        commands = [orchestrator.command("wait", "a"), orchestrator.command("wait_in_a_thread", "b")]
        async with running(flow.app, replace(orchestrator.settings, grace_seconds=0.05)):
            await orchestrator.send(*commands)
            await eventually(lambda: len(world.began) == 2)
        assert world.cancelled == ["a"]
        for command in commands:
            await orchestrator.hear(partial(orchestrator.given_back, command))
            assert not orchestrator.read_so_far(command)
        await orchestrator.until_committed(2)
        world.gate.set()
        async with running(flow.app, orchestrator.settings):
            await orchestrator.send(*commands)  # as the orchestrator does with what is given back
            for command in commands:
                assert isinstance(await orchestrator.answer_to(command), ActivityCompleted)
        assert sorted(world.began) == ["a", "a", "b", "b"]

    async def test_others_take_over_the_queue_while_what_runs_is_finished(
        self, orchestrator: Orchestrator, world: flow.World
    ) -> None:
        slow, late = orchestrator.command("wait", "slow"), orchestrator.command("greet", "late")
        async with running(flow.app, replace(orchestrator.settings, grace_seconds=60.0)) as worker:
            await orchestrator.send(slow)
            await eventually(lambda: world.began == ["slow"])
            stopping = asyncio.create_task(worker.stop())
            await orchestrator.checked_out(slow)
            async with running(flow.app, orchestrator.settings):
                await orchestrator.send(late)
                assert isinstance(await orchestrator.answer_to(late), ActivityCompleted)
            assert not orchestrator.read_so_far(slow)
            world.gate.set()
            await stopping
        assert isinstance(await orchestrator.answer_to(slow), ActivityCompleted)
        assert world.began == ["slow"]


async def test_an_answer_with_nowhere_to_go_becomes_a_dead_letter(
    orchestrator: Orchestrator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("everstep_worker.results.UNROUTABLE_SECONDS", 0.5)
    async with running(flow.app, orchestrator.settings):
        lost = orchestrator.command("greet", "Ann", reply_to=ReplyTo(orchestrator.topics.inbox, 99))
        await orchestrator.send(lost)
        letter = await orchestrator.dead_letter()
        assert letter.value == encoder.encode(lost)
        assert dict(letter.headers)["everstep_reason"] == b"reply_to"
        await orchestrator.until_committed(1)
        assert await orchestrator.value_of("greet", "Bob") == "hello Bob"


async def test_failures_are_answers_too(orchestrator: Orchestrator) -> None:
    async with running(flow.app, orchestrator.settings):
        command = orchestrator.command("fail", "x")
        await orchestrator.send(command)
        assert isinstance(await orchestrator.answer_to(command), ActivityFailed)
        await orchestrator.until_committed(1)
