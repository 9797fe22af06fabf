"""Workers that come and go."""

from __future__ import annotations

import asyncio
import itertools

from everstep.conformance._case import Case, expect
from everstep.conformance._commands import Sent
from everstep.conformance._hearing import Answer
from everstep.conformance._registry import check

PARTITIONS = 4
JOIN_SECONDS = 20.0
FEW_SLOTS = 12  # too few for what comes, so that some of it waits when partitions move


@check(18, "own")
async def another_worker_joins(case: Case) -> None:
    """When a second worker joins, what the first one runs goes on and is run by nobody else."""
    first = await case.start_worker(EVERSTEP_CONCURRENCY=FEW_SLOTS)
    ended = asyncio.Event()
    sending = asyncio.create_task(_keep_sending(case, ended))
    try:
        await case.installation.start_worker(EVERSTEP_CONCURRENCY=FEW_SLOTS)
        await _until_both_work(case)
    finally:
        ended.set()
        sent = await sending
    for one in sent:
        await case.value_of(one)
        await case.until_passed(one, "it is answered")
    await case.hearing.caught_up(10)
    twice = [one for one in sent if len(case.hearing.answers(one.token)) != 1]
    expect(not twice, "one answer to each command", "\n".join(case.seen(one) for one in twice))
    expect(not first.has_ended, "the first worker to go on", "it has ended")


async def _keep_sending(case: Case, ended: asyncio.Event) -> list[Sent]:
    """Attempts that are too short to be checked out unless their partitions move, on all partitions all the time."""
    sent: list[Sent] = []
    for partition in itertools.cycle(range(PARTITIONS)):
        if ended.is_set():
            return sent
        sent.append(await case.send("sleep", 2, partition=partition))
        await asyncio.sleep(0.1)
    return sent


async def _until_both_work(case: Case) -> None:
    """Until answers name two workers; those that name none are given time."""

    def names() -> set[str | None]:
        return {heard.message.worker for heard in case.hearing.records if isinstance(heard.message, Answer)}

    await case.hearing.until(lambda: len(names()) > 1, JOIN_SECONDS)
    expect(len(names()) > 1 or names() == {None}, "answers of both workers", names())


@check(19, "own")
async def asked_to_stop(case: Case) -> None:
    """At SIGTERM a worker lets what runs end, answers, commits and exits with 0; the next one does the rest."""
    worker = await case.start_worker()
    running = await case.send("sleep", 3)
    await case.value_of(await case.send("echo", "begun"))
    worker.ask_to_stop()
    code = await worker.exit_code()
    expect(code == 0, "exit code 0", f"{code}; it wrote:\n{worker.tail()}")
    committed = (await case.installation.committed())[case.partition]
    await case.hearing.caught_up(10)
    expect(case.hearing.answers(running.token), "what ran to be answered before the worker ends", case.seen(running))
    expect(committed > running.offset, "the offset to be committed before the worker ends", committed)
    await case.installation.start_worker()
    await case.value_of(await case.send("echo", "for the next one"))


@check(19, "own")
async def gives_back(case: Case) -> None:
    """What does not end within EVERSTEP_GRACE_SECONDS is given back: `released`, not answered."""
    worker = await case.start_worker(EVERSTEP_GRACE_SECONDS=1)
    running = await case.send("beat", 1_000, 0.1, "return")
    await case.check_out_of(running, "`activity_started` of an attempt that makes a heartbeat")
    worker.ask_to_stop()
    code = await worker.exit_code()
    expect(code == 0, "exit code 0", f"{code}; it wrote:\n{worker.tail()}")
    await case.hearing.caught_up(10)
    expect(case.hearing.released(running.token), "its token under `released`", case.seen(running))
    expect(not case.hearing.answers(running.token), "no answer", case.seen(running))
