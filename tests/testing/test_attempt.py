"""An activity alone, as one attempt."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass

import pytest
from tests.api.examples.transcode import Progress, Video, transcode

from everstep import App, PayloadError, activity
from everstep.testing import attempt

app = App("attempts")


@dataclass
class Page:
    number: int


@app.activity
async def reads(pages: int) -> int:
    last = activity.last_heartbeat(Page)
    for number in range(last.number if last else 0, pages):
        activity.heartbeat(Page(number + 1))
        await asyncio.sleep(0)
    return pages


begun = threading.Event()


@app.activity
def polls() -> str:
    begun.set()
    while not activity.is_cancelled():
        pass
    return "stopped"


@app.activity
async def says() -> tuple[int, str, str | None]:
    return activity.info().attempt, activity.info().idempotency_key, activity.last_heartbeat(str)


async def test_an_activity_knows_its_attempt() -> None:
    with attempt(number=3, idempotency_key="k", last_heartbeat="half"):
        assert await says() == (3, "k", "half")
    with attempt():
        assert await says() == (1, "test", None)
    with pytest.raises(RuntimeError, match=r"outside of an activity"):
        await says()


async def test_heartbeats_are_kept_and_the_last_one_is_where_the_next_attempt_begins() -> None:
    with attempt() as first:
        await reads(3)
    assert first.heartbeats == [Page(1), Page(2), Page(3)]
    with attempt(number=2, last_heartbeat=first.heartbeats[1]) as second:
        await reads(4)
    assert second.heartbeats == [Page(3), Page(4)]
    with attempt(last_heartbeat="no page"), pytest.raises(PayloadError):
        await reads(1)


async def test_details_that_cannot_be_sent_are_refused() -> None:
    @app.activity(name="beats")
    async def beats() -> None:
        activity.heartbeat(object())

    with attempt(), pytest.raises(PayloadError):
        await beats()


async def test_async_code_is_cancelled_at_its_next_await() -> None:
    with attempt() as running:
        asyncio.get_running_loop().call_soon(running.cancel)
        with pytest.raises(asyncio.CancelledError):
            await transcode(Video("v", 1000), "1080p")
    assert 0 < len(running.heartbeats) < 10
    assert running.heartbeats[0] == Progress(1)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_code_in_a_task_of_its_own_is_cancelled_too() -> None:
    with attempt() as running:
        task = asyncio.create_task(transcode(Video("v", 1000), "1080p"))
        await asyncio.sleep(0)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_plain_code_sees_that_it_is_cancelled() -> None:
    with attempt() as running:
        working = asyncio.create_task(polls())
        await asyncio.to_thread(begun.wait)
        running.cancel()
        assert await working == "stopped"
