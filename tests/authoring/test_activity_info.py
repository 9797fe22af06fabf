"""What an activity can ask about the attempt that runs it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest

from everstep import ActivityInfo, App, PayloadError, activity

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
        RuntimeError, match=r"activity\.info\(\) was called outside of an activity: only code that a worker"
    ):
        await asks()
    with pytest.raises(RuntimeError, match=r"activity\.is_cancelled\(\) was called outside of an activity"):
        activity.is_cancelled()


async def test_attempts_that_run_side_by_side_do_not_see_each_other() -> None:
    async def attempt(key: str) -> str:
        info = ActivityInfo(workflow_id="w", run=1, seq=1, attempt=1, idempotency_key=key)
        with activity.running(info):
            return await asks()

    assert await asyncio.gather(*(attempt(key) for key in "abc")) == ["a", "b", "c"]


# ---- heartbeats


@dataclass
class Progress:
    done: int
    of: int


class Heard:
    """What an attempt has said, as it said it and as JSON."""

    def __init__(self) -> None:
        self.details: list[Any] = []
        self.encoded: list[bytes | None] = []

    def __call__(self, details: Any, encoded: bytes | None) -> None:
        self.details.append(details)
        self.encoded.append(encoded)


async def test_heartbeats_are_heard_from_the_loop_and_from_threads() -> None:
    heard = Heard()
    with activity.running(INFO, heartbeat=heard):
        activity.heartbeat(Progress(1, 3))
        activity.heartbeat()
        await asyncio.to_thread(activity.heartbeat, "two")
    assert heard.details == [Progress(1, 3), None, "two"]
    assert heard.encoded == [b'{"done":1,"of":3}', None, b'"two"']


def test_nobody_needs_to_listen_to_heartbeats() -> None:
    with activity.running(INFO):
        activity.heartbeat({"done": 1})


def test_what_an_attempt_before_has_said_comes_back_as_its_type() -> None:
    with activity.running(INFO, last_heartbeat=b'{"done":1,"of":3}'):
        assert activity.last_heartbeat(Progress) == Progress(1, 3)
        assert activity.last_heartbeat(dict[str, int]) == {"done": 1, "of": 3}


@pytest.mark.parametrize("nothing", [None, b"null"])
def test_there_may_be_nothing_that_was_said(nothing: bytes | None) -> None:
    with activity.running(INFO, last_heartbeat=nothing):
        assert activity.last_heartbeat(Progress) is None


def test_what_was_said_by_other_code_may_not_fit() -> None:
    with (
        activity.running(INFO, last_heartbeat=b'{"done":"one","of":3}'),
        pytest.raises(PayloadError, match=r"details of the last heartbeat do not fit: .*`int`.* at `\$\.done`"),
    ):
        activity.last_heartbeat(Progress)


def test_details_that_cannot_be_sent_are_refused_where_they_are_given() -> None:
    heard = Heard()
    with activity.running(INFO, heartbeat=heard, most_bytes=100):
        activity.heartbeat("x" * 98)
        with pytest.raises(
            PayloadError, match=r"would take 101 bytes, and 100 are allowed \(EVERSTEP_MAX_PAYLOAD_BYTES\)"
        ):
            activity.heartbeat("x" * 99)
        with pytest.raises(PayloadError, match=r"the details of a heartbeat: a `object` cannot .* at `\$\.a`"):
            activity.heartbeat({"a": object()})
    assert len(heard.details) == 1


def test_outside_of_an_activity_nothing_can_be_said() -> None:
    with pytest.raises(RuntimeError, match=r"activity\.heartbeat\(\) was called outside of an activity"):
        activity.heartbeat()
    with pytest.raises(RuntimeError, match=r"activity\.last_heartbeat\(\) was called outside of an activity"):
        activity.last_heartbeat(int)
