"""What an activity can ask about the attempt that runs it."""

from __future__ import annotations

import asyncio

import pytest

from everstep import ActivityInfo, App, activity

INFO = ActivityInfo(workflow_id="order-17", run=1, seq=3, attempt=2, idempotency_key="order-17/1/3")

app = App("info")


@app.activity
async def asks() -> str:
    await asyncio.sleep(0)
    return activity.info().idempotency_key


@app.activity
def asks_in_a_thread() -> tuple[int, bool]:
    return activity.info().attempt, activity.is_cancelled()


async def test_an_activity_knows_its_attempt_on_the_loop_and_in_a_thread() -> None:
    cancelled = False
    with activity.running(INFO, lambda: cancelled):
        assert await asks() == "order-17/1/3"
        assert await asks_in_a_thread() == (2, False)
        cancelled = True
        assert await asks_in_a_thread() == (2, True)


async def test_outside_of_an_activity_there_is_no_attempt() -> None:
    with pytest.raises(
        RuntimeError, match=r"activity\.info\(\) was asked outside of an activity: only code that a worker"
    ):
        await asks()
    with pytest.raises(RuntimeError, match=r"activity\.is_cancelled\(\) was asked outside of an activity"):
        activity.is_cancelled()


async def test_attempts_that_run_side_by_side_do_not_see_each_other() -> None:
    async def attempt(key: str) -> str:
        info = ActivityInfo(workflow_id="w", run=1, seq=1, attempt=1, idempotency_key=key)
        with activity.running(info):
            return await asks()

    assert await asyncio.gather(*(attempt(key) for key in "abc")) == ["a", "b", "c"]
