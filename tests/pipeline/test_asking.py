"""Runs are asked without being touched: replayed apart, a few at a time, in slices, and closed again."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.engine.kit import Case

from everstep import App, Context, Query
from everstep._core.engine import CannotRun, HistoryRow, LiveRun, QueryFailed
from everstep_orchestrator.pipeline import replaying
from everstep_orchestrator.pipeline.asking import Asker
from everstep_orchestrator.pipeline.outside import outside_task

app = App("asked")
total = Query[int]("total")
closed: list[str] = []


@app.activity
async def add(n: int) -> int:
    return n


@app.workflow
async def counter(ctx: Context, steps: int) -> int:
    count = 0
    ctx.on_query(total, lambda: count)
    ctx.on_query("leave", leave)
    ctx.on_query("does", lambda: ctx.set_status("done"))
    ctx.on_query("looks", looks)
    ctx.on_query("unwritable", lambda: object())
    try:
        for _ in range(steps):
            count += await add(1)
        return count
    finally:
        closed.append("counter")


def looks() -> str:
    with contextlib.suppress(Exception):
        return Path("/dev/null").read_text()
    return "nothing to see"


def leave() -> None:
    raise SystemExit(3)


async def recorded(steps: int, done: int) -> Case:
    def record() -> Case:
        case = Case(app, counter, steps, check=False)
        for _ in range(done):
            case.complete(case.pending()[0], 1)
        case.run.evict()
        return case

    return await outside_task(record)


async def pages(rows: Sequence[HistoryRow]) -> AsyncIterator[Sequence[HistoryRow]]:
    for row in rows:
        yield [row]


def asks(name: str) -> Any:
    def question(run: LiveRun) -> Any:
        return msgspec.json.decode(run.query(name, []))

    return question


@pytest.mark.parametrize(("done", "answer"), [(0, 0), (2, 2), (3, 3)])
async def test_an_open_and_a_closed_run_answer(done: int, answer: int) -> None:
    case = await recorded(3, done)
    closed.clear()
    assert await Asker(case.engine).ask(case.identity, pages(case.rows), asks("total")) == answer
    assert closed == ["counter"], "its code is closed, also if the run had ended"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing", "those it answers: 'does', 'leave', 'looks', 'total', 'unwritable'"),
        ("leave", "SystemExit: 3"),
        ("does", "it leaves no event, so it may only look"),
        ("looks", "is not possible within a workflow"),
        ("unwritable", "the answer to query 'unwritable' cannot be written"),
    ],
)
async def test_a_query_that_fails_is_told_and_leaves_nothing(name: str, message: str) -> None:
    case = await recorded(3, 1)
    closed.clear()
    with pytest.raises(QueryFailed, match=message):
        await Asker(case.engine).ask(case.identity, pages(case.rows), asks(name))
    await asyncio.sleep(0)
    assert closed == ["counter"]


async def test_a_history_that_the_code_does_not_repeat() -> None:
    case, other = await recorded(3, 3), await recorded(1, 1)
    with pytest.raises(CannotRun, match="history holds the run's completion"):
        await Asker(case.engine).ask(case.identity, pages([case.rows[0], *other.rows[1:]]), asks("total"))


async def test_few_run_at_a_time_and_nobody_waits_for_ever() -> None:
    case = await recorded(3, 1)
    gate, reading = asyncio.Event(), 0

    async def held() -> AsyncIterator[Sequence[HistoryRow]]:
        nonlocal reading
        reading += 1
        await gate.wait()
        yield case.rows

    asker = Asker(case.engine, at_once=2, turn_seconds=0.05)
    first = [asyncio.create_task(asker.ask(case.identity, held(), asks("total"))) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(TimeoutError, match="others are being answered"):
        await asker.ask(case.identity, pages(case.rows), asks("total"))
    assert reading == 2
    gate.set()
    assert await asyncio.gather(*first) == [1, 1]
    assert await asker.ask(case.identity, pages(case.rows), asks("total")) == 1


async def test_a_replay_that_takes_too_long_is_given_up_and_closed() -> None:
    case = await recorded(3, 1)

    async def never_ends() -> AsyncIterator[Sequence[HistoryRow]]:
        yield case.rows
        await asyncio.Event().wait()

    asker = Asker(case.engine, at_once=1, replay_seconds=0.05)
    closed.clear()
    with pytest.raises(TimeoutError, match=r"within 0\.05 s"):
        await asker.ask(case.identity, never_ends(), asks("total"))
    await asyncio.sleep(0)
    assert closed == ["counter"]
    assert await asker.ask(case.identity, pages(case.rows), asks("total")) == 1, "its turn is over"


async def test_the_loop_has_its_turns_during_a_long_replay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replaying, "SLICE_SECONDS", 0.0)
    case = await recorded(30, 20)
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def one_page() -> AsyncIterator[Sequence[HistoryRow]]:
        yield case.rows

    counting = asyncio.create_task(count())
    assert await Asker(case.engine).ask(case.identity, one_page(), asks("total")) == 20
    counting.cancel()
    assert turns >= len(case.rows)
