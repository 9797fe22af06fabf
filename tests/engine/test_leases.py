"""Attempts that workers check out, renew and lose; heartbeats; and all the times that an activity may take."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import msgspec
import pytest
from tests.engine.kit import NOW, SECOND, Case, begin, raw

from everstep import ActivityError, ActivityTimeout, App, Backoff, Context, Retry, seconds
from everstep._core.timers import LAST_INSTANT, instant
from everstep.errors import WorkerLost
from everstep_schemas import events, wire
from everstep_schemas.errors import ErrorInfo

app = App("leases")
STEADY = Retry(3, Backoff(seconds(10), factor=1.0, jitter=0.0))


@app.activity(timeout=seconds(100), heartbeat_timeout=seconds(30), retry=STEADY)
async def transcode(n: int) -> int:
    raise AssertionError("workers run activities")


@app.activity(timeout=seconds(100), total_timeout=seconds(60), queue_timeout=seconds(20), retry=STEADY)
async def hurried(n: int) -> int:
    raise AssertionError("workers run activities")


@app.activity
async def plain(n: int) -> int:
    raise AssertionError("workers run activities")


async def one(ctx: Context, name: str) -> str:
    activity = {"transcode": transcode, "hurried": hurried, "plain": plain}[name]
    try:
        return f"{await activity(1)}"
    except ActivityTimeout as error:
        return f"timeout {error.which} {error.attempts}: {error.cause}"
    except WorkerLost as error:
        return f"lost {error.attempts}: {error.cause}"
    except ActivityError as error:
        return f"{error.type} {error.attempts}"


def command(case: Case) -> wire.ActivityCommand:
    """The newest command to workers."""
    sent = [one for one in case.messages if one.topic.startswith("everstep.activities.")]
    return msgspec.json.decode(sent[-1].value, type=wire.ActivityCommand)


def called_off(case: Case) -> list[str]:
    """The tokens that the last activation told all workers to stop."""
    return [one["token"] for one in case.sent("everstep.activity.cancel")]


# ---- leases


def test_a_check_out_is_an_event_and_its_lease_counts_from_there() -> None:
    case = begin(one, "plain")
    assert case.run.wakeup_at() is None
    case.checkout(2, lease_seconds=20.0, worker="w1")
    assert case.last_events == [events.ActivityStarted(ref=2, attempt=1, lease_seconds=20.0, worker="w1")]
    assert case.last_activation.messages == []
    # The attempt's own timeout of 10 s, with a grace, is shorter than the lease.
    assert case.run.wakeup_at() == case.now + 12 * SECOND


def test_renewing_leaves_no_event_and_moves_the_end_of_the_lease() -> None:
    case = begin(one, "transcode")
    case.checkout(2)
    for _ in range(4):
        case.now += 19 * SECOND
        assert case.run.due(case.now) is None
        assert case.renew(2, details={"frame": 1})
        assert case.run.wakeup_at() == case.now + 20 * SECOND
    assert len(case.history) == 3
    assert [(one.seq, one.attempt) for one in case.run.leases()] == [(2, 1)]
    case.complete(2, 7)
    assert case.result == "7"
    assert list(case.run.leases()) == []


def test_a_lease_that_ends_gives_the_attempt_to_another_worker_with_what_it_had_said() -> None:
    case = begin(one, "transcode")
    first = command(case)
    case.checkout(2)
    case.renew(2, details={"frame": 9})
    case.wake()
    assert case.last_events == [events.ActivityReleased(ref=2, attempt=1, details=raw({"frame": 9}))]
    again = command(case)
    assert again == msgspec.structs.replace(first, heartbeat=raw({"frame": 9}), suspect=True)
    assert called_off(case) == [], "whoever still works on it may answer"
    assert list(case.run.leases()) == []
    case.complete(2, 7)
    assert case.result == "7"


def test_the_progress_of_a_lost_attempt_is_not_forgotten_by_a_failure_that_says_nothing() -> None:
    case = begin(one, "transcode")
    case.checkout(2)
    case.renew(2, details="half")
    case.wake()
    case.fail(2, "Boom")
    assert case.last_events[0].details == raw("half")  # type: ignore[union-attr]  # it is a failure
    case.wake()
    assert command(case).heartbeat == raw("half")
    case.send(case.failure(2, ErrorInfo(type="Boom", message="no"), attempt=2, details="more"))
    case.wake()
    assert command(case).heartbeat == raw("more")


def test_the_third_check_out_of_an_attempt_is_a_failure_and_the_worker_is_told_to_stop() -> None:
    case = begin(one, "plain")
    for n in (1, 2):
        case.checkout(2, worker=f"w{n}", lease_seconds=5.0)
        case.wake()
    case.checkout(2, worker="w3")
    failed = case.last_events[0]
    assert isinstance(failed, events.ActivityFailed)
    assert (failed.error.type, failed.unanswered, failed.attempt) == ("WorkerLost", True, 1)
    assert failed.retry_at is not None
    assert called_off(case) == [case.token(2)]
    case.wake()
    assert command(case).attempt == 2
    case.checkout(2, attempt=2)
    assert isinstance(case.last_events[0], events.ActivityStarted), "each attempt counts anew"


def test_workers_that_are_lost_each_time_end_the_activity() -> None:
    @app.activity(name="fatal", retry=Retry(max_attempts=1))
    async def fatal(n: int) -> int:
        raise AssertionError

    async def calling(ctx: Context) -> str:
        try:
            return f"{await fatal(1)}"
        except WorkerLost as error:
            return f"{type(error).__name__} {error.type} {error.attempts}"

    case = begin(calling)
    for _ in range(2):
        case.checkout(2, lease_seconds=1.0)
        case.wake()
    case.checkout(2)
    assert case.result == "WorkerLost WorkerLost 1"


def test_an_attempt_that_is_given_back_is_due_at_once_and_does_not_count() -> None:
    case = begin(one, "transcode")
    for _ in range(5):
        case.checkout(2)
        case.renew(2, details="half")
        case.now += SECOND
        assert case.give_back(2)
        assert case.run.wakeup_at() == case.now
        case.wake()
        assert case.last_events == [events.ActivityReleased(ref=2, attempt=1, details=raw("half"), given_back=True)]
        assert not case.give_back(2), "nobody holds it"
    case.checkout(2)
    assert isinstance(case.last_events[0], events.ActivityStarted)
    assert not case.run.give_back(2, case.token(2, 2), case.now)
    assert not case.run.give_back(3, case.token(3), case.now)
    case.complete(2, 7)
    assert not case.give_back(2)


def test_a_worker_that_was_not_heard_may_take_its_attempt_up_again() -> None:
    case = begin(one, "transcode")
    for _ in range(4):
        case.checkout(2, again=bool(case.run._program.scope.activities._pending[2].checkouts))
        case.wake()
    assert case.run._program.scope.activities._pending[2].checkouts == 1
    case.checkout(2)
    case.wake()
    case.checkout(2)
    assert case.last_events[0].error.type == "WorkerLost"  # type: ignore[union-attr]  # it is a failure


def test_the_end_of_a_time_waits_until_it_is_known_what_was_said_until_then() -> None:
    case = begin(one, "transcode")
    case.checkout(2)
    end = case.run.wakeup_at()
    assert end is not None
    assert case.run.due(end, heard=end - 1) is None
    assert case.run.due(end + SECOND // 4, heard=end - 1) is None, "it was put off"
    assert case.run.wakeup_at() == end + SECOND // 2
    assert case.run.due(end + SECOND // 2, heard=end) == events.ActivityReleased(ref=2, attempt=1)
    assert case.run.due(end + SECOND // 2) == events.ActivityReleased(ref=2, attempt=1)


def test_what_is_late_or_forged_moves_nothing() -> None:
    case = begin(one, "transcode")
    assert not case.renew(2), "it is not checked out"
    case.checkout(2)
    at = case.run.wakeup_at()
    case.now += SECOND
    assert not case.run.renew(2, case.token(2).replace("8c5a1e", "000000"), case.now)
    assert not case.run.renew(2, case.token(2, 2), case.now)
    assert not case.run.renew(3, case.token(3), case.now)
    assert case.run.wakeup_at() == at
    case.fail(2, "Boom")
    assert not case.renew(2), "between two attempts nobody holds anything"
    assert not case.renew(2, attempt=2)
    assert case.checkout(2) is None
    assert case.checkout(2, attempt=2) is None
    case.wake()
    assert case.checkout(2) is None, "the attempt is over"
    assert case.checkout(2, attempt=2) is not None
    case.complete(2, 1, attempt=2)
    assert not case.renew(2, attempt=2)
    assert case.checkout(2, attempt=2) is None


def test_a_renewal_never_shortens_a_lease() -> None:
    case = begin(one, "transcode")
    case.checkout(2)
    case.now += 10 * SECOND
    case.renew(2)
    at = case.run.wakeup_at()
    case.run.renew(2, case.token(2), NOW - SECOND)
    assert case.run.wakeup_at() == at


@pytest.mark.parametrize(("lease", "at"), [(0.0, 0), (-5.0, -5 * SECOND), (1e300, 102 * SECOND), (1e-9, 0)])
def test_odd_leases_do_no_harm(lease: float, at: int) -> None:
    @app.activity(name=f"odd {lease}", timeout=seconds(100))
    async def odd(n: int) -> int:
        raise AssertionError

    async def calling(ctx: Context) -> int:
        return await odd(1)

    case = begin(calling)
    case.checkout(2, lease_seconds=lease)
    assert case.run.wakeup_at() == case.now + at
    if lease < 1:
        case.wake()
        assert isinstance(case.last_events[0], events.ActivityReleased)


def test_renewals_leave_nothing_behind() -> None:
    case = begin(one, "transcode", check=False)
    case.checkout(2)
    for n in range(10_000):
        case.run.renew(2, case.token(2), case.now + n)
    assert len(case.run._program.wakeups._heap) < 100


def test_after_a_replay_a_lease_counts_from_what_is_restored() -> None:
    case = begin(one, "transcode")
    case.checkout(2)
    checked_out = case.now
    again = case.replayed()
    assert again.wakeup_at() == checked_out + 20 * SECOND
    again.restore(2, checked_out + 15 * SECOND, None)
    assert again.wakeup_at() == checked_out + 32 * SECOND, "heartbeats are not leases"
    again.restore(2, checked_out + 16 * SECOND, raw(5))
    assert again.wakeup_at() == checked_out + 36 * SECOND
    again.restore(3, checked_out, raw(5))
    event = again.due(checked_out + 36 * SECOND)
    assert event == events.ActivityReleased(ref=2, attempt=1, details=raw(5))
    again.evict()


# ---- the times of an activity


def test_an_attempt_that_was_checked_out_may_take_its_timeout_and_a_grace() -> None:
    case = begin(one, "transcode")
    case.checkout(2)
    deadline = case.now + 102 * SECOND
    while case.now < deadline - 15 * SECOND:
        case.now += 15 * SECOND
        case.renew(2, details=1)
    case.wake()
    failed = case.last_events[0]
    assert isinstance(failed, events.ActivityFailed)
    assert (failed.error.type, failed.unanswered) == ("ActivityTimeout", True)
    assert case.now == deadline
    assert called_off(case) == [case.token(2)]
    case.wake()
    assert command(case).attempt == 2


def test_an_attempt_that_makes_no_heartbeat_has_failed() -> None:
    case = begin(one, "transcode")
    for attempt in (1, 2, 3):
        case.checkout(2, attempt=attempt)
        end = case.now + 32 * SECOND
        case.now += 16 * SECOND
        case.renew(2, attempt=attempt)
        case.wake()
        assert case.now == end
        if attempt < 3:
            case.wake()
    assert case.result == "timeout heartbeat 3: ActivityTimeout: no heartbeat came for 30 s"


def test_a_worker_that_begins_in_time_meets_no_queue_timeout() -> None:
    case = begin(one, "hurried")
    assert command(case).start_by == instant(NOW + 20 * SECOND)
    assert command(case).deadline == instant(NOW + 60 * SECOND)
    case.wake()
    assert case.now == NOW + 20 * SECOND
    assert case.result == "timeout queue 1: ActivityTimeout: no worker began it within its queue timeout of 20 s"
    assert called_off(case) == [case.token(2)]
    begun = begin(one, "hurried")
    begun.checkout(2, lease_seconds=50.0)
    assert begun.run.wakeup_at() == begun.now + 50 * SECOND


def test_each_attempt_waits_anew_for_a_worker() -> None:
    case = begin(one, "hurried")
    case.fail(2, "Boom")
    case.wake()
    assert command(case).start_by == instant(case.now + 20 * SECOND)
    assert case.run.wakeup_at() == case.now + 20 * SECOND
    case.checkout(2, attempt=2, lease_seconds=5.0)
    case.wake()
    assert isinstance(case.last_events[0], events.ActivityReleased)
    assert command(case).start_by == instant(case.now + 20 * SECOND)


def test_the_total_timeout_ends_all_attempts_with_the_last_error() -> None:
    case = begin(one, "hurried")
    case.fail(2, "Boom", "the cause")
    case.wake()
    case.checkout(2, attempt=2, lease_seconds=100.0)
    case.wake()
    assert case.now == NOW + 60 * SECOND
    assert case.result.startswith("timeout total 2: ActivityTimeout: all its attempts together took longer")
    assert called_off(case) == [case.token(2, 2)]
    failed = case.last_events[0]
    assert isinstance(failed, events.ActivityFailed)
    assert failed.error.cause is not None
    assert failed.error.cause.message == "the cause"


def test_no_attempt_begins_after_the_total_timeout() -> None:
    case = begin(one, "hurried")
    case.checkout(2, lease_seconds=100.0)
    case.now += 55 * SECOND
    case.fail(2, "Boom", "the cause")
    assert case.result == "timeout total 1: ActivityTimeout: the next attempt would begin after the total timeout"
    assert case.last_events[0].unanswered is False  # type: ignore[union-attr]  # a worker said so


def test_what_is_final_is_not_made_a_timeout() -> None:
    case = begin(one, "hurried")
    case.now += 55 * SECOND
    case.fail(2, "Boom", retryable=False)
    assert case.result == "Boom 1"


def test_thousands_of_years_end_with_the_calendar() -> None:
    @app.activity(
        name="patient",
        timeout=timedelta.max,
        total_timeout=timedelta.max,
        queue_timeout=timedelta.max,
        heartbeat_timeout=timedelta.max,
        retry=Retry(backoff=Backoff(timedelta.max, maximum=timedelta.max)),
    )
    async def patient(n: int) -> int:
        raise AssertionError

    async def calling(ctx: Context) -> int:
        return await patient(1)

    case = begin(calling)
    assert (command(case).deadline, command(case).start_by) == (instant(LAST_INSTANT),) * 2
    case.checkout(2, lease_seconds=1e300)
    assert case.run.wakeup_at() == LAST_INSTANT
    case.fail(2, "Boom", retry_after_seconds=1e300)
    at = case.run.wakeup_at()
    assert at is not None
    case.wake()
    case.complete(2, 5, attempt=2)
    assert case.result == 5


@pytest.mark.parametrize("end", ["cancel", "terminate"])
def test_a_run_that_closes_calls_off_the_attempt_under_way(end: str) -> None:
    case = begin(one, "transcode")
    case.checkout(2)
    case.fail(2, "Boom")
    case.wake()
    case.checkout(2, attempt=2)
    case.cancel() if end == "cancel" else case.terminate()
    assert case.last[0] == events.ActivityCancelled(ref=2, attempt=2)
    assert called_off(case) == [case.token(2, 2)]
    assert not case.renew(2, attempt=2)


def test_times_that_are_due_together_come_in_a_fixed_order() -> None:
    @app.activity(name="together", timeout=seconds(8), heartbeat_timeout=seconds(8), total_timeout=seconds(10))
    async def together(n: int) -> int:
        raise AssertionError

    async def calling(ctx: Context) -> Any:
        try:
            return await together(1)
        except ActivityTimeout as error:
            return error.which

    case = begin(calling)
    case.now -= 1_000
    case.checkout(2, lease_seconds=10.0)
    case.wake()
    assert case.now == NOW + 10 * SECOND
    failed = case.last_events[0]
    assert isinstance(failed, events.ActivityFailed)
    assert failed.error.cause is not None
    assert failed.error.cause.fields == raw({"which": "attempt"})
    assert case.result == "total", "and no other attempt fits in"
