"""What may last how long."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import msgspec

from everstep.conformance._case import Case, expect
from everstep.conformance._registry import check
from everstep_schemas.errors import ErrorInfo
from everstep_schemas.wire import ActivitiesRenewed, ActivityStarted

TIMEOUT_SECONDS = 4.0


def expect_timeout(error: ErrorInfo, which: str, *, retryable: bool) -> None:
    fields = msgspec.json.decode(bytes(error.fields)) if isinstance(error.fields, msgspec.Raw) else None
    seen = (error.type, fields, error.retryable)
    expected = ("ActivityTimeout", {"which": which}, retryable)
    expect(seen == expected, f"type, fields and retryable {expected}", seen)


@check(6)
async def past_its_deadline(case: Case) -> None:
    """A command whose deadline has passed is not started, and answered so."""
    past = datetime.now(UTC) - timedelta(seconds=1)
    expect_timeout(await case.error_of(await case.send("echo", 1, deadline=past)), "total", retryable=False)


@check(6)
async def past_its_start(case: Case) -> None:
    """A command that was to be started earlier is not started, and answered so."""
    past = datetime.now(UTC) - timedelta(seconds=1)
    expect_timeout(await case.error_of(await case.send("echo", 1, start_by=past)), "queue", retryable=False)


@check(6)
async def in_time(case: Case) -> None:
    """A command that is in time runs."""
    later = datetime.now(UTC) + timedelta(minutes=5)
    seen = await case.value_of(await case.send("echo", 1, deadline=later, start_by=later))
    expect(seen == 1, "the value 1", seen)


@check(10)
async def timeout(case: Case) -> None:
    """An attempt that lasts longer than its timeout fails, and may be retried."""
    expect_timeout(await case.error_of(await case.send("sleep", 60, timeout_seconds=1.0)), "attempt", retryable=True)


@check(14)
async def silence_from_the_start(case: Case) -> None:
    """An attempt that makes no heartbeat in time fails, and may be retried."""
    sent = await case.send("sleep", 60, heartbeat_timeout_seconds=1.0)
    expect_timeout(await case.error_of(sent), "heartbeat", retryable=True)


@check(14)
async def silence_later(case: Case) -> None:
    """An attempt whose heartbeats end fails, with what the last one said."""
    sent = await case.send("beat", 2, 0.1, "hang", heartbeat_timeout_seconds=1.5)
    expect_timeout(await case.error_of(sent), "heartbeat", retryable=True)
    failure = await case.failure_of(sent)
    expect(failure.details == msgspec.Raw(b'{"done":2}'), 'the details {"done":2}', case.seen(sent))


@check(14)
async def kept_alive(case: Case) -> None:
    """Heartbeats keep an attempt alive for longer than their timeout."""
    seen = await case.value_of(await case.send("beat", 10, 0.4, "return", heartbeat_timeout_seconds=2.0))
    expect(seen == 10, "the value 10", seen)


@check(17)
async def details_of_a_failure(case: Case) -> None:
    """A failure carries what the last heartbeat said, however short before."""
    sent = await case.send("beat", 3, 0.0, "fail")
    failure = await case.failure_of(sent)
    expect(failure.details == msgspec.Raw(b'{"done":3}'), 'the details {"done":3}', case.seen(sent))


@check(13)
async def heartbeats_are_reported(case: Case) -> None:
    """Heartbeats are reported while the attempt runs, each well within the timeout after the one before."""
    sent = await case.send("beat", 1_000, 0.1, "return", heartbeat_timeout_seconds=TIMEOUT_SECONDS)
    expected = "three heartbeats of it in `activities_renewed`"
    await case.heard(lambda: case.hearing.heartbeats(sent.token)[2:], sent, expected)
    await case.cancel(sent)
    [started, *reports] = case.hearing.about(sent.token)
    expect(isinstance(started.message, ActivityStarted), "the attempt to be checked out before", case.seen(sent))
    done = [details["done"] for details in case.hearing.heartbeats(sent.token)]
    expect(done == sorted(set(done)), "each to say more than the one before", done)
    said = [one for one in reports if isinstance(one.message, ActivitiesRenewed) and one.message.heartbeats]
    gaps = [later.timestamp_ms - earlier.timestamp_ms for earlier, later in pairwise(said)]
    most = TIMEOUT_SECONDS * 750
    expect(max(gaps) <= most, f"at most {most:g} ms between two, with a timeout of {TIMEOUT_SECONDS:g} s", f"{gaps} ms")
    await case.until_passed(sent, "it is checked out")
