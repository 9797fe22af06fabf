"""What holds all the time, looked at in everything that the other checks did; and what is no command."""

from __future__ import annotations

import asyncio

from everstep.conformance._case import Broken, Case, expect
from everstep.conformance._hearing import Answer
from everstep.conformance._registry import check
from everstep_schemas import cloudevents
from everstep_schemas.wire import ActivitiesRenewed, ActivityCompleted, ActivityStarted, ReplyTo

LATER_SECONDS = 2.0
GARBAGE = (b"\xff\xfe", b"", b"[]", b'"echo"', b'{"kind":"activity"}', b'{"token":7}', b"[" * 100_000)
HEADERS = ("reason", "detail", "topic", "partition", "offset")


@check(2)
async def not_before_the_acknowledgement(case: Case) -> None:
    """An answer that Kafka does not take yet keeps its command's offset, and holds up no other answer."""
    topic = f"{case.installation.topics.inbox}.later"
    sent = await case.send("echo", 1, reply_to=ReplyTo(topic, 0))
    await case.value_of(await case.send("echo", "behind it"))
    await asyncio.sleep(LATER_SECONDS)
    committed = (await case.installation.committed())[case.partition]
    if await case.installation.create_topic(topic):  # else this Kafka has created it by itself
        expect(committed <= sent.offset, f"the committed offset not to pass {sent}", committed)
    await case.until_passed(sent, "its answer can be said now")


@check(3)
async def garbage(case: Case) -> None:
    """What is no command is set aside, and holds up nothing."""
    sent = [await case.installation.send_garbage(value, case.partition) for value in GARBAGE]
    await case.value_of(await case.send("echo", "behind it"))
    await case.until_passed(sent[-1], "it is no command")
    await case.hearing.until(lambda: len(case.hearing.dead_letters) >= len(GARBAGE), 10)
    seen = [letter.value or b"" for letter in case.hearing.dead_letters]
    expect(sorted(seen) == sorted(GARBAGE), f"{len(GARBAGE)} dead letters with the original bytes", seen)


@check(3, "closing")
async def dead_letters(case: Case) -> None:
    """What is set aside says why and where it stood, before its own headers."""
    positions = {(one.partition, one.offset) for one in case.installation.sent if one.command is None}
    for letter in case.hearing.dead_letters:
        names = [name for name, _ in letter.headers]
        expect(names[:5] == [f"everstep_{name}" for name in HEADERS], f"first the headers {HEADERS}", names)
        expect("ce_id" in names[5:], "the record's own headers behind them", names)
        headers = dict(letter.headers)
        position = (int(headers["everstep_partition"]), int(headers["everstep_offset"]))
        expect(position in positions, f"one of the positions {positions}", position)


@check(17, "closing")
async def readable(case: Case) -> None:
    """Everything that is said can be read, and is about a command."""
    tokens = {sent.token for sent in case.installation.sent}
    for heard in case.hearing.records:
        if heard.message is None or not any(heard.concerns(token) for token in tokens):
            raise Broken("a message of docs/messages.md about a command that was sent", repr(heard.value[:1_000]))


@check(17, "closing")
async def once(case: Case) -> None:
    """No attempt is answered twice by the worker that runs it."""
    tokens = {sent.token for sent in case.installation.sent}
    twice = [token for token in tokens if len(case.hearing.answers(token)) > 1]
    expect(not twice, "one answer to each attempt", [case.hearing.answers(token) for token in twice])


@check(12, "closing")
async def renewed_where_it_belongs(case: Case) -> None:
    """A message that renews goes to the partition of the inbox that all its attempts are answered to."""
    homes = {sent.token: sent.command.reply_to.partition for sent in case.installation.sent if sent.command}
    for heard in case.hearing.records:
        if isinstance(heard.message, ActivitiesRenewed):
            tokens = (*heard.message.tokens, *heard.message.released)
            expect(
                all(homes[token] == heard.partition for token in tokens),
                f"only tokens of partition {heard.partition}",
                heard.value.decode(),
            )


@check(2, "closing")
async def never_too_far(case: Case) -> None:
    """The committed offset never passes a command that is neither answered, checked out nor cancelled."""
    expect(not case.installation.lost, "none", "; ".join(case.installation.lost))
    for last in {one.partition: one for one in case.installation.sent}.values():
        await case.until_passed(last, "nothing is under way any more")


@check(1, "closing")
async def group(case: Case) -> None:
    """The queue is read from its beginning, and offsets are committed in the workers' group."""
    committed = await case.installation.committed()
    used = {one.partition for one in case.installation.sent}
    expect(all(committed[number] for number in used), "a committed offset in every partition that was used", committed)


@check(16, "closing")
async def order(case: Case) -> None:
    """What is said of an attempt keeps its order: first the check-out, if there is one, and last the answer."""
    for token in {sent.token for sent in case.installation.sent}:
        said = [heard.message for heard in case.hearing.about(token)]
        if any(isinstance(message, ActivitiesRenewed) for message in said):
            expect(isinstance(said[0], ActivityStarted), "the check-out before renewals", said)
        if any(isinstance(message, Answer) for message in said):
            expect(isinstance(said[-1], Answer), "nothing after the answer", said)


@check(20, "closing")
async def cloud_events(case: Case) -> None:
    """Records are CloudEvents in binary mode; an answer has the token as its id."""
    for heard in case.hearing.records:
        if isinstance(heard.message, Answer):
            kind = "completed" if isinstance(heard.message, ActivityCompleted) else "failed"
            expected = {
                "ce_specversion": "1.0",
                "ce_type": f"everstep.activity.{kind}",
                "ce_id": heard.message.token,
            }
            seen = {name: cloudevents.header(heard.headers, name) for name in expected}
            expect(seen == expected and cloudevents.header(heard.headers, "ce_source"), str(expected), seen)
