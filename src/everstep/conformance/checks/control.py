"""What nobody waits for any more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

from everstep.conformance._case import Case, expect
from everstep.conformance._registry import check
from everstep.conformance.checks.limits import expect_timeout

SLOTS = 2


@check(15)
async def cancelled_while_it_runs(case: Case) -> None:
    """A running attempt that is cancelled is not answered, and its offset passes."""
    sent = await case.send("until_cancelled")
    await case.value_of(await case.send("echo", "begun"))
    await case.cancel(sent)
    await case.until_passed(sent, "it is cancelled")
    await case.value_of(await case.send("echo", "later"))
    await case.expect_unanswered(sent, "it is cancelled")


@asynccontextmanager
async def all_slots_taken(case: Case) -> AsyncIterator[None]:
    """Inside, what is sent to the same partition waits, since commands begin in order; the end cancels what runs."""
    running = [await case.send("until_cancelled") for _ in range(SLOTS)]
    yield
    for sent in running:
        await case.cancel(sent)


@check(15, "narrow")
async def ended_when_cancelled(case: Case) -> None:
    """The code of an attempt that is cancelled is ended, and its slot is free; until then others wait."""
    async with all_slots_taken(case):
        waiting = await case.send("echo", 1)
        await asyncio.sleep(1)
        await case.expect_unanswered(waiting, f"{SLOTS} others run")
    await case.value_of(waiting)


@check(10, "narrow")
async def ended_at_its_timeout(case: Case) -> None:
    """The code of an attempt that has timed out is ended, and its slot is free."""
    for sent in [await case.send("until_cancelled", timeout_seconds=0.5) for _ in range(SLOTS)]:
        await case.error_of(sent)
    await case.value_of(await case.send("echo", 1))


@check(5, "narrow")
async def cancelled_while_it_waits(case: Case) -> None:
    """A command that is cancelled or dropped before it begins is skipped, and its offset passes."""
    async with all_slots_taken(case):
        cancelled, dropped = await case.send("echo", 1), await case.send("echo", 2)
        await case.cancel(cancelled)
        await case.drop(dropped)
        await asyncio.sleep(1)
    for sent in (cancelled, dropped):
        await case.until_passed(sent, "nobody waits for it")
        await case.expect_unanswered(sent, "nobody waits for it")


@check(6, "narrow")
async def late_in_the_queue(case: Case) -> None:
    """A command whose time to start passes while it waits for a slot is not started."""
    async with all_slots_taken(case):
        sent = await case.send("echo", 1, start_by=datetime.now(UTC) + timedelta(seconds=1))
        await asyncio.sleep(1.5)
    expect_timeout(await case.error_of(sent), "queue", retryable=False)


@check(10, "narrow")
async def waiting_does_not_count(case: Case) -> None:
    """Waiting for a slot does not count as execution."""
    async with all_slots_taken(case):
        sent = await case.send("echo", 1, timeout_seconds=1.0, heartbeat_timeout_seconds=1.0)
        await asyncio.sleep(1.5)
    expect(await case.value_of(sent) == 1, "the value 1", case.seen(sent))
