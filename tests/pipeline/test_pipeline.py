"""The pipeline where things happen at the same time: each test is an interleaving that once lost or broke something."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from tests.pipeline.kit import TOPICS, Gate, Installation

from everstep import App, Context, Signal, seconds

go = Signal[int]("go")
closed: list[str] = []


def shop(*, with_waiting: bool = True) -> App:
    """Workflows, with or without the one whose runs stall when its code is missing."""
    app = App("shop")

    @app.activity
    async def charge(amount: int) -> int:
        return amount

    @app.workflow
    async def buy(ctx: Context, amount: int) -> int:
        return await charge(amount)

    @app.workflow
    async def note(ctx: Context, text: str) -> str:
        ctx.set_status(text)
        return text

    @app.workflow
    async def nap(ctx: Context) -> str:
        await ctx.sleep(seconds(5))
        return "awake"

    if with_waiting:

        @app.workflow
        async def wait(ctx: Context) -> list[int]:
            id = ctx.info.workflow_id
            try:
                return [await ctx.wait_for_signal(go) for _ in range(2)]
            finally:
                closed.append(id)

    return app


def start(installation: Installation, workflow_id: str, workflow: str, *args: object, **more: object) -> None:
    installation.submit("start", workflow_id, workflow=workflow, args=list(args), **more)


async def stalled(installation: Installation, *ids: str) -> None:
    """Runs that have begun and whose code is then missing, with one signal parked each."""
    async with installation.running(shop()):
        for id in ids:
            start(installation, id, "wait")
        await installation.settled()
    async with installation.running(shop(with_waiting=False)):
        for id in ids:
            installation.submit("signal", id, name="go", value=1)
        await installation.settled()
    assert all(run.condition == "stalled" for id in ids for run in installation.runs(id))


async def test_a_late_answer_to_an_old_run_does_not_hide_the_newest_one() -> None:
    installation = Installation()
    async with installation.running(shop()):
        start(installation, "a", "buy", 1)
        await installation.settled()
        command = installation.commands()[0]
        installation.answer(command, 1)
        await installation.settled()
        start(installation, "a", "wait", on_duplicate="allow_closed")
        await installation.settled()
    async with installation.running(shop()):
        installation.answer(command, 1)
        await installation.settled()
        installation.submit("signal", "a", name="go", value=1)
        await installation.settled()
        assert installation.facts("submission.rejected") == []
        assert "SignalReceived" in installation.kinds(installation.runs("a")[1].run_key)


async def test_a_waiting_run_is_replaced_with_what_it_was_owed() -> None:
    installation = Installation()
    await stalled(installation, "a")
    async with installation.running(shop(with_waiting=False)):
        start(installation, "a", "buy", 1, on_duplicate="terminate_existing")
        await installation.settled()
    old, new = installation.runs("a")
    assert (old.status, new.status, new.workflow) == ("terminated", "running", "buy")
    assert installation.tables.parked == {}


async def test_a_run_whose_code_changed_is_terminated_by_the_first_request() -> None:
    installation = Installation()
    async with installation.running(shop()):
        start(installation, "a", "wait")
        await installation.settled()
    async with installation.running(shop(with_waiting=False)):
        installation.submit("terminate", "a")
        await installation.settled()
    assert installation.runs("a")[0].status == "terminated"


async def test_an_input_that_is_parked_while_its_run_waits_to_be_resumed_is_not_forgotten() -> None:
    """More runs are stalled than one turn resumes; the next turn must not read what they are owed too early."""
    installation = Installation()
    ids = [f"run-{n}" for n in range(200)]
    await stalled(installation, *ids)
    for id in ids:
        installation.submit("signal", id, name="go", value=2)
    installation.tables.committing.shut()
    async with installation.running(shop()):
        await installation.tables.committing.waiting.wait()
        for _ in range(20_000):
            await asyncio.sleep(0)
        installation.tables.committing.open.set()
        await installation.until(lambda: all(installation.runs(id)[0].status == "completed" for id in ids))
        await installation.settled()
    assert installation.tables.parked == {}


async def test_a_submission_that_comes_twice_at_once_with_another_between_creates_one_run() -> None:
    installation = Installation()
    start(installation, "a", "note", "first", submission_id="s1")
    start(installation, "a", "note", "second", submission_id="s2", on_duplicate="allow_closed")
    start(installation, "a", "note", "first", submission_id="s1", on_duplicate="allow_closed")
    async with installation.running(shop()):
        await installation.settled()
    assert [run.source for run in installation.runs("a")] == ["s1", "s2"]


async def test_a_command_that_is_refused_while_its_shard_is_drained_fails_its_activity() -> None:
    installation = Installation()
    async with installation.running(shop()):
        await installation.until(lambda: installation.pipeline._shards)
        installation.publisher.refuse = lambda message: message.topic == TOPICS.activities("default")
        installation.tables.committing.shut()
        start(installation, "a", "buy", 1)
        await installation.tables.committing.waiting.wait()
        installation.pipeline.hand_over(0)
        installation.tables.committing.open.set()
        await installation.until(lambda: installation.members.released == [0])
    assert installation.runs("a")[0].status == "failed"
    assert installation.tables.outboxes == {}


async def test_a_command_that_is_refused_while_its_shard_is_opened_fails_its_activity() -> None:
    installation = Installation()
    async with installation.running(shop()):
        await installation.until(lambda: installation.pipeline._shards)
        installation.publisher.refuse = lambda message: True
        installation.publisher.refused = lambda ticket, message, why: None  # the process ends before it looks at it
        start(installation, "a", "buy", 1)
        await installation.until(lambda: installation.latest("a"))
    installation.tables.opening.shut()
    async with installation.running(shop()):
        installation.publisher.refuse = lambda message: message.topic == TOPICS.activities("default")
        await installation.tables.opening.waiting.wait()
        await asyncio.sleep(0.01)
        installation.tables.opening.open.set()
        await installation.until(lambda: installation.runs("a")[0].status == "failed")


async def test_a_shard_that_is_claimed_again_while_it_is_read_again_has_one_owner() -> None:
    installation = Installation()
    installation.tables.refuse = lambda commit: any(row.workflow_id == "a" for row in commit.new_runs)
    async with installation.running(shop()):
        await installation.until(lambda: installation.pipeline._shards)
        installation.tables.opening.shut()
        start(installation, "a", "note", "x")
        start(installation, "b", "note", "x")
        await installation.tables.opening.waiting.wait()
        installation.tables.refuse = lambda commit: False
        first, installation.tables.opening = installation.tables.opening, Gate()
        installation.pipeline.lost([0])
        installation.claim(0)
        await installation.until(lambda: installation.pipeline._shards)
        owned = installation.pipeline._shards[0]
        first.open.set()
        await installation.settled()
        assert installation.pipeline._shards[0] is owned
        assert owned.epoch == installation.tables.shards[0].epoch == 2


async def test_a_shard_that_is_lost_while_it_is_read_again_is_not_owned() -> None:
    installation = Installation()
    installation.tables.refuse = lambda commit: bool(commit.new_runs)
    async with installation.running(shop()):
        await installation.until(lambda: installation.pipeline._shards)
        installation.tables.opening.shut()
        start(installation, "a", "note", "x")
        await installation.tables.opening.waiting.wait()
        installation.pipeline.lease_expired()
        installation.tables.opening.open.set()
        for _ in range(50):
            await asyncio.sleep(0)
        assert installation.pipeline._shards == {}


async def test_a_shard_that_comes_back_is_still_handed_over() -> None:
    installation = Installation()
    async with installation.running(shop()):
        await installation.until(lambda: installation.pipeline._shards)
        installation.tables.committing.shut()
        start(installation, "a", "note", "x")
        await installation.tables.committing.waiting.wait()
        installation.pipeline.hand_over(0)
        installation.tables.shards[0] = installation.tables.shards[0].__class__(0, 9, 0, None, None, 0, 0, 0, None)
        installation.tables.committing.open.set()
        await installation.until(lambda: installation.members.released == [0])


async def test_a_run_that_breaks_its_owner_when_it_is_resumed_is_noted_and_set_aside() -> None:
    installation = Installation()
    await stalled(installation, "a", "b")
    bad, good = installation.runs("a")[0].run_key, installation.runs("b")[0].run_key
    installation.tables.shards[0] = installation.tables.shards[0].__class__(0, 5, *_positions(installation), 1, bad)
    async with installation.running(shop(), crashed=True):
        await installation.until(lambda: installation.runs("b")[0].condition is None)
        await installation.settled()
    assert installation.runs("a")[0].condition == "stalled"
    assert b"orchestrator died" in (installation.runs("a")[0].reason or b"")
    assert installation.tables.marked == [bad, good]


def _positions(installation: Installation) -> tuple[int, int | None, int | None, int, int]:
    shard = installation.tables.shards[0]
    return (
        shard.commit_no,
        shard.submissions_position,
        shard.inbox_position,
        shard.last_number,
        shard.published,
    )


async def test_the_note_names_the_run_that_a_start_is_about_to_create() -> None:
    installation = Installation()
    async with installation.running(shop()):
        start(installation, "a", "note", "x")
        await installation.settled()
    installation.tables.shards[0] = installation.tables.shards[0].__class__(0, 5, *_positions(installation), 2, None)
    async with installation.running(shop(), crashed=True):
        start(installation, "a", "note", "y", on_duplicate="allow_closed")
        await installation.settled()
    assert installation.tables.marked == [installation.runs("a")[1].run_key]


async def test_resumed_runs_whose_data_is_refused_are_told_apart() -> None:
    installation = Installation()
    async with installation.running(App("empty")):
        for id, text in (("a", "fine"), ("b", "forbidden"), ("c", "fine")):
            start(installation, id, "note", text)
        await installation.settled()
    assert all(installation.runs(id)[0].condition == "stalled" for id in "abc")
    installation.tables.refuse = lambda commit: (
        any(update.custom_status == "forbidden" for update in commit.updates)
        or any(row.custom_status == "forbidden" for row in commit.new_runs)
    )
    async with installation.running(shop()):
        await installation.until(lambda: all(installation.runs(id)[0].status == "completed" for id in "ac"))
        await installation.until(lambda: b"data" in (installation.runs("b")[0].reason or b""))
    assert installation.runs("b")[0].condition == "stalled"


async def test_a_new_run_without_code_stays_in_memory_until_it_is_durable() -> None:
    installation = Installation()
    async with installation.running(shop(with_waiting=False), cache_runs=0):
        await installation.until(lambda: installation.pipeline._shards)
        shard = installation.pipeline._shards[0]
        installation.tables.committing.shut()
        start(installation, "a", "wait")
        await installation.tables.committing.waiting.wait()
        start(installation, "a", "wait")
        start(installation, "b", "wait")
        await installation.until(lambda: shard.submissions_position == 3)
        installation.tables.committing.open.set()
        await installation.settled()
        assert len(installation.facts("submission.rejected")) == 1
        assert not shard.lost, "a run was created again, and Postgres refused that"


async def test_nothing_spins_while_a_timer_is_due_and_nothing_may_be_taken() -> None:
    installation = Installation()
    async with installation.running(shop()):
        start(installation, "a", "nap")
        await installation.settled()
    installation.now += 10_000_000
    async with installation.running(shop()):
        installation.publisher.unacknowledged += 1_000_000
        await installation.until(lambda: installation.pipeline._shards)
        before = installation.turns
        for _ in range(1000):
            await asyncio.sleep(0)
        assert installation.turns - before < 100
        installation.publisher.unacknowledged -= 1_000_000
        await installation.until(lambda: installation.runs("a")[0].status == "completed")


async def test_a_timer_set_while_timers_are_read_is_known() -> None:
    installation = Installation()
    async with installation.running(shop()):
        await installation.until(lambda: installation.pipeline._shards)
        shard = installation.pipeline._shards[0]
        installation.tables.timers.shut()
        installation.tables.committing.shut()
        shard.wakeups_known_until = 0
        start(installation, "a", "nap")
        await installation.tables.timers.waiting.wait()
        await installation.tables.committing.waiting.wait()
        installation.tables.timers.open.set()
        await installation.until(lambda: shard.wakeups.next())
        installation.tables.committing.open.set()


async def test_a_reader_that_fails_ends_the_process() -> None:
    installation = Installation()
    async with installation.running(shop()):
        installation.logs.fail(RuntimeError("a defect"))
        with pytest.raises(RuntimeError, match="a defect"):
            await asyncio.wait_for(asyncio.shield(installation.running_task), 5)


async def test_postgres_that_does_not_answer_does_not_make_the_loop_look_stuck() -> None:
    installation = Installation()
    async with installation.running(shop()):
        await installation.until(lambda: installation.pipeline._shards)
        installation.tables.timers.shut()
        installation.now += int(timedelta(minutes=1) / timedelta(microseconds=1))
        await installation.tables.timers.waiting.wait()
        before = installation.members.alive
        await installation.until(lambda: installation.members.alive > before + 1)
        installation.tables.timers.open.set()


async def test_no_run_is_left_to_the_garbage_collector_when_the_loop_ends() -> None:
    closed.clear()
    installation = Installation()
    async with installation.running(shop()):
        start(installation, "a", "wait")
        await installation.settled()
        shards = list(installation.pipeline._shards.values())  # so that nothing is collected
    assert [shard.entries for shard in shards] == [{}]
    assert closed == ["a"]
