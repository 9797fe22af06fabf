"""The parts that need no Kafka."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import pytest
from tests.worker.kit import eventually

from everstep_worker.deadlines import Deadlines
from everstep_worker.deliveries import Delivery, Partition
from everstep_worker.dispatch import Dispatcher, Line
from everstep_worker.skips import Skips
from everstep_worker.threads import Threads


@dataclass(frozen=True)
class FakeRecord:
    """A command in a queue."""

    offset: int
    topic: str = "t"
    partition: int = 0
    timestamp: int = 0
    key: bytes | None = None
    value: bytes | None = None
    headers: tuple[tuple[str, bytes], ...] = ()


def _deliveries(count: int) -> list[Delivery]:
    partition = Partition(0)
    return [Delivery(FakeRecord(offset), partition) for offset in range(count)]


class _Started:
    """What a dispatcher started, as queue names."""

    def __init__(self) -> None:
        self.queues: list[str] = []

    def __call__(self, delivery: Delivery, line: Line) -> bool:
        self.queues.append(line.queue)
        return True


# ---- dispatch


async def test_no_more_start_than_the_worker_or_the_queue_may_run() -> None:
    started = _Started()
    first, second = Line("a", 2), Line("b", 9)
    dispatcher = Dispatcher(5, [first, second], started)
    for line in (first, second):
        line.extend(_deliveries(20))
    dispatcher.fill()
    assert started.queues == ["a", "b", "a", "b", "b"]
    dispatcher.release(second)
    assert started.queues[5:] == ["b"]  # `a` has all that it may
    dispatcher.release(first)
    assert started.queues[6:] == ["a"]


async def test_a_busy_queue_does_not_starve_another() -> None:
    started = _Started()
    busy, quiet = Line("busy", 4), Line("quiet", 4)
    dispatcher = Dispatcher(4, [busy, quiet], started)
    busy.extend(_deliveries(1000))
    dispatcher.fill()
    quiet.extend(_deliveries(1))
    dispatcher.release(busy)
    dispatcher.release(busy)
    assert "quiet" in started.queues


async def test_a_command_that_takes_no_slot_lets_the_next_one_start() -> None:
    line = Line("a", 1)
    seen: list[int] = []

    def start(delivery: Delivery, line: Line) -> bool:
        seen.append(delivery.record.offset)
        return delivery.record.offset == 2

    dispatcher = Dispatcher(1, [line], start)
    line.extend(_deliveries(5))
    dispatcher.fill()
    assert seen == [0, 1, 2]


async def test_nothing_starts_of_a_queue_that_rebalances_nor_of_a_partition_that_went_elsewhere() -> None:
    started = _Started()
    line = Line("a", 9)
    dispatcher = Dispatcher(9, [line], started)
    mine, lost = _deliveries(1), _deliveries(2)
    line.hold()
    line.extend([*lost, *mine])
    dispatcher.fill()
    assert not started.queues
    line.resume()
    lost[0].partition.assigned = False
    dispatcher.fill()
    assert started.queues == ["a"]


async def test_fetching_waits_while_enough_is_waiting() -> None:
    line = Line("a", 2)
    line.extend(_deliveries(3))
    assert not line.room.is_set()
    line.pop()
    assert not line.room.is_set()
    line.pop()
    assert line.room.is_set()


async def test_a_closed_dispatcher_starts_nothing_and_becomes_idle() -> None:
    started = _Started()
    line = Line("a", 1)
    dispatcher = Dispatcher(1, [line], started)
    line.extend(_deliveries(2))
    dispatcher.fill()
    assert not dispatcher.idle.is_set()
    dispatcher.close()
    dispatcher.release(line)
    assert dispatcher.idle.is_set()
    assert len(started.queues) == 1


# ---- deadlines


@dataclass(eq=False)
class _Timed:
    seconds: float
    started: float | None
    looked_at: int = 0

    def due(self, now: float) -> float:
        return (now if self.started is None else self.started) + self.seconds


async def test_each_is_looked_at_in_its_time_on_one_timer() -> None:
    now = time.monotonic()
    running = [_Timed(seconds, now) for seconds in (0.06, 0.02, 0.04, 60.0)]
    expired: list[float] = []

    def expire(timed: _Timed, now: float) -> None:
        running.remove(timed)
        expired.append(timed.seconds)

    deadlines = Deadlines(running, expire)
    for timed in list(running):
        deadlines.watch(timed)
    await eventually(lambda: len(expired) == 3)
    assert expired == [0.02, 0.04, 0.06]
    deadlines.close()


async def test_one_that_stays_is_looked_at_again_when_it_is_due_again() -> None:
    timed = _Timed(0.01, time.monotonic())

    def look(one: _Timed, now: float) -> None:
        one.started = now
        one.looked_at += 1

    deadlines = Deadlines([timed], look)
    deadlines.watch(timed)
    await eventually(lambda: timed.looked_at == 3)
    deadlines.close()


async def test_waiting_for_a_thread_does_not_count() -> None:
    timed = _Timed(0.01, None)
    running = [timed]
    expired: list[_Timed] = []

    def expire(one: _Timed, now: float) -> None:
        running.remove(one)
        expired.append(one)

    deadlines = Deadlines(running, expire)
    deadlines.watch(timed)
    looked = asyncio.Event()
    asyncio.get_running_loop().call_later(0.05, looked.set)
    await looked.wait()
    assert not expired
    timed.started = time.monotonic()
    await eventually(lambda: bool(expired))
    deadlines.close()


# ---- threads


async def test_as_many_threads_as_needed_and_no_more_than_allowed() -> None:
    threads = Threads(3)
    gate = threading.Event()
    inside: set[int] = set()
    done: list[int] = []

    def work(number: int) -> Callable[[], None]:
        inside.add(threading.get_ident())
        gate.wait()
        return lambda: done.append(number)

    for number in range(10):
        threads.submit(partial(work, number))
    await eventually(lambda: len(inside) == 3)
    gate.set()
    await eventually(lambda: len(done) == 10)
    assert len(inside) == 3
    threads.close()


async def test_an_idle_thread_is_used_again() -> None:
    threads = Threads(10)
    names: list[str] = []

    def work() -> Callable[[], None]:
        names.append(threading.current_thread().name)
        return done.set

    for _ in range(5):
        done = asyncio.Event()
        threads.submit(work)
        await done.wait()
    assert len(set(names)) == 1
    threads.close()


async def test_no_result_is_left_behind_when_many_end_at_once() -> None:
    threads = Threads(16)
    done: list[int] = []
    for number in range(5_000):
        threads.submit(partial(partial, done.append, number))
    await eventually(lambda: len(done) == 5_000)
    assert sorted(done) == list(range(5_000))
    threads.close()


# ---- skips


@pytest.mark.parametrize("limit", [1, 3])
def test_the_newest_tokens_are_remembered(limit: int) -> None:
    skips = Skips(limit)
    tokens = [f"t{number}" for number in range(5)]
    for token in tokens:
        skips.add(token)
    assert [token in skips for token in tokens] == [False] * (5 - limit) + [True] * limit
