"""A watch misses nothing that happens after it was opened, whatever else is watched or not."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator

import pytest
from aiokafka.errors import KafkaError

from everstep import lifecycle
from everstep.lifecycle import Fact, LifecycleTail, Watch
from everstep.settings import Settings
from everstep_schemas.names import shard_of
from everstep_schemas.wire import LifecycleType

from .conftest import SHARDS, Script

pytestmark = pytest.mark.integration

STARTED, STATUS = LifecycleType.STARTED, LifecycleType.STATUS_CHANGED
# One id in each shard.
IDS = [next(f"id-{n}" for n in range(1000) if shard_of(f"id-{n}", SHARDS) == shard) for shard in range(SHARDS)]


def anything(fact: Fact) -> bool:
    return True


@pytest.fixture
async def tail(settings: Settings) -> AsyncIterator[LifecycleTail]:
    tail = LifecycleTail(settings, SHARDS)
    yield tail
    await tail.close()


async def statuses(watch: Watch, count: int) -> list[str | None]:
    return [(await watch.next(anything, 30)).body.status for _ in range(count)]


async def test_a_watch_sees_its_own_id_from_its_opening_on(script: Script, tail: LifecycleTail) -> None:
    await script.say(STARTED, IDS[0])
    async with tail.watch(IDS[0]) as watch:
        await script.say(STATUS, IDS[1], status="another shard")
        await script.say(STATUS, IDS[0], status="one")
        await script.say(STATUS, IDS[0], status="two")
        assert await statuses(watch, 2) == ["one", "two"]


async def test_beginning_to_read_a_shard_loses_and_repeats_nothing_of_the_others(
    script: Script, tail: LifecycleTail
) -> None:
    """Each new partition changes what the one consumer reads, while records of the others are on their way."""
    async with tail.watch(IDS[0]) as first:
        said = asyncio.create_task(_say_many(script, IDS[0], 300))
        assert await statuses(first, 50) == [str(n) for n in range(50)]
        async with tail.watch(IDS[1]) as second:
            await script.say(STATUS, IDS[1], status="mine")
            assert await statuses(second, 1) == ["mine"]
        assert await statuses(first, 50) == [str(n) for n in range(50, 100)]
        async with tail.watch(IDS[2]):
            assert await statuses(first, 200) == [str(n) for n in range(100, 300)]
        await said


async def _say_many(script: Script, workflow_id: str, count: int) -> None:
    for n in range(count):
        await script.say(STATUS, workflow_id, status=str(n))


async def test_a_shard_that_nobody_watches_is_not_read_and_starts_again_at_its_end(
    script: Script, tail: LifecycleTail, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifecycle, "_LINGER_SECONDS", 0.0)
    monkeypatch.setattr(lifecycle, "_TICK_MS", 10)
    async with tail.watch(IDS[0]):
        pass
    while tail._reading:  # noqa: ASYNC110  # the tail tells nobody that it pauses
        await asyncio.sleep(0.01)
    await script.say(STATUS, IDS[0], status="unseen")
    async with tail.watch(IDS[0]) as watch:
        await script.say(STATUS, IDS[0], status="seen")
        assert await statuses(watch, 1) == ["seen"]


async def test_many_watches_of_one_id(script: Script, tail: LifecycleTail) -> None:
    async with tail.watch(IDS[0]) as one, tail.watch(IDS[0]) as two:
        await script.say(STATUS, IDS[0], status="x")
        assert await statuses(one, 1) == await statuses(two, 1) == ["x"]
    assert not tail._listeners


async def test_waiting_ends_in_time(tail: LifecycleTail) -> None:
    async with tail.watch(IDS[0]) as watch:
        with pytest.raises(TimeoutError):
            await watch.next(anything, 0.01)


async def test_what_cannot_be_read_is_passed_over(script: Script, tail: LifecycleTail) -> None:
    async with tail.watch(IDS[0]) as watch:
        await script.write(IDS[0], b"not JSON", [("ce_type", b"everstep.run.started")])
        await script.write(IDS[0], b"{}", [])
        await script.say(STATUS, IDS[0], status="readable")
        assert await statuses(watch, 1) == ["readable"]


async def test_a_kept_watch_holds_only_what_somebody_may_ask_for() -> None:
    watch = Watch(keep=lambda fact: fact.type == STARTED)
    for type in (STATUS, STATUS, STARTED):
        watch.heard(Fact(type, body=None))  # type: ignore[arg-type]  # nobody looks at it
    assert len(watch._facts) == 1


async def test_who_waits_learns_that_the_topic_cannot_be_read(tail: LifecycleTail) -> None:
    async with tail.watch(IDS[0]) as watch:
        tail._lose(KafkaError("not authorised"))
        with pytest.raises(KafkaError, match="not authorised"):
            await watch.next(anything, 30)


async def test_a_tail_that_was_never_used_closes(settings: Settings) -> None:
    await LifecycleTail(settings, SHARDS).close()
    gc.collect()
