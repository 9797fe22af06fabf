"""Activities: scheduling, answers, retries, handles, limits."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import msgspec
import pytest
from msgspec import Raw
from tests.engine.kit import NOW, SECOND, Case, begin

from everstep import ActivityError, ActivityTimeout, App, Backoff, Context, Retry, seconds
from everstep.errors import PayloadError
from everstep_schemas import events, wire
from everstep_schemas.errors import ErrorInfo

app = App("activities")


@dataclass
class Order:
    sku: str
    quantity: int


class CardDeclined(Exception): ...


@app.activity
async def check(order: Order) -> bool:
    raise AssertionError("workers run activities")


@app.activity(raises=[CardDeclined], retry=Retry(max_attempts=3, backoff=Backoff(seconds(1), jitter=0.0)), queue="pay")
async def charge(order: Order) -> Order:
    raise AssertionError("workers run activities")


@app.workflow
async def one(ctx: Context, order: Order) -> str:
    return f"in stock: {await check(order)}"


@app.workflow
async def paying(ctx: Context, order: Order) -> str:
    try:
        return (await charge(order)).sku
    except CardDeclined as error:
        return f"declined {error}"
    except ActivityTimeout as error:
        return f"timeout {error.which} {error.attempts}"
    except ActivityError as error:
        return f"{error.activity} {error.type} {error.attempts} {error.cause}"


ORDER = Order("A", 2)


def test_a_call_is_an_event_and_a_command_and_the_answer_resumes_the_code() -> None:
    case = Case(app, one, ORDER)
    scheduled = case.history[1]
    assert scheduled == events.ActivityScheduled(
        name="check", queue="default", args=Raw(b'[{"sku":"A","quantity":2}]'), timeout_seconds=10.0
    )
    command = msgspec.json.decode(case.messages[1].value, type=wire.ActivityCommand)
    assert (command.activity, command.token, command.idempotency_key) == ("check", case.token(2), "order-17/1/2")
    case.complete(2, True)
    assert case.result == "in stock: True"
    assert case.run.closed == "completed"


def test_an_answer_counts_once_and_only_for_the_attempt_under_way() -> None:
    case = Case(app, paying, ORDER)
    assert case.send(case.completion(3)) is None, "nothing pending has that number"
    assert case.send(case.completion(2, attempt=2)) is None, "no second attempt is under way"
    forged = msgspec.structs.replace(case.completion(2), token=case.token(2).replace("8c5a1e", "000000"))
    assert case.send(forged) is None, "the token belongs to another run"
    assert case.send(msgspec.structs.replace(case.completion(2), attempt=2)) is None, "token and attempt disagree"
    case.fail(2)
    assert case.send(case.completion(2)) is None, "the attempt has failed already"
    case.wake()
    assert case.send(case.completion(2)) is None, "the first attempt is over"
    case.complete(2, {"sku": "A", "quantity": 1}, attempt=2)
    assert case.result == "A"
    assert case.send(case.completion(2, attempt=2)) is None, "the run is closed"


def test_a_failed_attempt_is_repeated_after_its_backoff_as_a_new_attempt() -> None:
    case = Case(app, paying, ORDER)
    failed = case.fail(2)
    event = case.history[-1]
    assert isinstance(event, events.ActivityFailed)
    assert event.retry_at is not None
    assert case.run.wakeup_at() == case.now + SECOND
    assert [m.topic for m in failed.messages] == ["everstep.lifecycle"]
    assert case.run.due(case.now + SECOND - 1) is None
    retried = case.wake()
    assert case.history[-1] == events.ActivityRetried(ref=2, attempt=2)
    (command,) = retried.messages
    assert command.topic == "everstep.activities.pay"
    assert msgspec.json.decode(command.value, type=wire.ActivityCommand).token == case.token(2, 2)
    case.fail(2, attempt=2)
    assert case.run.wakeup_at() == case.now + 2 * SECOND
    case.wake()
    case.fail(2, attempt=3, message="still no")
    assert case.result == "charge ValueError 3 ValueError: still no"


@pytest.mark.parametrize(
    ("error", "result"),
    [
        (ErrorInfo(type="CardDeclined", message="x", fields=Raw(b'["too poor"]')), "declined too poor"),
        (ErrorInfo(type="Fraud", message="x", retryable=False), "charge Fraud 1 Fraud: x"),
    ],
)
def test_what_is_never_repeated(error: ErrorInfo, result: str) -> None:
    case = Case(app, paying, ORDER)
    case.send(case.failure(2, error))
    assert case.result == result


def test_the_failing_code_can_choose_the_delay() -> None:
    case = Case(app, paying, ORDER)
    case.fail(2, retry_after_seconds=600.0)
    assert case.run.wakeup_at() == case.now + 600 * SECOND


def test_a_timeout_of_the_last_attempt_is_an_activity_timeout() -> None:
    case = Case(app, paying, ORDER)
    for attempt in (1, 2, 3):
        case.fail(2, "ActivityTimeout", attempt=attempt)
        if attempt < 3:
            case.wake()
    assert case.result == "timeout attempt 3"


def test_give_up_on_names_end_the_tries() -> None:
    lazy = App("lazy")

    @lazy.activity(retry=Retry(give_up_on=[KeyError, "NotFound"]))
    async def look(n: int) -> int:
        raise AssertionError

    @lazy.workflow
    async def looking(ctx: Context) -> str:
        try:
            return str(await look(1))
        except ActivityError as error:
            return error.type

    for type in ("KeyError", "shop.errors.NotFound"):
        case = Case(lazy, looking)
        case.fail(2, type)
        assert case.result == type


def test_without_a_policy_tries_go_on_for_ever_and_pauses_stay_short() -> None:
    case = Case(app, one, ORDER, check=False)
    for attempt in range(1, 1200):
        case.fail(2, attempt=attempt)
        at = case.run.wakeup_at()
        assert at is not None
        assert at - case.now <= 110 * SECOND
        case.wake()
    case.complete(2, True, attempt=1200)
    assert case.run.closed == "completed"


def test_jitter_is_the_same_each_time_it_is_decided_and_differs_between_runs() -> None:
    def delay(nonce: str) -> int:
        case = Case(app, one, ORDER, nonce=nonce)
        case.fail(2)
        at = case.run.wakeup_at()
        assert at is not None
        return at - case.now

    assert delay("a") == delay("a")
    delays = {delay(f"run-{i}") for i in range(20)}
    assert len(delays) > 15
    assert all(0.9 * SECOND <= one <= 1.1 * SECOND for one in delays)


def test_a_result_that_does_not_fit_the_annotation_is_an_error_with_its_path() -> None:
    case = Case(app, paying, ORDER)
    case.complete(2, {"sku": "A", "quantity": "many"})
    assert case.error.type == "everstep.errors.PayloadError"
    assert case.error.message.startswith("the result of activity '")
    assert "$.quantity" in case.error.message


def test_arguments_over_the_limit_are_refused_at_the_call_and_replay_follows_history() -> None:
    @app.workflow
    async def big(ctx: Context, order: Order) -> str:
        try:
            return str(await check(order))
        except PayloadError as error:
            return "too big" if "EVERSTEP_MAX_PAYLOAD_BYTES" in error.reason else "?"

    case = Case(app, big, Order("A" * 200, 1), limit=100)
    assert case.result == "too big"
    allowed = Case(app, big, Order("A" * 200, 1), limit=300)
    stricter = case.engine
    replay = stricter.replay(allowed.identity)
    for row in allowed.rows:
        replay.feed(row)
    assert replay.finish().next_seq == allowed.run.next_seq, "a limit that was lowered later stops no run"


def test_a_handle_can_be_cancelled_and_the_worker_is_told() -> None:
    @app.workflow
    async def changing_mind(ctx: Context, order: Order) -> str:
        handle = check(order)
        assert handle.cancel()
        assert not handle.cancel(), "it is cancelled already"
        try:
            await handle
        except asyncio.CancelledError:
            return "never mind"
        return "?"

    case = Case(app, changing_mind, ORDER)
    assert case.result == "never mind"
    assert case.history[2] == events.ActivityCancelled(ref=2)
    control = [m for m in case.messages if m.topic == "everstep.control"]
    assert msgspec.json.decode(control[0].value) == {"kind": "cancel", "token": case.token(2)}


def test_what_nobody_awaited_is_cancelled_before_the_closing_event() -> None:
    @app.workflow
    async def careless(ctx: Context, order: Order) -> str:
        check(order)
        charge(order)
        return "done"

    case = Case(app, careless, ORDER)
    assert case.history[-3:] == [
        events.ActivityCancelled(ref=2),
        events.ActivityCancelled(ref=3),
        events.Completed(value=case.history[-1].value),  # type: ignore[union-attr]
    ]


def test_a_retry_that_waits_can_be_cancelled() -> None:
    @app.workflow
    async def impatient(ctx: Context, order: Order) -> str:
        try:
            async with asyncio.timeout(0.5):
                await check(order)
        except TimeoutError:
            return "too slow"
        return "?"

    case = Case(app, impatient, ORDER)
    case.fail(3)
    case.wake()
    assert case.result == "too slow"
    assert case.run.wakeup_at() is None
    assert events.ActivityCancelled(ref=3) in case.history


def test_a_call_by_name_that_cannot_be_made_says_what_is_wrong() -> None:
    async def wrong(ctx: Context) -> str:
        with pytest.raises(TypeError, match=r"ctx\.activity takes the name of an activity, not <activity 'charge'"):
            ctx.activity(charge, ORDER)  # type: ignore[call-overload]  # the mistake that is found
        with pytest.raises(PayloadError, match=r"the arguments of activity 'far' do not fit: .* at `\$\[1\]`"):
            ctx.activity("far", 1, object())
        with pytest.raises(PayloadError, match=r"the arguments of workflow 'far' do not fit: .* at `\$\[0\]`"):
            ctx.child("far", object())
        return "found"

    assert begin(wrong).result == "found"


def test_activities_by_name_take_the_types_that_the_call_names() -> None:
    @app.workflow
    async def remote(ctx: Context, order: Order) -> str:
        there: Order = await ctx.activity("elsewhere", order, 5, queue="java", returns=Order, timeout=seconds(3))
        loose = await ctx.activity("loose")
        return f"{there.sku}{loose['x']}"

    case = Case(app, remote, ORDER)
    assert case.history[1] == events.ActivityScheduled(
        name="elsewhere", queue="java", args=Raw(b'[{"sku":"A","quantity":2},5]'), timeout_seconds=3.0
    )
    case.complete(2, {"sku": "B", "quantity": 1})
    case.complete(4, {"x": 1})
    assert case.result == "B1"


def test_time_in_history_never_goes_back() -> None:
    case = Case(app, paying, ORDER)
    case.now = NOW - 5 * SECOND
    case.fail(2)
    assert [row.at for row in case.rows] == [NOW, NOW]
    assert case.run.wakeup_at() == NOW + SECOND
