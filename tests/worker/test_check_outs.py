"""Attempts that last are checked out, and those that may have begun elsewhere before they begin here."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from tests.worker import flow
from tests.worker.kit import Orchestrator, eventually, running

from everstep_schemas import cloudevents
from everstep_schemas.wire import ActivitiesRenewed, ActivityCommand, ActivityCompleted, ReplyTo
from everstep_worker.times import Times

pytestmark = pytest.mark.integration

SOON = Times(check_out_seconds=0.05)
NEVER = Times(check_out_seconds=600.0)


async def test_one_that_lasts_does_not_hold_its_partition(orchestrator: Orchestrator, world: flow.World) -> None:
    async with running(flow.app, orchestrator.settings, times=SOON) as worker:
        slow = orchestrator.command("wait", "slow")
        quick = [orchestrator.command("greet", str(n)) for n in range(3)]
        await orchestrator.send(slow, *quick)
        await orchestrator.until_committed(4)
        assert world.began == ["slow"]
        [said] = await orchestrator.checked_out(slow)
        assert (said.workflow_id, said.run, said.seq, said.attempt) == (slow.workflow_id, 1, 2, 1)
        assert (said.lease_seconds, said.worker, said.again) == (15.0, worker.name, False)
        world.gate.set()
        assert isinstance(await orchestrator.answer_to(slow), ActivityCompleted)
    assert not any(orchestrator.check_outs(command) for command in quick)
    assert len(orchestrator.read_so_far(slow)) == 1


async def test_it_is_said_where_answers_go_and_of_the_same_trace(orchestrator: Orchestrator, world: flow.World) -> None:
    async with running(flow.app, orchestrator.settings, times=SOON):
        command = orchestrator.command("wait", "slow", reply_to=ReplyTo(orchestrator.topics.inbox, 1))
        await orchestrator.send(command)
        await orchestrator.checked_out(command)
        world.gate.set()
    (record, *_) = orchestrator.answers
    assert (record.partition, record.key) == (1, command.workflow_id.encode())
    assert cloudevents.header(record.headers, "ce_type") == "everstep.activity.started"
    assert cloudevents.header(record.headers, "ce_id") == f"{command.token}/started"


@pytest.mark.parametrize("name", ["wait", "wait_in_a_thread"])
async def test_the_offset_waits_until_it_is_checked_out(
    orchestrator: Orchestrator, world: flow.World, name: str
) -> None:
    async with running(flow.app, orchestrator.settings, times=NEVER):
        slow, quick = orchestrator.command(name, "slow"), orchestrator.command("greet", "Ann")
        await orchestrator.send(slow, quick)
        await orchestrator.answer_to(quick)
        assert not (await orchestrator.committed()).get(0)
        world.gate.set()
        await orchestrator.until_committed(2)
    assert not orchestrator.check_outs(slow)


async def test_one_that_waits_for_a_resource_has_not_begun(orchestrator: Orchestrator, world: flow.World) -> None:
    world.opening.clear()
    async with running(flow.app, orchestrator.settings, times=Times(check_out_seconds=0.01)):
        waits, runs = orchestrator.command("use_slow"), orchestrator.command("wait", "runs")
        await orchestrator.send(waits, runs)
        await orchestrator.checked_out(runs)
        assert not orchestrator.check_outs(waits)
        world.opening.set()
        assert isinstance(await orchestrator.answer_to(waits), ActivityCompleted)
        world.gate.set()


class TestRenewals:
    async def test_one_message_renews_all_that_answer_to_a_partition(
        self, orchestrator: Orchestrator, world: flow.World
    ) -> None:
        async with running(flow.app, orchestrator.settings, times=replace(SOON, lease_seconds=0.3)) as worker:
            shards = (0, 0, 0, 1)
            commands = [
                orchestrator.command("wait", str(n), reply_to=ReplyTo(orchestrator.topics.inbox, shard))
                for n, shard in enumerate(shards)
            ]
            await orchestrator.send(*commands)
            tokens = [command.token for command in commands]
            for command in commands:
                await orchestrator.checked_out(command)
            await orchestrator.hear(lambda: any(set(one.tokens) == set(tokens[:3]) for one in renewals(orchestrator)))
            await orchestrator.hear(lambda: len(orchestrator.renewals(commands[3])) >= 3)
            assert all(one.tokens == (tokens[3],) for one in orchestrator.renewals(commands[3]))
            assert {one.worker for one in renewals(orchestrator)} == {worker.name}
            world.gate.set()

    @pytest.mark.parametrize("how", ["answered", "timed out", "cancelled"])
    async def test_what_has_ended_is_renewed_no_more(
        self, orchestrator: Orchestrator, world: flow.World, how: str
    ) -> None:
        async with running(flow.app, orchestrator.settings, times=replace(SOON, lease_seconds=0.3)):
            seconds = 0.2 if how == "timed out" else 60.0
            name = "stubborn" if how == "timed out" else "wait_until_cancelled" if how == "cancelled" else "wait"
            ends = orchestrator.command(name, "ends", timeout_seconds=seconds, reply_to=inbox(orchestrator))
            stays = orchestrator.command("wait_until_cancelled", "stays", reply_to=inbox(orchestrator))
            await orchestrator.send(ends, stays)
            for command in (ends, stays):
                await orchestrator.checked_out(command)
            if how == "answered":
                await orchestrator.hear(lambda: orchestrator.renewals(ends))
                world.gate.set()
                await orchestrator.answer_to(ends)
            elif how == "timed out":
                await orchestrator.answer_to(ends)
            else:
                await orchestrator.control("cancel", ends.token)
                await eventually(lambda: world.cancelled == ["ends"])
            seen = len(orchestrator.answers)
            await orchestrator.hear(lambda: renews(orchestrator, stays, seen) >= 3)
            assert renews(orchestrator, ends, seen) <= 1  # one may have been on its way
            await orchestrator.control("cancel", stays.token)
            world.gate.set()

    async def test_the_same_command_again_is_known_and_said_to_run_all_along(
        self, orchestrator: Orchestrator, world: flow.World
    ) -> None:
        """As when renewals were late, and the orchestrator has given it to workers again."""
        async with running(flow.app, orchestrator.settings, times=SOON):
            command = orchestrator.command("wait", "a")
            await orchestrator.send(command)
            await orchestrator.checked_out(command)
            await orchestrator.send(command, partition=1)
            first, second = await orchestrator.checked_out(command, 2)
            assert (first.again, second.again) == (False, True)
            await orchestrator.until_committed(1, partition=1)
            world.gate.set()
            await orchestrator.answer_to(command)
        assert world.began == ["a"]


class TestBeforeTheyBegin:
    """Another worker may have begun what lies in a partition when it is assigned."""

    async def test_the_first_ones_as_many_as_may_run(self, orchestrator: Orchestrator) -> None:
        commands = [orchestrator.command("greet", str(n)) for n in range(5)]
        await orchestrator.send(*commands)
        async with running(flow.app, replace(orchestrator.settings, concurrency=2), times=NEVER):
            for command in commands:
                assert isinstance(await orchestrator.answer_to(command), ActivityCompleted)
            later = orchestrator.command("greet", "later")
            await orchestrator.send(later)
            await orchestrator.answer_to(later)
        told = [len(orchestrator.check_outs(command)) for command in (*commands, later)]
        assert told == [1, 1, 0, 0, 0, 0]

    async def test_not_what_is_written_after_the_assignment(self, orchestrator: Orchestrator) -> None:
        async with running(flow.app, orchestrator.settings, times=NEVER):
            command = orchestrator.command("greet", "new")
            await orchestrator.send(command)
            await orchestrator.answer_to(command)
        assert not orchestrator.check_outs(command)

    async def test_one_that_is_said_to_have_been_begun(self, orchestrator: Orchestrator) -> None:
        async with running(flow.app, orchestrator.settings, times=NEVER):
            command = orchestrator.command("greet", "Ann", suspect=True)
            await orchestrator.send(command)
            await orchestrator.answer_to(command)
        assert len(orchestrator.check_outs(command)) == 1

    @pytest.mark.parametrize("name", ["wait", "wait_in_a_thread"])
    async def test_they_begin_only_when_that_is_known(
        self, orchestrator: Orchestrator, world: flow.World, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        """Here it never is: the partition to answer to does not exist."""
        monkeypatch.setattr("everstep_worker.results.UNROUTABLE_SECONDS", 0.5)
        nowhere = orchestrator.command(name, "nowhere", reply_to=ReplyTo(orchestrator.topics.inbox, 99))
        known = orchestrator.command(name, "known")
        await orchestrator.send(nowhere, known)
        async with running(flow.app, orchestrator.settings):
            await orchestrator.checked_out(known)
            await eventually(lambda: bool(world.began))
            letter = await orchestrator.dead_letter()
            assert json.loads(letter.value)["token"] == nowhere.token
            await orchestrator.until_committed(2)
            assert world.began == ["known"]
            world.gate.set()
            await orchestrator.answer_to(known)

    async def test_one_that_is_cancelled_meanwhile_does_not_begin(
        self, orchestrator: Orchestrator, world: flow.World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        commands = [
            orchestrator.command(name, name, reply_to=ReplyTo(orchestrator.topics.inbox, 99))
            for name in ("wait", "wait_in_a_thread")
        ]
        await orchestrator.send(*commands)
        async with running(flow.app, orchestrator.settings) as worker:
            await eventually(lambda: worker._dispatcher.running == 2)
            for command in commands:
                await orchestrator.control("cancel", command.token)
            await eventually(lambda: worker._dispatcher.running == 0)
            assert await orchestrator.value_of("greet", "Ann") == "hello Ann"
        assert not world.began


class TestQueueTimeout:
    async def test_the_run_learns_when_one_begins_that_has_to_by_some_time(
        self, orchestrator: Orchestrator, world: flow.World
    ) -> None:
        async with running(flow.app, orchestrator.settings, times=NEVER):
            by = datetime.now(UTC) + timedelta(minutes=5)
            for name in ("wait", "wait_in_a_thread"):
                command = orchestrator.command(name, name, start_by=by)
                await orchestrator.send(command)
                assert len(await orchestrator.checked_out(command)) == 1
            world.gate.set()

    async def test_one_that_is_too_late_does_not_begin(self, orchestrator: Orchestrator, world: flow.World) -> None:
        async with running(flow.app, orchestrator.settings):
            error = await orchestrator.failure_of("wait", "late", start_by=datetime.now(UTC) - timedelta(seconds=1))
        assert (error.type, error.retryable) == ("ActivityTimeout", False)
        assert json.loads(bytes(error.fields)) == {"which": "queue"}
        assert "no worker could start it by" in error.message
        assert not world.began


class TestRebalance:
    async def test_what_has_not_begun_when_a_partition_goes_elsewhere_does_not(
        self, orchestrator: Orchestrator, world: flow.World
    ) -> None:
        """Both wait for a resource while another worker joins and gets one of the two partitions."""
        world.opening.clear()
        async with running(flow.app, orchestrator.settings):
            commands = [orchestrator.command("use_slow") for _ in range(2)]
            for partition, command in enumerate(commands):
                await orchestrator.send(command, partition=partition)
            await eventually(lambda: world.opened == ["slow"])
            async with running(flow.app, orchestrator.settings):
                await eventually(lambda: world.opened == ["slow", "slow"])  # each worker has its own
                world.opening.set()
                for command in commands:
                    await orchestrator.answer_to(command)
                for partition in range(2):
                    await orchestrator.until_committed(1, partition=partition)
        assert world.began == ["slow", "slow"]


def inbox(orchestrator: Orchestrator) -> ReplyTo:
    return ReplyTo(orchestrator.topics.inbox, 0)


def renewals(orchestrator: Orchestrator, since: int = 0) -> list[ActivitiesRenewed]:
    return [one for one in orchestrator.said()[since:] if isinstance(one, ActivitiesRenewed)]


def renews(orchestrator: Orchestrator, command: ActivityCommand, since: int) -> int:
    """How often it is renewed in what was said after so many records."""
    return sum(command.token in one.tokens for one in renewals(orchestrator, since))
