"""Histories beside the tests: written once, compared ever after, and replayed with today's code."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from everstep import App, Context, Retry, Signal, activity, hours, seconds
from everstep.testing import (
    NoHistory,
    ReplayDiffers,
    WorkflowEnvironment,
    assert_history,
    replay_file,
)

go = Signal[str]("go")


def shop(price: int = 1, *, notifies: bool = False) -> tuple[App, Any]:
    """The same workflow as it was, and as it becomes."""
    app = App("shop", retry=Retry(2))

    @app.activity
    async def pay(order: str, price: int) -> str:
        if activity.info().attempt == 1:
            raise ConnectionError("the bank does not answer")
        return f"paid {order}"

    @app.activity
    async def notify(order: str) -> None: ...

    @app.workflow
    async def sell(ctx: Context, order: str) -> str:
        paid = await pay(order, price)
        shipped = await ctx.wait_for_signal(go, timeout=hours(1))
        if notifies:
            await notify(order)
        return f"{paid}, {shipped}"

    return app, sell


async def sold(path: Path, *, price: int = 1, notifies: bool = False, start: datetime | None = None) -> None:
    app, sell = shop(price, notifies=notifies)
    options = {} if start is None else {"start": start}
    async with WorkflowEnvironment(app, **options) as env:  # type: ignore[arg-type]  # a start or nothing
        run = await env.client.start(sell, "mug", id="order-17")
        await env.skip(seconds(10))
        await run.signal(go, "by post")
        await run.result()
        assert_history(run, path)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "histories" / "sold.jsonl"


def kept(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True)


def keep(path: Path, lines: Iterable[bytes]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"".join(lines))


async def test_a_history_is_written_and_then_compared(path: Path) -> None:
    await sold(path)
    written = kept(path)
    lines = [msgspec.json.decode(line) for line in written]
    assert lines[0] == {"history": "everstep", "workflow_id": "order-17", "run": 1}
    assert [line["event"]["kind"] for line in lines[1:]] == [
        "started",
        "activity_scheduled",
        "activity_failed",
        "activity_retried",
        "activity_completed",
        "signal_awaited",
        "signal_received",
        "completed",
    ]
    await sold(path)
    assert kept(path) == written


async def test_nothing_of_the_machine_or_of_chance_is_kept(path: Path) -> None:
    await sold(path)
    lines = [line.decode() for line in kept(path)]
    started, failed, received = lines[1], lines[3], lines[7]
    assert '"source":"id-1"' in started
    assert '"python":"any"' in started
    assert '"signal_id":"id-2"' in received
    assert '"message":"the bank does not answer"' in failed
    assert "traceback" not in failed
    assert str(Path(__file__).parent) not in "".join(lines)


async def test_the_first_difference_is_told_in_words(path: Path) -> None:
    await sold(path)
    with pytest.raises(AssertionError) as raised:
        await sold(path, notifies=True)
    assert str(raised.value) == (
        f"run 1 of 'order-17' has another history than {path}. The first difference is event 8:\n"
        '  the file: completed with "paid mug, by post"\n'
        '  this run: notify called with "mug"\n'
        "If that is meant, write it anew: pytest --everstep-update-histories, or EVERSTEP_UPDATE_HISTORIES=1"
    )


async def test_a_difference_that_words_do_not_tell_is_shown_as_it_is(path: Path) -> None:
    await sold(path)
    with pytest.raises(AssertionError, match="The first difference is event 1:") as raised:
        await sold(path, start=datetime(2030, 1, 1, tzinfo=UTC))
    told = str(raised.value).splitlines()
    assert told[1].removeprefix("  the file: ") == told[3].removeprefix("  this run: ")
    assert '"at":"2026-01-01T00:00:00Z"' in told[2]
    assert '"at":"2030-01-01T00:00:00Z"' in told[4]


async def test_missing_and_additional_events_are_differences(path: Path) -> None:
    await sold(path)
    whole = kept(path)
    keep(path, whole[:-1])
    with pytest.raises(AssertionError, match=r"event 8:\n  the file: nothing more\n  this run: completed with"):
        await sold(path)
    keep(path, [*whole, whole[-1]])
    with pytest.raises(AssertionError, match=r"event 9:\n  the file: completed with .*\n  this run: nothing more"):
        await sold(path)


async def test_a_history_is_written_anew_when_that_is_wanted(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    await sold(path)
    monkeypatch.setenv("EVERSTEP_UPDATE_HISTORIES", "0")
    with pytest.raises(AssertionError):
        await sold(path, notifies=True)
    monkeypatch.setenv("EVERSTEP_UPDATE_HISTORIES", "1")
    await sold(path, notifies=True)
    monkeypatch.delenv("EVERSTEP_UPDATE_HISTORIES")
    await sold(path, notifies=True)


async def test_only_runs_of_an_environment_have_a_history_here(path: Path) -> None:
    class Elsewhere:
        _transport = None

    with pytest.raises(TypeError, match="takes a run of a WorkflowEnvironment"):
        assert_history(Elsewhere(), path)  # type: ignore[arg-type]  # wrong on purpose


# ---- replaying a file


async def test_a_file_is_replayed_with_todays_code(path: Path) -> None:
    await sold(path)
    assert replay_file(shop()[0], path) == ("order-17", 1, 8, 0)
    assert replay_file(shop(price=2)[0], path).argument_differences == 1
    with pytest.raises(
        ReplayDiffers, match=r"replayed from .*sold.jsonl. At event 8 history holds the run's completion"
    ):
        replay_file(shop(notifies=True)[0], path)
    with pytest.raises(ReplayDiffers, match="no code for workflow 'sell' version 1: this app does not have it"):
        replay_file(App("empty"), path)


def test_a_file_is_replayed_outside_of_any_loop(tmp_path: Path) -> None:
    path = tmp_path / "sold.jsonl"
    asyncio.run(sold(path))
    assert replay_file(shop()[0], path).events == 8


async def test_what_the_command_line_prints_is_replayed(path: Path) -> None:
    """`everstep history ID --json` prints an event on each line, and not whose they are."""
    app = App("parents")

    @app.workflow
    async def child(ctx: Context) -> int:
        return 1

    @app.workflow
    async def parent(ctx: Context) -> int:
        return await child()

    async with WorkflowEnvironment(app) as env:
        run = await env.client.start(parent, id="order-17")
        await run.result()
        keep(path, (msgspec.json.encode(one) + b"\n" for one in env.history(run)))
    assert replay_file(app, path, id="order-17", run=1).events == 4
    with pytest.raises(ReplayDiffers, match="a child run 'order-17/1/2'"):
        replay_file(app, path, id="order-18")


def test_a_file_without_a_history_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    for content, why in (
        ("", "is empty"),
        ("\n", "is empty"),
        ("nonsense", "line 1 is no event"),
        ('{"history":"everstep","workflow_id":"x","run":1}', "begins with the event `started`"),
        ('{"history":"everstep","workflow_id":"x","run":1}\n\n{"seq":1}', "line 3 is no event"),
    ):
        path.write_text(content)
        with pytest.raises(NoHistory, match=why):
            replay_file(App("x"), path)
