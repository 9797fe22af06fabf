"""Whether an attempt that has its turn may begin."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import cast

import pytest
from tests.worker.attempts import attempt_of
from tests.worker.kit import eventually

from everstep_worker.admission import admitted
from everstep_worker.attempts import Attempt
from everstep_worker.deliveries import Delivery, Partition
from everstep_worker.leases import Leases


class Asked:
    """What was checked out; the test says when that is known."""

    def __init__(self) -> None:
        self.attempts: list[Attempt] = []

    def check_out(self, attempt: Attempt) -> asyncio.Future[None]:
        if attempt.lease is None:
            attempt.lease = asyncio.get_running_loop().create_future()
            self.attempts.append(attempt)
        return attempt.lease


@pytest.fixture
def asked() -> Asked:
    return Asked()


def ask(attempt: Attempt, asked: Asked) -> asyncio.Task[bool]:
    return asyncio.create_task(admitted(attempt, cast(Leases, asked)))


@pytest.fixture
async def held() -> AsyncIterator[Attempt]:
    """One whose queue is being assigned anew."""
    attempt = attempt_of()
    attempt.line.hold()
    yield attempt
    attempt.line.resume()


def suspect() -> Attempt:
    return attempt_of(partition=Partition(0, suspects=1, foreign_below=float("inf")))


def test_most_need_not_ask() -> None:
    assert attempt_of().is_certain
    assert not suspect().is_certain


def test_the_first_ones_of_what_lay_there_when_the_partition_came_are_suspect() -> None:
    partition = Partition(5, suspects=3, foreign_below=7)
    assert [partition.is_suspect(offset) for offset in (5, 6, 7, 8)] == [True, True, False, False]
    partition = Partition(5, suspects=2, foreign_below=100)
    assert [partition.is_suspect(offset) for offset in (5, 8, 9)] == [True, True, False]


async def test_while_it_is_unknown_whose_it_is_it_waits(held: Attempt, asked: Asked) -> None:
    assert not held.is_certain
    asking = ask(held, asked)
    done, _ = await asyncio.wait([asking], timeout=0.01)
    assert not done
    held.line.resume()
    assert await asking
    assert not asked.attempts


async def test_one_that_went_elsewhere_does_not_begin(held: Attempt, asked: Asked) -> None:
    asking = ask(held, asked)
    held.deliveries[0].partition.assigned = False
    held.line.resume()
    assert not held.is_certain
    assert not await asking


async def test_one_that_came_again_is_here(held: Attempt, asked: Asked) -> None:
    held.deliveries[0].partition.assigned = False
    held.deliveries.append(Delivery(held.record, Partition(0)))
    held.line.resume()
    assert await ask(held, asked)


async def test_a_suspect_begins_when_it_is_checked_out(asked: Asked) -> None:
    attempt = suspect()
    asking = ask(attempt, asked)
    await eventually(lambda: asked.attempts == [attempt])
    assert not asking.done()
    asked.check_out(attempt).set_result(None)
    assert await asking


async def test_one_that_is_checked_out_begins_whoever_has_the_partition(held: Attempt, asked: Asked) -> None:
    """A thread had begun it, and saw that it had to ask, just when the partition was taken away."""
    asked.check_out(held).set_result(None)
    held.deliveries[0].partition.assigned = False
    assert await ask(held, asked)


async def test_one_that_is_stopped_does_not_begin(held: Attempt, asked: Asked) -> None:
    asking = ask(held, asked)
    await asyncio.sleep(0)
    held.stop("cancelled")
    assert not await asking
    waiting = suspect()
    asking = ask(waiting, asked)
    await eventually(lambda: asked.attempts == [waiting])
    waiting.stop("shut_down")
    assert not await asking
    assert not asked.check_out(waiting).cancelled()
    assert not await ask(waiting, asked)
