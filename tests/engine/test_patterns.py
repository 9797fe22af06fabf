"""Races, polling, and whole blocks that are tried again."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from tests.engine.kit import NOW, SECOND, Case, Recorder, begin

from everstep import (
    ActivityError,
    App,
    Backoff,
    Context,
    NonRetryable,
    Retry,
    RetryAfter,
    Signal,
    WaitTimeout,
    days,
    hours,
    seconds,
)
from everstep._core.retrying import pause_seconds
from everstep._core.timers import LAST_INSTANT
from everstep_schemas import events
from everstep_schemas.events import RetryPolicy

app = App("patterns")
go = Signal[int]("go")


@app.activity
async def work(n: int) -> int:
    raise AssertionError("workers run activities")


STEADY = Backoff(seconds(10), factor=1.0, jitter=0.0)


# ---- first


async def racing(ctx: Context) -> str:
    try:
        winner = await ctx.first(work(1), ctx.wait_for_signal(go), ctx.sleep(days(1)))
    except ActivityError as error:
        return error.type
    return f"{winner}"


def test_the_first_to_end_wins_and_the_others_are_cancelled() -> None:
    case = begin(racing)
    case.signal("go", 7)
    assert case.kinds == ["ActivityCancelled", "TimerCancelled", "Completed"]
    assert case.result == "7"
    late = begin(racing)
    late.wake()
    assert late.kinds == ["ActivityCancelled", "WaitCancelled", "Completed"]
    assert late.result == "None"


def test_the_first_to_end_may_end_in_an_error() -> None:
    case = begin(racing)
    case.fail(2, "Boom", retryable=False)
    assert case.result == "Boom"
    assert case.kinds == ["WaitCancelled", "TimerCancelled", "Completed"]


def test_of_those_that_are_done_already_the_first_wins_and_a_message_goes_back() -> None:
    async def two(ctx: Context) -> list[int]:
        await work(1)
        return [await ctx.first(ctx.wait_for_signal(go), ctx.wait_for_signal(go)), await ctx.wait_for_signal(go)]

    case = begin(two)
    case.signal("go", 1)
    case.signal("go", 2)
    case.complete(2, 0)
    assert case.result == [1, 2]


@pytest.mark.parametrize("begun", [False, True])
def test_a_race_that_is_cancelled_cancels_all(begun: bool) -> None:
    async def stopping(ctx: Context) -> str:
        race = ctx.first(work(1), ctx.wait_for_signal(go))
        if begun:
            await asyncio.sleep(0)
        race.cancel()
        try:
            await race
        except asyncio.CancelledError:
            return "cancelled"
        return "?"

    case = begin(stopping)
    assert case.kinds[2:] == ["ActivityCancelled", "WaitCancelled", "Completed"]
    assert case.result == "cancelled"


def test_coroutines_race_too_and_losers_clean_up() -> None:
    async def stopping(ctx: Context) -> list[str]:
        said: list[str] = []

        async def careful(n: int) -> int:
            try:
                return await work(n)
            finally:
                said.append(f"{n} left")

        said.append(f"{await ctx.first(careful(1), careful(2))}")
        await asyncio.sleep(0)
        return said

    case = begin(stopping)
    case.complete(3, 5)
    assert case.result == ["2 left", "5", "1 left"]


def test_a_race_needs_somebody() -> None:
    async def alone(ctx: Context) -> str:
        with pytest.raises(ValueError, match="needs something"):
            ctx.first()
        same = work(1)
        return f"{await ctx.first(same, same)}"

    case = begin(alone)
    case.complete(2, 5)
    assert case.result == "5"


# ---- poll


async def polling(ctx: Context, timeout: float | None) -> str:
    limit = None if timeout is None else seconds(timeout)
    try:
        found = await ctx.poll(lambda: work(1), until=lambda n: n > 2, every=STEADY, timeout=limit)
    except WaitTimeout as error:
        return str(error)
    except ActivityError as error:
        return error.type
    return f"{found}"


def test_it_is_called_again_after_each_pause_until_the_result_is_right() -> None:
    case = begin(polling, None)
    case.complete(2, 1)
    at = case.run.wakeup_at()
    assert at == case.now + 10 * SECOND
    case.wake()
    case.complete(case.pending()[0], 2)
    case.wake()
    case.complete(case.pending()[0], 3)
    assert case.result == "3"


def test_pauses_grow_and_are_the_same_on_replay() -> None:
    async def growing(ctx: Context) -> None:
        await ctx.poll(lambda: work(1), until=bool, every=Backoff(seconds(1), maximum=hours(1)))

    case = begin(growing)
    pauses: list[int] = []
    for _ in range(16):
        case.complete(case.pending()[0], 0)
        at = case.run.wakeup_at()
        assert at is not None
        pauses.append(at - case.now)
        case.wake()
    assert all(0.9 * 2**n <= pause / SECOND <= 1.1 * 2**n for n, pause in enumerate(pauses[:11]))
    assert all(pause <= 1.1 * 3_600 * SECOND for pause in pauses)


def test_no_pause_stays_none_however_often_it_is_called() -> None:
    assert {pause_seconds(RetryPolicy(initial_seconds=0.0), "", attempt) for attempt in range(1, 2000)} == {0.0}


def test_a_timeout_ends_it_in_a_pause_or_a_call() -> None:
    in_pause = begin(polling, 5.0)
    in_pause.complete(3, 1)
    in_pause.wake()
    assert in_pause.result == "what was polled for did not come true within the timeout"
    assert in_pause.kinds == ["TimerCancelled", "Completed"]
    in_call = begin(polling, 5.0)
    in_call.wake()
    assert in_call.kinds == ["ActivityCancelled", "Completed"]
    assert in_call.run.wakeup_at() is None


@pytest.mark.parametrize("timeout", [seconds(0), seconds(-1), timedelta.min])
def test_no_time_at_all_tries_once_and_gives_up(timeout: timedelta) -> None:
    async def hasty(ctx: Context) -> str:
        try:
            await ctx.poll(lambda: work(1), until=bool, timeout=timeout)
        except WaitTimeout:
            return "over"
        return "?"

    assert begin(hasty).result == "over"


def test_a_thousand_years_of_polling_end_with_the_calendar() -> None:
    async def endless(ctx: Context) -> None:
        forever = Backoff(timedelta.max, maximum=timedelta.max)
        await ctx.poll(lambda: work(1), until=bool, every=forever, timeout=timedelta.max)

    case = begin(endless)
    assert case.run.wakeup_at() == LAST_INSTANT
    case.complete(3, 0)
    at = case.run.wakeup_at()
    assert at is not None
    assert NOW < at <= LAST_INSTANT


def test_an_error_of_the_call_or_of_the_question_ends_it() -> None:
    case = begin(polling, None)
    case.fail(2, "Boom", retryable=False)
    assert case.result == "Boom"

    async def odd(ctx: Context) -> str:
        try:
            await ctx.poll(lambda: work(1), until=lambda n: 1 // n > 0)
        except ZeroDivisionError:
            return "odd"
        return "?"

    odd_case = begin(odd)
    odd_case.complete(2, 0)
    assert odd_case.result == "odd"


def test_a_question_that_awaits_is_an_error_and_not_a_yes() -> None:
    async def asked(n: int) -> bool:
        return n > 9

    async def odd(ctx: Context, until: str) -> int:
        questions: dict[str, Any] = {"async": asked, "activity": work}
        return await ctx.poll(lambda: work(1), until=questions[until])

    for until in ("async", "activity"):
        case = begin(odd, until)
        case.complete(2, 1)
        assert "`until` awaits something" in case.error.message


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda ctx: ctx.poll(lambda: work(1), until=bool, every=days(1)), "ctx.poll: every is a Backoff such as"),
        (lambda ctx: ctx.poll(work(1), until=bool), "ctx.poll calls a function again and again"),
        (lambda ctx: ctx.retry(work(1), Retry()), "ctx.retry calls a function again and again"),
        (lambda ctx: ctx.retry(lambda: work(1), 3), "ctx.retry needs `Retry"),
    ],
)
def test_what_cannot_be_called_again_is_refused_at_once(use: Any, message: str) -> None:
    async def wrong(ctx: Context) -> None:
        await use(ctx)

    assert message in begin(wrong).error.message


def test_a_timeout_of_the_call_is_not_that_of_the_poll() -> None:
    async def timing(ctx: Context) -> str:
        async def call() -> int:
            raise TimeoutError("mine")

        try:
            await ctx.poll(call, until=bool, timeout=days(1))
        except WaitTimeout:
            return "the poll's"
        except TimeoutError as error:
            return str(error)
        return "?"

    assert begin(timing).result == "mine"


# ---- retry


async def retrying(ctx: Context, retry: dict[str, Any]) -> str:
    async def block() -> str:
        first = await work(1)
        return f"{first + await work(2)} at {ctx.info.history_events}"

    limit = retry.get("max_attempts")
    policy = Retry(
        limit, STEADY, give_up_on=retry.get("give_up_on", ()), retry_if=lambda error: "odd" not in str(error)
    )
    try:
        return await ctx.retry(block, policy)
    except ActivityError as error:
        return f"{error.type} {error}"


def test_a_block_is_run_again_from_its_beginning() -> None:
    recorder = Recorder()
    case = begin(retrying, {}, log=recorder)
    case.complete(2, 1)
    case.fail(4, "Boom", retryable=False)
    assert case.run.wakeup_at() == case.now + 10 * SECOND
    assert [line[:2] for line in recorder.lines] == [("warning", "a block failed and is tried again")]
    case.wake()
    first, _ = case.pending()[0], None
    case.complete(first, 5)
    case.complete(case.pending()[0], 6)
    assert case.result.startswith("11 at")


def test_attempts_are_counted() -> None:
    case = begin(retrying, {"max_attempts": 2})
    case.fail(2, "Boom", retryable=False)
    case.wake()
    case.fail(case.pending()[0], "Boom", retryable=False)
    assert case.result.startswith("Boom activity 'work' failed")


@pytest.mark.parametrize(
    ("type", "message"), [("CardDeclined", "no"), ("shop.CardDeclined", "no"), ("Boom", "how odd")]
)
def test_what_is_never_tried_again(type: str, message: str) -> None:
    case = begin(retrying, {"give_up_on": ["CardDeclined"]})
    case.fail(2, type, message, retryable=False)
    assert case.result.startswith(type)


def test_errors_steer_their_own_retries() -> None:
    async def steering(ctx: Context, how: str) -> str:
        async def block() -> None:
            if how == "after":
                raise RetryAfter(hours(2))
            if how == "negative":
                raise RetryAfter(seconds(-5))
            raise NonRetryable("final")

        try:
            await ctx.retry(block, Retry(2))
        except NonRetryable as error:
            return str(error)
        except RetryAfter:
            return "after all"
        return "?"

    after = begin(steering, "after")
    assert after.run.wakeup_at() == NOW + 7_200 * SECOND
    after.wake()
    assert after.result == "after all"
    assert begin(steering, "negative").result == "after all"
    assert begin(steering, "final").result == "final"


def test_a_cancellation_is_not_retried() -> None:
    case = begin(retrying, {})
    case.cancel()
    assert case.kinds == ["ActivityCancelled", "Cancelled"]
    pausing = begin(retrying, {})
    pausing.fail(2, "Boom", retryable=False)
    pausing.cancel()
    assert pausing.kinds == ["TimerCancelled", "Cancelled"]


def test_a_handle_of_each_can_be_gathered_and_put_into_a_group() -> None:
    async def together(ctx: Context) -> list[Any]:
        async with asyncio.TaskGroup() as group:
            race = group.create_task(ctx.first(work(1), work(2)))
            poll = group.create_task(ctx.poll(lambda: work(3), until=bool))
            block = group.create_task(ctx.retry(lambda: work(4), Retry()))
        return [race.result(), poll.result(), block.result()]

    case = begin(together)
    case.complete(3, 2)
    case.complete(4, 3)
    case.complete(5, 4)
    assert case.result == [2, 3, 4]


@pytest.mark.parametrize("end", ["terminate", "time out"])
@pytest.mark.parametrize("what", [racing, polling, retrying])
def test_a_run_that_is_closed_meanwhile_lets_all_of_it_go(what: Any, end: str) -> None:
    arguments: dict[Any, list[Any]] = {racing: [], polling: [3_600.0], retrying: [{}]}
    case = begin(what, *arguments[what], begin={"timeout_seconds": 60.0})
    case.terminate() if end == "terminate" else case.wake()
    assert [type(event) for event in case.last] == [events.ActivityCancelled]
    assert case.run.wakeup_at() is None


def test_the_jitter_differs_between_places_and_runs_but_not_between_replays() -> None:
    async def two(ctx: Context) -> None:
        await asyncio.gather(*(ctx.poll(lambda: work(1), until=bool) for _ in range(2)))

    def pauses(nonce: str) -> list[int]:
        case: Case = begin(two, nonce=nonce)
        for seq in case.pending():
            case.complete(seq, 0)
        return sorted(at for at, _ in ((at, seq) for seq, at in case.run._program.wakeups._at.items()))

    assert pauses("a") == pauses("a")
    assert len({*pauses("a"), *pauses("b")}) == 4
