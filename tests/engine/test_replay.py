"""Replay is exact: what differs is found and shown from both sides; what only looks different does no harm."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from typing import Any

import pytest
from msgspec import Raw
from tests.engine.kit import Case, begin, replay, state

from everstep import App, Context, days, seconds
from everstep._core import rows
from everstep._core.engine import CannotRun, Engine, HistoryRow, StallReason
from everstep._core.messages import references
from everstep_schemas import events, wire
from everstep_schemas.events import decode_events
from everstep_schemas.names import Topics

calm, changed = App("calm"), App("changed")


@calm.activity
async def charge(n: int) -> int:
    raise AssertionError("workers run activities")


@changed.activity(name="charge")
async def charge_as_gift(n: int, gift: bool = False) -> int:
    raise AssertionError("workers run activities")


@changed.activity
async def pack(n: int) -> int:
    raise AssertionError("workers run activities")


def engine_with(workflow: Any) -> Engine:
    """An engine whose code for `order` is this."""
    app = App("next")
    app.workflow(name="order")(workflow)
    return Engine(app, Topics(), max_payload_bytes=1 << 20)


def stalled(case: Case, workflow: Any) -> StallReason:
    """Why that code cannot go on with what `case` has recorded."""
    with pytest.raises(CannotRun) as caught:
        replay(engine_with(workflow), case.identity, case.rows)
    return caught.value.reason


@calm.workflow
async def order(ctx: Context) -> int:
    paid = await charge(1)
    await asyncio.sleep(5)
    await ctx.wait_for_signal("packed", type=int, timeout=days(1), default=None)
    return int(paid)


def recorded() -> Case:
    case = Case(calm, order)
    case.complete(2, 7)
    case.wake()
    return case


def test_another_activity_is_shown_with_the_line_it_comes_from() -> None:
    async def order(ctx: Context) -> int:
        return await pack(1)

    reason = stalled(recorded(), order)
    assert (reason.kind, reason.seq) == ("nondeterminism", 2)
    assert reason.expected == "activity 'charge' on queue 'default'"
    assert reason.got is not None
    assert reason.got.startswith("activity 'pack' on queue 'default'")
    assert "test_replay.py:" in reason.got
    assert reason.expected in reason.message
    assert reason.got in reason.message


def test_another_queue_another_kind_and_another_signal_are_differences() -> None:
    async def elsewhere(ctx: Context) -> int:
        return await charge_as_gift.options(queue="vip")(1)

    async def sleeps(ctx: Context) -> int:
        await asyncio.sleep(1)
        return 0

    async def waits(ctx: Context) -> int:
        paid = await charge_as_gift(1)
        await asyncio.sleep(5)
        await ctx.wait_for_signal("sent")
        return int(paid)

    assert "queue 'vip'" in str(stalled(recorded(), elsewhere).got)
    assert str(stalled(recorded(), sleeps).got).startswith("a timer")
    reason = stalled(recorded(), waits)
    assert (reason.expected, reason.seq) == ("a wait for signal 'packed'", 6)


def test_a_missing_command_and_one_too_many_are_differences() -> None:
    async def ends_early(ctx: Context) -> int:
        return await charge_as_gift(1)

    async def does_nothing(ctx: Context) -> int:
        paid = await charge_as_gift(1)
        await asyncio.get_running_loop().create_future()
        return int(paid)

    async def does_more(ctx: Context) -> int:
        first = charge_as_gift(1)
        pack(2)
        return await first

    assert str(stalled(recorded(), ends_early).got).startswith("the run's completion")
    reason = stalled(recorded(), does_nothing)
    assert (reason.expected, reason.got, reason.seq) == ("a timer", "nothing more", 4)
    reason = stalled(recorded(), does_more)
    assert (reason.expected, reason.seq) == ("nothing more", 3)
    assert str(reason.got).startswith("activity 'pack'")


def test_a_difference_in_the_last_activation_is_found_too() -> None:
    async def fails(ctx: Context) -> int:
        paid = await charge_as_gift(1)
        await asyncio.sleep(5)
        raise ValueError(paid)

    assert "ValueError: 7" in str(stalled(recorded(), fails).got)


def test_code_that_swallows_everything_cannot_hide_a_difference() -> None:
    async def swallows(ctx: Context) -> int:
        handle = pack(1)
        with contextlib.suppress(BaseException):
            await handle
        return await charge_as_gift(1)

    assert stalled(recorded(), swallows).seq == 2


def test_arguments_may_differ_and_are_counted() -> None:
    async def as_gift(ctx: Context) -> int:
        paid = await charge_as_gift(1, True)
        await asyncio.sleep(50)
        await ctx.wait_for_signal("packed")
        return int(paid)

    case = recorded()
    again = replay(engine_with(as_gift), case.identity, case.rows)
    assert again.argument_differences == 1
    assert state(again)["activities"] == state(case.run)["activities"]
    assert state(again)["wakeups"] == state(case.run)["wakeups"], "instants are those that were recorded"


def test_what_is_pending_after_a_replay_is_what_was_recorded() -> None:
    async def patient(ctx: Context) -> int:
        return await charge_as_gift.options(timeout=seconds(99))(1, True)

    case = Case(calm, order)
    again = replay(engine_with(patient), case.identity, case.rows)
    pending = again.pending_activity(2)
    assert pending is not None
    assert bytes(pending.args) == b"[1]"
    assert pending.timeout_seconds == 10.0


def test_unknown_workflows_and_versions_say_what_is_here() -> None:
    other = App("other")

    @other.workflow(name="order", version=3)
    async def newer(ctx: Context) -> int:
        return 1

    case = recorded()
    engine = Engine(other, Topics(), max_payload_bytes=1)
    with pytest.raises(CannotRun, match=r"version 1: this app has versions 3") as caught:
        engine.replay(case.identity)
    assert caught.value.reason.kind == "unknown_workflow"
    assert engine.knows("order", 3)
    assert not engine.knows("order", 1)
    assert engine.newest("order") == 3
    assert engine.newest("nobody") is None


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        (HistoryRow(1, 0, b"{"), "not a list of events"),
        (HistoryRow(1, 0, b'[{"kind":"someday"}]'), "not a list of events"),
        (HistoryRow(1, 0, b"[]"), "should come next"),
        (HistoryRow(5, 0, b'[{"kind":"timer_fired","ref":1}]'), "event 1 should come next"),
        (HistoryRow(1, 0, b'[{"kind":"status_set","text":"x"}]'), "nothing caused"),
    ],
)
def test_rows_that_are_no_history(row: HistoryRow, problem: str) -> None:
    feeding = recorded().engine.replay(recorded().identity)
    with pytest.raises(CannotRun, match=problem) as caught:
        feeding.feed(row)
    assert caught.value.reason.kind == "data"


def test_a_run_that_something_outside_of_it_has_woken_is_stalled_and_not_changed() -> None:
    shared: list[asyncio.Event] = []

    async def waits(ctx: Context) -> str:
        event = asyncio.Event()
        shared.append(event)
        charge(1)
        await event.wait()
        return "woken"

    async def wakes(ctx: Context) -> None:
        shared[0].set()

    case = begin(waits, check=False)
    begin(wakes, check=False)
    with pytest.raises(CannotRun, match="code outside of the run has woken it") as caught:
        case.run.apply(events.ActivityCompleted(ref=2, value=Raw(b"1")), case.now)
    assert caught.value.reason.kind == "nondeterminism"
    assert case.replayed().closed is None


def deepest() -> bytes:
    """The most deeply nested value that a signal can bring to whoever reads it from here."""
    depth = sys.getrecursionlimit()
    while True:
        nested = b"[" * depth + b"]" * depth
        try:
            wire.submission_decoder.decode(b'{"kind":"signal","workflow_id":"a","name":"deep","value":' + nested + b"}")
        except RecursionError:
            depth -= 1
        else:
            return nested


def test_a_value_that_was_just_not_too_deep_to_come_in_can_be_read_back() -> None:
    case = recorded()
    case.send(wire.Signal(workflow_id="order-17", name="deep", value=Raw(deepest()), signal_id="s1"))

    def further_down(levels: int) -> None:
        if levels:
            further_down(levels - 1)
        else:
            assert case.replayed().next_seq == case.run.next_seq
            assert references(case.rows) == []

    further_down(100)


def test_an_event_that_cannot_follow_is_the_engines_stall_not_a_crash() -> None:
    case = recorded()
    feeding = case.engine.replay(case.identity)
    feeding.feed(case.rows[0])
    feeding.feed(HistoryRow(3, 0, b'[{"kind":"timer_fired","ref":99}]'))
    with pytest.raises(CannotRun) as caught:
        feeding.finish()
    assert caught.value.reason.kind == "engine"
    feeding.abandon()


def test_a_gap_between_rows_is_found() -> None:
    case = recorded()
    feeding = case.engine.replay(case.identity)
    feeding.feed(case.rows[0])
    with pytest.raises(CannotRun, match="event 3 should come next"):
        feeding.feed(case.rows[2])


@calm.workflow
async def fan_out(ctx: Context, count: int, size: int) -> int:
    text = "x" * size
    return len(await asyncio.gather(*(ctx.activity("store", n, text) for n in range(count))))


@pytest.mark.parametrize(("count", "size", "most"), [(2_500, 0, 3), (8, 200_000, 8), (1, 700_000, 2)])
def test_an_activation_with_very_many_commands_is_split_and_replays(count: int, size: int, most: int) -> None:
    case = Case(calm, fan_out, count, size)
    assert 1 < len(case.rows) <= most
    assert case.rows[0].seq == 1
    for row in case.rows:
        happened = decode_events(row.data)
        assert len(happened) <= rows.MAX_ROW_EVENTS
        assert len(row.data) <= rows.MAX_ROW_BYTES or len(happened) == 1
    assert len(case.history) == count + 1
    case.complete(2, None)
    again = case.replayed()
    assert state(again) == state(case.run)


def test_a_lost_continuation_row_is_a_difference() -> None:
    case = Case(calm, fan_out, 2_500, 0, check=False)
    feeding = case.engine.replay(case.identity)
    feeding.feed(case.rows[0])
    feeding.feed(case.rows[1])
    with pytest.raises(CannotRun) as caught:
        feeding.finish()
    assert caught.value.reason.seq == 2_001
    assert caught.value.reason.expected == "nothing more"


def test_a_closed_run_replays_to_its_end() -> None:
    case = recorded()
    case.wake()
    again = case.replayed()
    assert again.closed == "completed"
    assert again.events == case.run.events
    assert again.size_bytes == case.run.size_bytes


def test_a_history_of_a_newer_engine_waits_for_it() -> None:
    case = recorded()
    newer = case.rows[0].data.replace(b'"python":', b'"flags":[7],"python":')
    with pytest.raises(CannotRun, match=r"flags \[7\]") as caught:
        replay(case.engine, case.identity, [HistoryRow(1, case.rows[0].at, newer)])
    assert caught.value.reason.kind == "engine"


def test_a_replay_that_fails_or_is_abandoned_closes_its_code() -> None:
    closed: list[str] = []

    async def tidy(ctx: Context) -> int:
        try:
            return await charge_as_gift(1)
        finally:
            closed.append("closed")

    async def differs(ctx: Context) -> int:
        try:
            return await pack(1)
        finally:
            closed.append("closed")

    case = recorded()
    stalled(case, differs)
    assert closed == ["closed"]
    feeding = engine_with(tidy).replay(case.identity)
    feeding.feed(case.rows[0])
    feeding.feed(HistoryRow(3, case.now, b'[{"kind":"signal_received","name":"s","value":1,"signal_id":"1"}]'))
    feeding.abandon()
    assert closed == ["closed", "closed"]
