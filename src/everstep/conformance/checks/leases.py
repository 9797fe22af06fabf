"""Attempts that last are checked out."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from everstep.conformance._case import Case, expect
from everstep.conformance._commands import Sent
from everstep.conformance._registry import check
from everstep_schemas.wire import ActivityStarted

CHECKED_OUT = "`activity_started` of an attempt that lasts longer than three seconds"


@check(11)
async def one_that_lasts(case: Case) -> None:
    """An attempt that lasts is checked out, its offset passes, and it is answered all the same."""
    sent = await case.send("sleep", 7)
    said = await case.check_out_of(sent, CHECKED_OUT)
    command = sent.known
    expected = (command.workflow_id, command.run, command.seq, command.attempt)
    seen = (said.workflow_id, said.run, said.seq, said.attempt)
    expect(seen == expected, f"workflow_id, run, seq and attempt {expected}", seen)
    expect(5 <= said.lease_seconds <= 120, "`lease_seconds` around 15", said.lease_seconds)
    [heard, *_] = case.hearing.about(sent.token)
    expect(
        heard.partition == command.reply_to.partition, f"it in partition {command.reply_to.partition}", heard.partition
    )
    expect(not case.hearing.answers(sent.token), "the check-out before the answer", case.seen(sent))
    await case.until_passed(sent, "it is checked out")
    expect(not case.hearing.answers(sent.token), "the offset to pass before the answer", case.seen(sent))
    await case.value_of(sent)


@check(11)
async def one_that_begins_in_time(case: Case) -> None:
    """An attempt with a `start_by` is checked out when it begins, so that its run knows."""
    sent = await case.send("sleep", 0.5, start_by=datetime.now(UTC) + timedelta(minutes=5))
    await case.value_of(sent)
    expect(case.hearing.check_outs(sent.token), "`activity_started` before the answer", case.seen(sent))


@check(12)
async def renewals(case: Case) -> None:
    """What is checked out is renewed three times per lease, until it ends."""
    sent = await case.send("sleep", 60)
    said = await case.check_out_of(sent, CHECKED_OUT)
    await case.heard(lambda: case.hearing.renewals(sent.token)[1:], sent, "two `activities_renewed` with its token")
    lease_ms = said.lease_seconds * 1_000
    [started, first, second, *_] = case.hearing.about(sent.token)
    gaps = [first.timestamp_ms - started.timestamp_ms, second.timestamp_ms - first.timestamp_ms]
    expect(max(gaps) <= lease_ms / 2, f"no more than {lease_ms / 2:g} ms between two renewals", f"{gaps} ms")
    await case.cancel(sent)
    later = await case.send("sleep", said.lease_seconds / 2)
    await case.value_of(later)
    after = [heard for heard in case.hearing.about(sent.token) if heard not in (started, first, second)]
    expect(len(after) <= 1, "no renewal of an attempt that was cancelled", case.seen(sent))


@check(2)
async def a_short_one_beside(case: Case) -> None:
    """A long attempt does not hold up a short one behind it, and the offset waits for the long one."""
    long = await case.send("sleep", 2)
    short = await case.send("echo", 1)
    await case.value_of(short)
    expect(not case.hearing.answers(long.token), "the short one to be answered first", case.seen(long))
    await case.value_of(long)


@check(7)
async def twice_while_it_runs(case: Case) -> None:
    """A command that comes again while its attempt runs is not run twice at once; both offsets pass."""
    first = await case.send("sleep", 2)
    second = await case.send_again(first)
    await case.value_of(first)
    for sent in (first, second):
        await case.until_passed(sent, "its attempt is answered")
    await case.hearing.caught_up(10)
    expect(len(case.hearing.answers(first.token)) == 1, "one answer", case.seen(first))


@check(7)
async def twice_while_it_is_checked_out(case: Case) -> None:
    """If it is checked out, the worker says so again, with `again`."""
    first = await case.send("sleep", 8)
    await case.check_out_of(first, CHECKED_OUT)
    second = await case.send_again(first)
    said = await case.heard(lambda: case.hearing.check_outs(first.token)[1:], first, "a second `activity_started`")
    expect(said[0].again, "`again` true", said[0])
    await case.until_passed(second, "it is checked out")
    await case.value_of(first)
    await case.hearing.caught_up(10)
    expect(len(case.hearing.answers(first.token)) == 1, "one answer", case.seen(first))


@check(8, "own")
async def killed_before_its_check_out(case: Case) -> None:
    """What a killed worker had begun comes again, and is checked out before it begins once more."""
    first = await case.start_worker()
    again = await case.send("sleep", 2.5)
    await case.value_of(await case.send("echo", "begun"))  # so the one before it has begun
    await first.kill()
    expect(
        not case.hearing.about(again.token), "nothing to be said of it before the worker was killed", case.seen(again)
    )
    await case.installation.start_worker()
    began = await case.value_of(again)
    await expect_checked_out_first(case, again, began)
    await case.until_passed(again, "it is answered")


@check(8)
async def suspect(case: Case) -> None:
    """A command that says that it may have begun before is checked out before it begins."""
    sent = await case.send("sleep", 0.1, suspect=True)
    await expect_checked_out_first(case, sent, await case.value_of(sent))


async def expect_checked_out_first(case: Case, sent: Sent, began: float) -> None:
    """`began` is when the code began, in seconds since 1970."""
    [heard, *_] = case.hearing.about(sent.token)
    expect(isinstance(heard.message, ActivityStarted), "`activity_started` before the answer", case.seen(sent))
    expected = f"it to be checked out before its code begins, at {began * 1_000:.0f} ms"
    expect(heard.timestamp_ms <= began * 1_000, expected, f"it was at {heard.timestamp_ms} ms")
