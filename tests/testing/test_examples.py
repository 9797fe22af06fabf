"""What the examples do, in an environment: children, callbacks, polling, maps, updates, sagas, versions."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from tests.api.examples import approval, etl, human_task, nightly, polling, subscription, transcode, trip, versioned

from everstep import ChildError, NonRetryable, RunFailed, UpdateRejected, activity, days, hours, minutes, seconds
from everstep.testing import NothingHappens, WorkflowEnvironment


async def test_an_approver_is_reminded_and_the_director_decides() -> None:
    expense = approval.Expense("e1", 300, "ann", "dora")
    async with WorkflowEnvironment(approval.app) as env:
        asked = env.spy(approval.ask)
        run = await env.client.start(approval.approve_expense, expense, id="e1")
        await env.skip(days(3))
        assert [who for who, _ in asked.args] == ["ann", "ann", "dora"]
        await run.signal(approval.decision, approval.Approved(by="dora"))
        assert await run.result() == "approved by dora"


async def test_a_run_that_waits_for_somebody_says_so() -> None:
    expense = approval.Expense("e1", 300, "ann", "dora")
    async with WorkflowEnvironment(approval.app) as env:
        run = await env.client.start(approval.approve_expense, expense, id="e1")
        with pytest.raises(NothingHappens, match=r"result of run 'e1' can never come.*\n.*waits for signal decision$"):
            await run.result()


async def test_children_share_the_work() -> None:
    async with WorkflowEnvironment(etl.app) as env:
        env.replace(etl.tables, returns=[etl.Table(name) for name in "abcde"])
        env.replace(etl.extract, lambda table: f"path/{table.name}")
        loads = env.replace(etl.load, lambda path, table: etl.Loaded(table.name, len(path)))
        loads.fail(ValueError("bad"), times=1)
        run = await env.client.start(etl.load_all, id="all")
        assert await run.result() == 5 * len("path/a")
        assert loads.count == 6


async def test_a_child_that_cannot_start_fails_its_parent() -> None:
    async with WorkflowEnvironment(etl.app) as env:
        env.replace(etl.extract, returns="path")
        env.replace(etl.load, returns=etl.Loaded("a", 1)).delay(hours(1))
        await env.client.start(etl.load_table, etl.Table("a"), id="load-b")
        run = await env.client.start(etl.load_two, etl.Table("a"), etl.Table("b"), id="two")
        with pytest.raises(RunFailed, match="child run 'load-b' could not be started") as failed:
            await run.result()
        assert failed.value.type.endswith("ChildError")
        assert ChildError.__name__ in failed.value.type


async def test_a_person_answers_a_callback_or_does_not() -> None:
    async with WorkflowEnvironment(human_task.app) as env:
        tickets = env.replace(human_task.open_ticket, returns="t1")
        closed = env.spy(human_task.close_ticket)
        first = await env.client.start(human_task.moderate, human_task.Post("1", "hi"), id="p1")
        second = await env.client.start(human_task.moderate, human_task.Post("2", "ho"), id="p2")
        await env.settle()
        token = tickets.args[0][1].rpartition("/")[2]
        await env.client.callback(token).complete("keep")
        assert await first.result() == "keep"
        assert closed.count == 1
        started = env.now()
        assert await second.result() == "remove"
        assert env.now() - started == hours(12)


async def test_a_callbacks_heartbeats_keep_it_open() -> None:
    async with WorkflowEnvironment(human_task.app) as env:
        tickets = env.replace(human_task.open_ticket, returns="t1")
        run = await env.client.start(human_task.moderate, human_task.Post("1", "hi"), id="p1")
        await env.settle()
        callback = env.client.callback(tickets.args[0][1].rpartition("/")[2])
        for _ in range(5):
            await env.skip(hours(10))
            await callback.heartbeat()
        await callback.complete("keep")
        assert await run.result() == "keep"


async def test_files_are_imported_side_by_side_and_a_few_may_fail() -> None:
    async with WorkflowEnvironment(nightly.app) as env:
        env.replace(nightly.list_files, returns=[f"f{i}" for i in range(300)])
        broken = {"f7", "f100"}

        def import_file(path: str) -> nightly.Imported:
            if path in broken:
                raise ValueError(path)
            return nightly.Imported(path, 10)

        imports = env.replace(nightly.import_file, import_file)
        reports = env.spy(nightly.report)
        run = await env.client.start(nightly.nightly_import, "2026-01-01", id="n")
        assert await run.result() == 2980
        assert imports.count == 298 + 2 * 5
        [(rows, failed)] = reports.args
        assert (rows, len(failed)) == (2980, 2)


async def test_progress_can_be_asked_on_the_way() -> None:
    async with WorkflowEnvironment(nightly.app) as env:
        env.replace(nightly.list_files, returns=[f"f{i}" for i in range(10)])
        env.replace(nightly.import_file, returns=nightly.Imported("f", 1)).delay(minutes(1))
        run = await env.client.start(nightly.nightly_with_progress, "2026-01-01", id="n")
        await env.settle()
        assert await run.query("progress") == "0/10"
        await run.result()
        assert await run.query("progress", returns=str) == "10/10"


async def test_a_transfer_is_looked_up_until_it_is_settled() -> None:
    async with WorkflowEnvironment(polling.app) as env:
        env.replace(polling.submit_transfer, returns=polling.Transfer("t", "pending"))
        settled_at = env.now() + hours(20)

        async def look_up(transfer_id: str) -> polling.Transfer:
            return polling.Transfer(transfer_id, "settled" if env.now() >= settled_at else "pending")

        env.replace(polling.look_up, look_up)
        run = await env.client.start(polling.pay, 10, "DE1", id="p")
        assert await run.result() == "settled"
        assert timedelta() <= env.now() - settled_at < minutes(12)


async def test_a_transfer_that_is_never_settled_is_unknown() -> None:
    async with WorkflowEnvironment(polling.app) as env:
        env.replace(polling.submit_transfer, returns=polling.Transfer("t", "pending"))
        env.replace(polling.look_up, returns=polling.Transfer("t", "pending"))
        started = env.now()
        run = await env.client.start(polling.pay, 10, "DE1", id="p")
        assert await run.result() == "unknown"
        assert env.now() - started == hours(48)


async def test_a_subscription_goes_on_as_new_each_month_and_answers() -> None:
    basic, pro = subscription.Plan("basic", 500), subscription.Plan("pro", 900)
    async with WorkflowEnvironment(subscription.app) as env:
        env.replace(
            subscription.prorate, lambda old, new: subscription.Proration(new.monthly_cents - old.monthly_cents)
        )
        charges = env.spy(subscription.charge)
        run = await env.client.start(subscription.subscription, subscription.Account("ann", basic), id="ann")
        await env.skip(days(70))
        assert (await run.query(subscription.current)).periods == 2
        credit = await run.update(subscription.change_plan, pro)
        assert credit.credit_cents == 400
        with pytest.raises(UpdateRejected, match="a plan cannot cost less than nothing"):
            await run.update(subscription.change_plan, subscription.Plan("bad", -1))
        await env.skip(days(30))
        await run.signal(subscription.unsubscribe, "moved away")
        account = await run.result()
        assert (account.periods, account.paid_cents) == (3, 1900)
        assert charges.args == [("ann", 500), ("ann", 500), ("ann", 900)]
        assert (await run.describe()).run == 4


async def test_an_attempt_goes_on_where_the_one_before_it_was() -> None:
    video = transcode.Video("v", 10)
    started_from: list[int] = []

    async def encode(video: transcode.Video, profile: str) -> str:
        resumed = activity.last_heartbeat(transcode.Progress)
        started_from.append(resumed.frame if resumed else 0)
        for frame in range(started_from[-1], video.frames):
            activity.heartbeat(transcode.Progress(frame))
            if frame == 6 and len(started_from) == 1:
                raise OSError("disk full")
        return profile

    async with WorkflowEnvironment(transcode.app) as env:
        env.replace(transcode.transcode, encode)
        run = await env.client.start(transcode.publish_unless_stopped, video, id="v")
        assert await run.result() == "1080p"
        assert started_from == [0, 6]


async def test_a_signal_stops_the_work() -> None:
    video = transcode.Video("v", 10)
    async with WorkflowEnvironment(transcode.app) as env:
        env.replace(transcode.transcode, returns="x").delay(seconds(20))
        run = await env.client.start(transcode.publish_unless_stopped, video, id="v")
        await env.skip(seconds(10))
        await run.signal(transcode.stop, "enough")
        assert await run.result() == "stopped: enough"


async def test_the_real_code_runs_in_tasks_threads_and_instead_of_processes() -> None:
    async with WorkflowEnvironment(transcode.app) as env:
        run = await env.client.start(transcode.publish, transcode.Video("v", 5), id="v")
        assert await run.result() == ["v.1080p", "v.720p", "v.jpg"]


async def test_a_trip_that_fails_is_undone() -> None:
    async with WorkflowEnvironment(trip.app) as env:
        env.replace(trip.book_flight, returns=trip.Booking("f"))
        env.replace(trip.book_hotel, returns=trip.Booking("h")).fail(NonRetryable("full"))
        undone = env.spy(trip.cancel_flight)
        released = env.spy(trip.release_hold)
        run = await env.client.start(trip.book_trip, trip.Trip("ann", "Rome"), id="t")
        assert await run.result() == "not booked: everstep.errors.NonRetryable: full"
        assert undone.args == [(trip.Booking("f"),)]
        assert (released.args, released.kwargs) == ([("ann",)], [{"why": "trip failed"}])


async def test_a_new_run_takes_the_newest_version() -> None:
    async with WorkflowEnvironment(versioned.app) as env:
        checked = env.spy(versioned.check_fraud)
        shipped = env.spy(versioned.ship)
        await (await env.client.start(versioned.dispatch, "o1", id="1")).result()
        await (await env.client.start("dispatch", "o2", id="2", version=1)).result()
        assert (checked.args, shipped.args) == ([("o1",)], [("o1",), ("o2",)])


async def test_many_runs_at_once() -> None:
    async with WorkflowEnvironment(versioned.app) as env:
        runs = [await env.client.start(versioned.dispatch, f"o{i}", id=f"{i}") for i in range(50)]
        await asyncio.gather(*(run.result() for run in runs))
        assert [run.workflow_id async for run in env.client.list(status="completed", limit=3)] == ["49", "48", "47"]
