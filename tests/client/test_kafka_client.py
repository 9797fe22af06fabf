"""The client over Kafka alone, against a stand-in that answers as orchestrators do."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from msgspec import UNSET, Raw

from everstep import App, Context, Signal, Update
from everstep._client.kafka import KafkaTransport
from everstep.client import Client
from everstep.errors import (
    EverstepError,
    NotReachable,
    PayloadError,
    Rejected,
    RunAlreadyExists,
    RunCancelled,
    RunFailed,
    RunNotFound,
    RunTerminated,
    RunTimedOut,
    UpdateFailed,
    UpdateRejected,
)
from everstep.settings import Settings, SettingsError
from everstep_schemas import wire
from everstep_schemas.errors import ErrorInfo
from everstep_schemas.names import Token, run_key
from everstep_schemas.wire import LifecycleType

from .conftest import Script

pytestmark = pytest.mark.integration

COMPLETED, CONTINUED = LifecycleType.COMPLETED, LifecycleType.CONTINUED
REJECTED = LifecycleType.SUBMISSION_REJECTED


@dataclass
class Order:
    order_id: str
    quantity: int = 1


app = App("shop")
shipped = Signal[Order]("shipped")
change = Update[Order, int]("change")


@app.workflow
async def fulfil(ctx: Context, order: Order, note: str = "") -> Order:
    return order


@pytest.fixture
async def client(settings: Settings) -> AsyncIterator[Client]:
    async with Client(settings=settings) as client:
        yield client


async def test_a_start_and_its_typed_result(client: Client, script: Script) -> None:
    starting = asyncio.create_task(client.start(fulfil, Order("17"), id="order-17"))
    start = await script.start()
    assert (start.workflow, start.workflow_id, start.on_duplicate, start.version) == (
        "fulfil",
        "order-17",
        "reject",
        None,
    )
    assert (bytes(start.args), start.kwargs) == (b'[{"order_id":"17","quantity":1}]', UNSET)
    await script.accept(start)
    run = await starting
    assert run.id == "order-17"
    await script.say(COMPLETED, "order-17", result=Raw(b'{"order_id":"17","quantity":2}'))
    assert await run.result() == Order("17", 2)
    assert await run.result() == Order("17", 2), "a result can be asked for again"


async def test_the_end_is_seen_though_nobody_waited_for_it_yet(client: Client, script: Script) -> None:
    starting = asyncio.create_task(client.start(fulfil, Order("1"), id="a"))
    start = await script.start()
    await script.say(COMPLETED, "a", run=4, result=Raw(b'{"order_id":"of another run"}'))
    await script.accept(start, run=5)
    await script.say(LifecycleType.STATUS_CHANGED, "a", run=5, status="packing")
    await script.say(COMPLETED, "a", run=5, result=Raw(b'{"order_id":"mine"}'))
    run = await starting
    first, second = await asyncio.gather(run.result(), run.result())
    assert first == second == Order("mine")


async def test_a_workflow_by_name(client: Client, script: Script) -> None:
    starting = asyncio.create_task(
        client.start("elsewhere", 1, {"a": [None]}, id="a", returns=list[Order], version=3, submission_id="mine")
    )
    start = await script.start()
    assert (start.workflow, start.version, start.submission_id) == ("elsewhere", 3, "mine")
    assert bytes(start.args) == b'[1,{"a":[null]}]'
    await script.accept(start)
    await script.say(COMPLETED, "a", result=Raw(b'[{"order_id":"x"}]'))
    assert await (await starting).result() == [Order("x")]


async def test_a_start_says_what_it_says_beside_arguments(client: Client, script: Script) -> None:
    at = datetime(2030, 1, 1, tzinfo=UTC)
    starting = asyncio.create_task(
        client.start(
            fulfil,
            Order("1"),
            id="a",
            attributes={"customer": "C-9", "due": at, "tags": ["eu"]},
            memo={"order": Order("1")},
            start_at=at.astimezone(timezone(timedelta(hours=2))),
            timeout=timedelta(minutes=1),
            with_signal=(shipped, Order("2")),
        )
    )
    start = await script.start()
    assert start.attributes == {"customer": "C-9", "due": "2030-01-01T00:00:00Z", "tags": ["eu"]}
    assert bytes(start.memo["order"]) == b'{"order_id":"1","quantity":1}'
    assert (start.start_at, start.timeout_seconds) == (at, 60)
    assert start.with_signal == wire.FirstSignal(name="shipped", value=Raw(b'{"order_id":"2","quantity":1}'))
    await script.accept(start)
    await starting


async def test_the_result_is_that_of_the_run_that_ends_the_chain(client: Client, script: Script) -> None:
    starting = asyncio.create_task(client.start(fulfil, Order("1"), id="a"))
    start = await script.start()
    await script.accept(start, run=4)
    await script.say(CONTINUED, "a", run=4)
    run = await starting
    with pytest.raises(TimeoutError, match="still running"):
        await run.result(timeout=timedelta(milliseconds=1))
    await script.say(LifecycleType.STARTED, "a", run=5, submission_id="the token of the one before")
    await script.say(CONTINUED, "a", run=4)
    await script.say(CONTINUED, "a", run=5, error=ErrorInfo(type="Flaky"))
    await script.say(COMPLETED, "a", run=6, result=Raw(b'{"order_id":"last"}'))
    assert await run.result() == Order("last")


async def test_how_a_run_can_end_otherwise(client: Client, script: Script) -> None:
    async def ended(type: str, **fields: Any) -> BaseException:
        starting = asyncio.create_task(client.start(fulfil, Order("1"), id="a"))
        await script.accept(await script.start())
        await script.say(type, "a", **fields)
        with pytest.raises(EverstepError) as caught:
            await (await starting).result()
        return caught.value

    failed = await ended(LifecycleType.FAILED, error=ErrorInfo(type="CardDeclined", message="no money"))
    assert isinstance(failed, RunFailed)
    assert (failed.type, failed.workflow_id, failed.run) == ("CardDeclined", "a", 1)
    assert "no money" in str(failed.cause)
    cancelled = await ended(LifecycleType.CANCELLED, reason="customer asked")
    assert isinstance(cancelled, RunCancelled)
    assert str(cancelled) == "run 'a' was cancelled: customer asked"
    assert isinstance(await ended(LifecycleType.TERMINATED), RunTerminated)
    timed_out = await ended(LifecycleType.TIMED_OUT)
    assert isinstance(timed_out, RunTimedOut)
    assert str(timed_out) == "run 'a' has reached its timeout"


async def test_rejections_are_raised_by_the_start(client: Client, script: Script) -> None:
    async def rejected(reason: str) -> BaseException:
        starting = asyncio.create_task(client.start(fulfil, Order("1"), id="a"))
        start = await script.start()
        await script.say(REJECTED, "a", 0, submission_id="another's", reason="duplicate: not mine")
        await script.say(REJECTED, "a", 0, submission_id=start.submission_id, reason=reason)
        with pytest.raises(EverstepError) as caught:
            await starting
        return caught.value

    duplicate = await rejected("duplicate: run 1 of 'a' exists (running)")
    assert isinstance(duplicate, RunAlreadyExists)
    assert duplicate.workflow_id == "a"
    assert isinstance(await rejected("no run has the id 'a'"), RunNotFound)
    assert isinstance(await rejected("args and kwargs have 5 bytes; 4 are allowed"), Rejected)


async def test_a_run_that_waits_for_its_code_has_started(client: Client, script: Script) -> None:
    starting = asyncio.create_task(client.start(fulfil, Order("1"), id="a"))
    start = await script.start()
    await script.say(LifecycleType.STALLED, "a", submission_id=start.submission_id, reason="no code")
    run = await starting
    await script.say(LifecycleType.RESUMED, "a", submission_id=start.submission_id)
    await script.accept(start)
    await script.say(COMPLETED, "a", result=Raw(b'{"order_id":"late"}'))
    assert await run.result() == Order("late")


async def test_the_result_of_a_run_that_had_ended_before_needs_the_api(client: Client, script: Script) -> None:
    starting = asyncio.create_task(client.start(fulfil, Order("1"), id="a", on_duplicate="return_existing"))
    start = await script.start()
    assert start.on_duplicate == "return_existing"
    await script.accept(start, run=2, status="completed")
    with pytest.raises(EverstepError, match=r"run 2 of 'a' had ended before \(completed\).*EVERSTEP_API_URL"):
        await (await starting).result()


async def test_a_result_that_takes_too_long(client: Client, script: Script) -> None:
    starting = asyncio.create_task(client.start(fulfil, Order("1"), id="a"))
    await script.accept(await script.start())
    run = await starting
    with pytest.raises(TimeoutError, match="run 'a' is still running"):
        await run.result(timeout=timedelta(milliseconds=1))
    await script.say(COMPLETED, "a", result=Raw(b'{"order_id":"1"}'))
    assert await run.result(timeout=timedelta(seconds=30)) == Order("1")


async def test_signals_and_requests_to_end(client: Client, script: Script) -> None:
    run = client.run("order-17", of=fulfil)
    await run.signal(shipped, Order("17"), signal_id="s1")
    assert await script.submission() == wire.Signal(
        workflow_id="order-17", name="shipped", value=Raw(b'{"order_id":"17","quantity":1}'), signal_id="s1"
    )
    await run.signal("note", [1])
    plain = await script.submission()
    assert isinstance(plain, wire.Signal)
    assert (plain.name, bytes(plain.value)) == ("note", b"[1]")
    assert plain.signal_id, "so that a repeated send is applied once"
    await run.cancel("customer asked")
    assert await script.submission() == wire.Cancel(workflow_id="order-17", reason="customer asked")
    await run.terminate()
    assert await script.submission() == wire.Terminate(workflow_id="order-17")


async def test_an_update_of_any_run_is_answered(client: Client, script: Script) -> None:
    run = client.run("order-17")
    asking = asyncio.create_task(run.update(change, Order("1"), update_id="u1"))
    assert await script.submission() == wire.Update(
        workflow_id="order-17", name="change", value=Raw(b'{"order_id":"1","quantity":1}'), update_id="u1"
    )
    await script.say(LifecycleType.UPDATE_COMPLETED, "order-17", submission_id="another's", result=Raw(b"0"))
    await script.say(LifecycleType.STARTED, "order-17", submission_id="u1")
    await script.say(LifecycleType.UPDATE_COMPLETED, "order-17", submission_id="u1", result=Raw(b"3"))
    assert await asking == 3
    plain = asyncio.create_task(run.update("touch"))
    submission = await script.submission()
    assert isinstance(submission, wire.Update)
    assert submission.update_id
    await script.say(
        LifecycleType.UPDATE_COMPLETED, "order-17", submission_id=submission.update_id, result=Raw(b"null")
    )
    assert await plain is None


async def test_updates_that_come_to_nothing(client: Client, script: Script) -> None:
    async def refused(type: str, **fields: Any) -> BaseException:
        asking = asyncio.create_task(client.run("a").update(change, Order("1"), update_id="u1"))
        await script.submission()
        await script.say(type, "a", submission_id="u1", **fields)
        with pytest.raises(EverstepError) as caught:
            await asking
        return caught.value

    failed = await refused(LifecycleType.UPDATE_FAILED, error=ErrorInfo(type="OutOfStock", message="none left"))
    assert isinstance(failed, UpdateFailed)
    assert (failed.type, str(failed.cause)) == ("OutOfStock", "OutOfStock: none left")
    assert str(failed) == "update 'change' of run 'a' failed: OutOfStock: none left"
    rejected = await refused(REJECTED, reason="only numbers above 0")
    assert isinstance(rejected, UpdateRejected)
    assert str(rejected) == "update 'change' of run 'a' was rejected: only numbers above 0"
    assert isinstance(await refused(REJECTED, reason="no run has the id 'a'"), RunNotFound)
    assert isinstance(await refused(REJECTED, reason="run 1 of 'a' has ended (completed)"), Rejected)
    earlier = await refused(REJECTED, reason="duplicate: update 'u1' was carried out by an earlier run of this id")
    assert "EVERSTEP_API_URL" in str(earlier)


async def test_an_update_that_is_not_answered_in_time(client: Client) -> None:
    with pytest.raises(TimeoutError, match=r"run 'a' has not answered update 'change' after 0:00:00\.1"):
        await client.run("a").update(change, Order("1"), timeout=timedelta(milliseconds=100))
    assert not client._transport._tail._listeners  # type: ignore[attr-defined]  # of the Kafka transport


async def test_what_is_said_to_a_callback_is_durable(client: Client, script: Script) -> None:
    token = str(Token(2, run_key(2, 7), 5, 0, "secret"))
    callback = client.callback(token)
    await callback.complete(Order("1"), submission_id="s1")
    assert await script.submission() == wire.CompleteCallback(
        token=token, value=Raw(b'{"order_id":"1","quantity":1}'), submission_id="s1"
    )
    await callback.fail("lost", type="Lost")
    failed = await script.submission()
    assert isinstance(failed, wire.FailCallback)
    assert (failed.error, bool(failed.submission_id)) == (wire.CallbackProblem(message="lost", type="Lost"), True)
    await callback.heartbeat([1])
    assert await script.submission() == wire.HeartbeatCallback(token=token, details=Raw(b"[1]"))


async def test_two_thousand_at_once(client: Client, script: Script) -> None:
    count = 2000

    async def finish(start: wire.Start) -> None:
        await script.accept(start)
        await script.say(COMPLETED, start.workflow_id, result=Raw(bytes(start.args)[1:-1]))

    async def answer() -> None:
        async with asyncio.TaskGroup() as answers:
            for _ in range(count):
                answers.create_task(finish(await script.start()))

    async def one(n: int) -> Order:
        return await (await client.start(fulfil, Order(str(n), n), id=f"order-{n}")).result()

    answering = asyncio.create_task(answer())
    results = await asyncio.gather(*(one(n) for n in range(count)))
    assert results == [Order(str(n), n) for n in range(count)]
    await answering


async def test_runs_that_nobody_holds_are_forgotten(client: Client, script: Script) -> None:
    starting = asyncio.create_task(client.start(fulfil, Order("1"), id="a"))
    await script.accept(await script.start())
    run = await starting
    tail = client._transport._tail  # type: ignore[attr-defined]  # of the Kafka transport
    assert tail._listeners
    del run, starting
    await asyncio.sleep(0)  # this step of the loop still holds what it awaited
    gc.collect()
    assert not tail._listeners


async def test_a_start_that_is_given_up_is_forgotten(client: Client, script: Script) -> None:
    starting = asyncio.create_task(client.start(fulfil, Order("1"), id="a"))
    await script.start()
    starting.cancel()
    await asyncio.wait([starting])
    assert not client._transport._tail._listeners  # type: ignore[attr-defined]  # of the Kafka transport


async def test_what_cannot_be_sent_is_refused_here(client: Client) -> None:
    with pytest.raises(PayloadError):
        await client.start(fulfil, "no order", id="a")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="id '' has 0 bytes"):
        await client.start(fulfil, Order("1"), id="")
    with pytest.raises(ValueError, match="control character"):
        client.run("a\nb")
    with pytest.raises(ValueError, match="half of a surrogate"):
        await client.start(fulfil, Order("1"), id="a", attributes={"a": "\ud800"})
    with pytest.raises(TypeError, match="attribute 'a' is text"):
        await client.start(fulfil, Order("1"), id="a", attributes={"a": object()})  # type: ignore[dict-item]
    with pytest.raises(Rejected, match="start_at has no time zone"):
        await client.start(fulfil, Order("1"), id="a", start_at=datetime(2030, 1, 1))
    with pytest.raises(PayloadError):
        await client.run("a").update(change, "no order")  # type: ignore[misc]
    with pytest.raises(ValueError, match="update_id ' \\\\n' holds a control character"):
        await client.run("a").update("u", update_id=" \n")
    with pytest.raises(Rejected, match="too large"):
        await client.start(fulfil, Order("x" * (2 << 20)), id="a")


async def test_what_needs_the_api_says_so(client: Client) -> None:
    run = client.run("a")
    with pytest.raises(EverstepError, match="EVERSTEP_API_URL"):
        await run.result()
    with pytest.raises(EverstepError, match="EVERSTEP_API_URL"):
        await run.describe()
    with pytest.raises(EverstepError, match="EVERSTEP_API_URL"):
        run.history()
    with pytest.raises(EverstepError, match="EVERSTEP_API_URL"):
        await run.query("total")
    with pytest.raises(EverstepError, match="EVERSTEP_API_URL"):
        client.list()


async def test_a_client_of_a_given_transport(settings: Settings, script: Script) -> None:
    async with Client(transport=KafkaTransport(settings)) as client:
        await client.run("a").cancel("enough")
    assert await script.submission() == wire.Cancel(workflow_id="a", reason="enough")


async def test_nobody_there() -> None:
    with pytest.raises(NotReachable, match="EVERSTEP_KAFKA_BOOTSTRAP"):
        async with Client(settings=Settings(kafka_bootstrap="127.0.0.1:1")):
            pass
    with pytest.raises(SettingsError, match="neither"):
        Client(settings=Settings())
