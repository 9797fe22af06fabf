"""Workers share queues: what one leaves, another does, and what one does, nobody repeats without need."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pytest
from tests.worker import flow
from tests.worker.kit import PARTITIONS, SHARDS, Orchestrator, eventually, installation, running, settings_of

from everstep.admin import topics
from everstep.stack import Stack
from everstep_schemas.wire import ActivityCommand, ActivityCompleted
from everstep_worker.times import Times

pytestmark = pytest.mark.integration

EACH = 10


@pytest.mark.parametrize("name", ["wait", "wait_in_a_thread"])
async def test_workers_join_and_leave_while_activities_run_and_nobody_repeats_them(
    orchestrator: Orchestrator, world: flow.World, name: str
) -> None:
    commands = {
        f"{partition}/{n}": orchestrator.command(name, f"{partition}/{n}")
        for partition in range(PARTITIONS)
        for n in range(EACH)
    }
    async with running(flow.app, orchestrator.settings) as first:
        for place, command in commands.items():
            await orchestrator.send(command, partition=int(place[0]))
        await eventually(lambda: len(world.began) == PARTITIONS * EACH)
        async with running(flow.app, orchestrator.settings):
            for partition in range(PARTITIONS):
                await orchestrator.until_committed(EACH, partition=partition)
            for command in commands.values():
                assert len(await orchestrator.checked_out(command)) == 1
            later = [orchestrator.command("greet", str(partition)) for partition in range(PARTITIONS)]
            for partition, command in enumerate(later):
                await orchestrator.send(command, partition=partition)
                assert isinstance(await orchestrator.answer_to(command), ActivityCompleted)
        world.gate.set()
        for command in commands.values():
            assert isinstance(await orchestrator.answer_to(command), ActivityCompleted)
        assert first.why_unready() is None
    assert Counter(world.began) == Counter(list(commands))


async def test_who_stays_takes_over_what_the_other_leaves(orchestrator: Orchestrator) -> None:
    async with running(flow.app, orchestrator.settings):
        async with running(flow.app, orchestrator.settings):
            for partition in range(PARTITIONS):
                command = orchestrator.command("greet", "both")
                await orchestrator.send(command, partition=partition)
                await orchestrator.answer_to(command)
        for partition in range(PARTITIONS):
            command = orchestrator.command("greet", "one")
            await orchestrator.send(command, partition=partition)
            assert isinstance(await orchestrator.answer_to(command), ActivityCompleted)


async def test_nothing_is_lost_while_workers_come_and_go_under_load(orchestrator: Orchestrator) -> None:
    commands = [orchestrator.command("greet" if n % 3 else "double", str(n) if n % 3 else n) for n in range(3_000)]
    settings = replace(orchestrator.settings, concurrency=20)
    sending = asyncio.create_task(_send_all(orchestrator, commands))
    async with running(flow.app, settings):
        for _ in range(3):
            async with running(flow.app, settings):
                await orchestrator.answer_to(commands[len(orchestrator.answers) // 2])
        await sending
        for partition in range(PARTITIONS):
            await orchestrator.until_committed(len(commands) // PARTITIONS, partition=partition)
    await orchestrator.until_answered(commands)


async def _send_all(orchestrator: Orchestrator, commands: Sequence[ActivityCommand]) -> None:
    for n, command in enumerate(commands):
        await orchestrator.send(command, partition=n % PARTITIONS)


async def test_finished_commands_do_not_come_again_after_a_restart(
    orchestrator: Orchestrator, world: flow.World
) -> None:
    world.gate.set()
    async with running(flow.app, orchestrator.settings):
        for n in range(EACH):
            await orchestrator.value_of("wait", str(n))
    async with running(flow.app, orchestrator.settings):
        await orchestrator.value_of("wait", "last")
    assert Counter(world.began) == Counter([*map(str, range(EACH)), "last"])


async def test_a_topic_that_was_made_anew_is_read_from_its_start(orchestrator: Orchestrator, world: flow.World) -> None:
    """Its offsets begin again below those that the group has committed."""
    world.gate.set()
    async with running(flow.app, orchestrator.settings):
        for n in range(3):
            await orchestrator.value_of("wait", str(n))
        await orchestrator.until_committed(3)
    await orchestrator.admin.delete_topics([orchestrator.topics.activities("default")])
    await topics.create(orchestrator.settings, SHARDS, ["default"])
    async with running(flow.app, orchestrator.settings):
        await orchestrator.value_of("wait", "after")
    assert world.began == ["0", "1", "2", "after"]


async def test_kafka_goes_away_and_comes_back(private_stack: Stack, world: flow.World) -> None:
    settings = replace(settings_of(private_stack.kafka_bootstrap, "away"), concurrency=50)
    times = Times(lease_seconds=0.3, heartbeat_seconds=0.05)
    async with installation(settings) as orchestrator, running(flow.app, settings, times=times):
        commands = [orchestrator.command("wait", str(n)) for n in range(EACH)]
        waiting = [orchestrator.command("greet", str(n)) for n in range(EACH)]
        beats = orchestrator.command("beat_until", "beats")
        await orchestrator.send(*commands, beats, partition=1)
        await orchestrator.send(*waiting)
        await eventually(lambda: len(world.began) == EACH + 1)
        await orchestrator.hear(lambda: orchestrator.heartbeats(beats))
        await private_stack.kafka.kill()
        made = world.beats
        await eventually(lambda: world.beats > made + 100)
        world.gate.set()
        await eventually(lambda: len(world.ended) == EACH)
        await private_stack.kafka.start()
        for command in [*commands, *waiting, beats]:
            assert isinstance(await orchestrator.answer_to(command), ActivityCompleted)
        assert await orchestrator.value_of("greet", "Ann") == "hello Ann"
        await orchestrator.until_committed(EACH + 1, partition=1)
        assert Counter(world.began) == Counter([*map(str, range(EACH)), "beats"])
