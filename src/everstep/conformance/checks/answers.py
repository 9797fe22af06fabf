"""What activities are given, and what is answered."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET, Raw

from everstep.conformance._case import Case, expect
from everstep.conformance._installation import MAX_PAYLOAD_BYTES
from everstep.conformance._registry import check
from everstep_schemas.wire import encoder

ENVELOPE_BYTES = 100


@check(17)
async def result(case: Case) -> None:
    """A result comes back as it is."""
    value: dict[str, object] = {
        "text": 'Grüße 👋\u0000"\\',
        "numbers": [0, -1.5, 9_007_199_254_740_991],
        "nothing": None,
        "deep": [[[{}]]],
    }
    seen = await case.value_of(await case.send("echo", value))
    expect(seen == value, f"the value {value}", seen)


@check(17)
async def nothing(case: Case) -> None:
    """A result that is nothing is null."""
    seen = await case.value_of(await case.send("echo", None))
    expect(seen is None, "the value null", seen)


@check(9)
async def named_arguments(case: Case) -> None:
    """Arguments reach the activity by position and by name."""
    seen = [
        await case.value_of(await case.send("pair", 1, 2)),
        await case.value_of(await case.send("pair", 1, kwargs={"second": 2})),
        await case.value_of(await case.send("pair", kwargs={"second": 2, "first": 1})),
    ]
    expect(seen == [[1, 2]] * 3, "[1, 2] three times", seen)


@check(9)
async def unknown_fields(case: Case) -> None:
    """Fields of a command that the worker does not know are ignored."""
    command = case.installation.commands.make("echo", "as ever")
    fields: dict[str, Any] = msgspec.json.decode(encoder.encode(command))
    value = msgspec.json.encode({**fields, "of_a_later_version": {"any": "thing"}})
    seen = await case.value_of(await case.installation.send(command, case.partition, value))
    expect(seen == "as ever", "the value 'as ever'", seen)


@check(9)
async def attempt_info(case: Case) -> None:
    """The code learns its ids, the attempt's number, its idempotency key, and what the attempt before said last."""
    sent = await case.send("attempt_info", attempt=3, heartbeat=Raw(b'{"done":7}'))
    seen = await case.value_of(sent)
    command = sent.known
    expected = {
        "workflow_id": command.workflow_id,
        "run": 1,
        "attempt": 3,
        "idempotency_key": command.idempotency_key,
        "last_heartbeat": {"done": 7},
    }
    expect(seen == expected, str(expected), seen)
    first = await case.value_of(await case.send("attempt_info"))
    expect(first["last_heartbeat"] is None, "`last_heartbeat` null at a first attempt", first)


@check(17)
async def where_the_command_says(case: Case) -> None:
    """An answer goes to exactly the partition that the command names, with the workflow id as its key."""
    sent = await case.send("echo", 1)
    await case.answer(sent)
    [heard, *_] = case.hearing.about(sent.token)
    expected = (sent.known.reply_to.partition, sent.known.workflow_id.encode())
    expect((heard.partition, heard.key) == expected, f"partition and key {expected}", (heard.partition, heard.key))


@check(17)
async def ids(case: Case) -> None:
    """An answer echoes the ids and the token of its command."""
    good, bad = await case.send("echo", 1, attempt=2), await case.send("no_such_activity", attempt=2)
    for sent in (good, bad):
        answer = await case.answer(sent)
        command = sent.known
        expected = (command.workflow_id, command.run, command.seq, command.attempt)
        seen = (answer.workflow_id, answer.run, answer.seq, answer.attempt)
        expect(seen == expected, f"workflow_id, run, seq and attempt {expected}", seen)


@check(17)
async def declared_error(case: Case) -> None:
    """A declared error arrives under its name, final, with the fields that it is rebuilt from."""
    error = await case.error_of(await case.send("decline", "no credit"))
    seen = (error.type, error.message, error.retryable, _decoded(error.fields))
    expected = ("Declined", "no credit", False, ["no credit"])
    expect(seen == expected, f"type, message, retryable and fields {expected}", seen)


@check(17)
async def any_error(case: Case) -> None:
    """Any other error may be retried, and says where it was raised and what caused it."""
    error = await case.error_of(await case.send("fail", "disk full"))
    expect(error.retryable and error.type, "a type, and `retryable` true", error)
    expect("disk full" in error.message, "the message 'disk full'", error.message)
    expect(error.traceback, "a traceback", "none")
    cause = error.cause
    expect(cause and "the cause of disk full" in cause.message, "a cause, 'the cause of disk full'", cause)


@check(17)
async def retry_after(case: Case) -> None:
    """An error can say when to try again."""
    error = await case.error_of(await case.send("retry_after", 7))
    expect((error.retryable, error.retry_after_seconds) == (True, 7), "`retry_after_seconds` 7, retryable", error)


@check(6)
async def unknown_activity(case: Case) -> None:
    """An activity that is not here fails, and may be retried: another worker may have it."""
    error = await case.error_of(await case.send("no_such_activity"))
    expected = ("ActivityNotRegistered", True)
    expect((error.type, error.retryable) == expected, f"type and retryable {expected}", error)


@check(6)
async def bad_arguments(case: Case) -> None:
    """Arguments that do not fit are a final failure."""
    for arguments in (["soon"], []):
        error = await case.error_of(await case.send("sleep", *arguments))
        expected = ("everstep.errors.PayloadError", False)
        seen = (error.type, error.retryable)
        expect(seen == expected, f"type and retryable {expected} of `sleep` with the arguments {arguments}", seen)


@check(17)
async def too_large(case: Case) -> None:
    """A result over EVERSTEP_MAX_PAYLOAD_BYTES is a final failure; one below comes back whole."""
    fits = await case.value_of(await case.send("big", MAX_PAYLOAD_BYTES - ENVELOPE_BYTES))
    expect(len(fits) == MAX_PAYLOAD_BYTES - ENVELOPE_BYTES, "all characters", len(fits))
    error = await case.error_of(await case.send("big", MAX_PAYLOAD_BYTES + 1))
    expected = ("PayloadTooLarge", False)
    expect((error.type, error.retryable) == expected, f"type and retryable {expected}", error)


def _decoded(raw: Any) -> Any:
    return None if raw is UNSET else msgspec.json.decode(bytes(raw))
