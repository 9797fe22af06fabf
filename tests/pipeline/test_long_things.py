"""What lives on being renewed: attempts that are checked out, and callbacks; also over evictions and owners."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from msgspec import Raw
from tests.pipeline.kit import Installation

from everstep import App, Context, Retry, Signal, hours, minutes, seconds
from everstep_schemas import wire
from everstep_schemas.errors import ErrorInfo

SECOND = 1_000_000
go = Signal[int]("go")
app = App("long")


@app.activity(timeout=hours(2), heartbeat_timeout=seconds(30), retry=Retry(max_attempts=2))
async def transcode(n: int) -> str:
    return str(n)


@app.activity(queue_timeout=seconds(5), total_timeout=minutes(1))
async def hurried(n: int) -> str:
    return str(n)


@app.workflow
async def publish(ctx: Context) -> str:
    return await transcode(1)


@app.workflow
async def hurry(ctx: Context) -> str:
    return await hurried(1)


@app.workflow
async def moderate(ctx: Context) -> str:
    verdict = ctx.callback(str, timeout=hours(1), heartbeat_timeout=minutes(5))
    ctx.set_status(verdict.token)
    return await verdict


@app.workflow
async def waits(ctx: Context) -> int:
    return await ctx.wait_for_signal(go)


def started(command: wire.ActivityCommand, worker: str = "w1", lease_seconds: float = 15.0) -> wire.ActivityStarted:
    return wire.ActivityStarted(
        workflow_id=command.workflow_id,
        run=command.run,
        seq=command.seq,
        attempt=command.attempt,
        token=command.token,
        lease_seconds=lease_seconds,
        worker=worker,
    )


def renewed(command: wire.ActivityCommand, details: Any = None) -> wire.ActivitiesRenewed:
    heartbeats = (
        () if details is None else (wire.Heartbeat(token=command.token, details=Raw(msgspec.json.encode(details))),)
    )
    return wire.ActivitiesRenewed(tokens=(command.token,), heartbeats=heartbeats, worker="w1")


async def begun(installation: Installation, workflow: str = "publish", id: str = "r") -> wire.ActivityCommand:
    installation.submit("start", id, workflow=workflow, args=[])
    await installation.until(lambda: installation.commands())
    return installation.commands()[-1]


async def pass_time(installation: Installation, microseconds: int) -> None:
    """Lets time pass and everything that is due happen."""
    turns = installation.turns
    installation.pass_time(microseconds)
    await installation.until(lambda: installation.turns > turns + 3)
    await installation.settled()


def key(installation: Installation, id: str = "r") -> int:
    row = installation.latest(id)
    assert row is not None
    return row.run_key


async def test_a_lease_that_runs_out_gives_the_same_attempt_to_workers_again() -> None:
    installation = Installation()
    async with installation.running(app):
        command = await begun(installation)
        installation.say(command, started(command))
        installation.say(command, renewed(command, {"frame": 7}))
        await installation.settled()
        await pass_time(installation, 14 * SECOND)
        assert len(installation.commands()) == 1
        installation.pass_time(2 * SECOND)
        await installation.until(lambda: len(installation.commands()) == 2)
        again = installation.commands()[-1]
        assert (again.token, again.attempt, bytes(again.heartbeat)) == (command.token, 1, b'{"frame":7}')  # type: ignore[arg-type]
    assert installation.kinds(key(installation)) == [
        "Started",
        "ActivityScheduled",
        "ActivityStarted",
        "ActivityReleased",
    ]


async def test_renewals_keep_the_attempt_and_leave_no_event() -> None:
    installation = Installation()
    async with installation.running(app):
        command = await begun(installation)
        installation.say(command, started(command))
        await installation.settled()
        for _ in range(10):
            installation.say(command, renewed(command, {"frame": 1}))
            await installation.settled()
            await pass_time(installation, 5 * SECOND)
        assert len(installation.commands()) == 1
        installation.answer(command, "done")
        await installation.until(lambda: installation.facts("run.completed"))
        await installation.settled()
    assert installation.kinds(key(installation))[2:] == ["ActivityStarted", "ActivityCompleted", "Completed"]
    assert installation.tables.beats == {}


async def test_a_run_that_leaves_memory_keeps_its_leases() -> None:
    installation = Installation()
    async with installation.running(app, cache_runs=1):
        command = await begun(installation)
        installation.say(command, started(command))
        await installation.settled()
        for n in range(3):
            await pass_time(installation, 10 * SECOND)
            installation.submit("start", f"other-{n}", workflow="waits", args=[])
            await installation.settled()
            installation.say(command, renewed(command, {"frame": n}))
            await installation.settled()
        assert len(installation.commands()) == 1
        installation.pass_time(16 * SECOND)
        await installation.until(lambda: len(installation.commands()) == 2)


async def test_a_new_owner_takes_every_lease_as_renewed_and_knows_what_was_said() -> None:
    installation = Installation()
    async with installation.running(app):
        command = await begun(installation)
        installation.say(command, started(command))
        installation.say(command, renewed(command, {"frame": 7}))
        await installation.settled()
    installation.now += 60 * SECOND
    async with installation.running(app):
        await installation.until(lambda: installation.pipeline.positions())
        await pass_time(installation, 10 * SECOND)
        assert installation.commands() == []
        installation.pass_time(10 * SECOND)
        await installation.until(lambda: installation.commands())
        [again] = installation.commands()
        assert bytes(again.heartbeat) == b'{"frame":7}'  # type: ignore[arg-type]


async def test_silence_fails_an_attempt_and_the_next_one_gets_what_was_said() -> None:
    installation = Installation()
    async with installation.running(app):
        command = await begun(installation)
        installation.say(command, started(command, lease_seconds=3600))
        installation.say(command, renewed(command, {"frame": 7}))
        await installation.settled()
        installation.pass_time(33 * SECOND)
        await installation.until(lambda: installation.facts("activity.failed"))
        [failed] = installation.facts("activity.failed")
        assert failed["error"]["fields"] == {"which": "heartbeat"}
        assert any(m.topic.endswith(".control") for m in installation.publisher.sent)
        installation.pass_time(2 * SECOND)
        await installation.until(lambda: len(installation.commands()) == 2)
        again = installation.commands()[-1]
    assert (again.attempt, bytes(again.heartbeat)) == (2, b'{"frame":7}')  # type: ignore[arg-type]


async def test_what_a_failing_attempt_says_goes_to_the_next() -> None:
    installation = Installation()
    async with installation.running(app):
        command = await begun(installation)
        failed = wire.ActivityFailed(
            workflow_id="r",
            run=1,
            seq=command.seq,
            attempt=1,
            token=command.token,
            error=ErrorInfo(type="X"),
            details=Raw(b"[1]"),
        )
        installation.say(command, failed)
        await installation.settled()
        installation.pass_time(2 * SECOND)
        await installation.until(lambda: len(installation.commands()) == 2)
        assert bytes(installation.commands()[-1].heartbeat) == b"[1]"  # type: ignore[arg-type]


async def test_the_third_check_out_of_one_attempt_fails_it() -> None:
    installation = Installation()
    async with installation.running(app):
        command = await begun(installation)
        for worker in ("w1", "w2", "w3"):
            installation.say(command, started(command, worker))
        await installation.settled()
    assert installation.facts("activity.failed")[0]["error"]["type"] == "WorkerLost"


async def test_nobody_begins_an_activity_within_its_queue_timeout() -> None:
    installation = Installation()
    async with installation.running(app):
        command = await begun(installation, "hurry")
        assert command.start_by is not None
        assert command.deadline is not None
        installation.pass_time(6 * SECOND)
        await installation.until(lambda: installation.facts("run.failed"))
        [failed] = installation.facts("run.failed")
    assert failed["error"]["type"] == "everstep.errors.ActivityTimeout"


async def test_a_worker_that_begins_in_time_meets_the_queue_timeout() -> None:
    installation = Installation()
    async with installation.running(app):
        command = await begun(installation, "hurry")
        installation.say(command, started(command))
        await installation.settled()
        await pass_time(installation, 6 * SECOND)
        assert installation.facts("run.failed") == []


# ---- callbacks


async def open_callback(installation: Installation) -> str:
    installation.submit("start", "r", workflow="moderate", args=[])
    await installation.until(lambda: installation.facts("run.status_changed"))
    return str(installation.facts("run.status_changed")[0]["status"])


def complete(
    installation: Installation, token: str, value: Any = "keep", id: str | None = "c1", partition: int = 0
) -> None:
    body = {"kind": "complete_callback", "token": token, "value": value, "submission_id": id}
    installation.write(body, partition)


def rejections(installation: Installation) -> list[tuple[str, str]]:
    return [(fact["submission_id"], fact["reason"]) for fact in installation.facts("submission.rejected")]


async def test_a_callback_is_completed_once() -> None:
    installation = Installation()
    async with installation.running(app):
        token = await open_callback(installation)
        complete(installation, token, ["not", "text"], id="c0")
        complete(installation, token)
        complete(installation, token)
        complete(installation, token, "remove", id="c2")
        await installation.settled()
        await installation.until(lambda: installation.facts("run.completed"))
    assert installation.facts("run.completed")[0]["result"] == "keep"
    assert [fact["submission_id"] for fact in installation.facts("callback.completed")] == ["c1"]
    refused = dict(rejections(installation))
    assert refused["c0"].startswith("the value does not fit: Expected `str`, got `array`")
    assert refused["c2"] == "run 1 of 'r' has ended (completed)"


async def test_a_callback_may_be_completed_from_any_partition() -> None:
    installation = Installation(4)
    async with installation.running(app):
        token = await open_callback(installation)
        complete(installation, token, partition=(int(token.partition(".")[0], 16) + 1) % 4)
        await installation.until(lambda: installation.facts("run.completed"))


@pytest.mark.parametrize("change", [lambda t: t[:-1] + ("0" if t[-1] != "0" else "1"), lambda t: "0.9.2.0.x"])
async def test_a_forged_token_has_no_effect(change: Any) -> None:
    installation = Installation()
    async with installation.running(app):
        token = await open_callback(installation)
        complete(installation, change(token))
        complete(installation, "no token at all", id="c9")
        await installation.settled()
        assert installation.facts("run.completed") == []
        complete(installation, token, id="c3")
        await installation.until(lambda: installation.facts("run.completed"))
    said = rejections(installation) + [
        ("", dict(m.headers)["everstep_detail"].decode())
        for m in installation.publisher.sent
        if m.topic.endswith(".dlq")
    ]
    assert len(said) == 2


async def test_heartbeats_of_a_callback_outlive_evictions_and_owners() -> None:
    installation = Installation()
    async with installation.running(app):
        token = await open_callback(installation)
        await pass_time(installation, 200 * SECOND)
        installation.write({"kind": "heartbeat_callback", "token": token, "details": "reading"})
        await installation.settled()
    async with installation.running(app):
        await pass_time(installation, 200 * SECOND)
        assert installation.facts("run.failed") == []
        installation.pass_time(101 * SECOND)
        await installation.until(lambda: installation.facts("run.failed"))
        [failed] = installation.facts("run.failed")
    assert failed["error"]["message"].endswith("no heartbeat came in time")


async def test_a_callback_of_a_stalled_run_is_kept_until_it_goes_on() -> None:
    installation = Installation()
    async with installation.running(app):
        token = await open_callback(installation)
        await installation.settled()
    async with installation.running(App("without the code")):
        complete(installation, token)
        await installation.settled()
    async with installation.running(app):
        await installation.until(lambda: installation.facts("run.completed"))
