"""Messages follow from events alone, the same at every publication."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Raw
from tests.engine.golden import SCRIPTS
from tests.engine.kit import NOW

from everstep._core.engine import HistoryRow, Identity
from everstep._core.messages import messages_of, references
from everstep_schemas import events, names, wire
from everstep_schemas.cloudevents import header
from everstep_schemas.errors import ErrorInfo
from everstep_schemas.events import AnyEvent, encode_events
from everstep_schemas.names import Token, Topics
from everstep_schemas.wire import LifecycleType, Outgoing

IDENTITY = Identity(names.run_key(5, 9), "order 17", 2, "fulfil", 3, "abcdef")
TOPICS = Topics("shop")
CHARGE = events.ActivityScheduled(name="charge", queue="pay", args=Raw(b"[1]"), kwargs=Raw(b'{"gift":true}'))


def messages(*happened: AnyEvent, seq: int = 4) -> list[Outgoing]:
    row = HistoryRow(seq, NOW, encode_events(list(happened)))
    return messages_of(IDENTITY, TOPICS, [row], lambda ref: CHARGE)


def body(message: Outgoing) -> Any:
    return msgspec.json.decode(message.value)


def test_a_command_carries_everything_a_worker_needs() -> None:
    (message,) = messages(CHARGE)
    assert (message.topic, message.partition, message.key) == ("shop.activities.pay", None, None)
    command = msgspec.json.decode(message.value, type=wire.ActivityCommand)
    token = Token.parse(command.token)
    assert token == Token(5, IDENTITY.run_key, 4, 1, "abcdef")
    assert str(token) == command.token == header(message.headers, "ce_id")
    assert (command.workflow_id, command.run, command.seq, command.attempt) == ("order 17", 2, 4, 1)
    assert (command.activity, command.workflow, command.reply_to) == (
        "charge",
        "fulfil",
        wire.ReplyTo("shop.inbox", 5),
    )
    assert command.idempotency_key == "order 17/2/4"
    assert bytes(command.args) == b"[1]"
    assert isinstance(command.kwargs, Raw)
    assert bytes(command.kwargs) == b'{"gift":true}'


def test_a_retry_is_the_same_command_with_another_attempt() -> None:
    (first,) = messages(CHARGE)
    (again,) = messages(events.ActivityRetried(ref=4, attempt=2), seq=9)
    assert body(again) == body(first) | {"attempt": 2, "token": body(first)["token"].replace(".4.1.", ".4.2.")}


def test_a_cancellation_goes_to_all_workers() -> None:
    (message,) = messages(events.ActivityCancelled(ref=4, attempt=3))
    assert message.topic == "shop.control"
    assert body(message) == {"kind": "cancel", "token": str(Token(5, IDENTITY.run_key, 4, 3, "abcdef"))}


def test_facts_are_published_under_the_workflow_id_with_their_position() -> None:
    error = ErrorInfo(type="E", message="m")
    facts: dict[str, tuple[AnyEvent, dict[str, Any]]] = {
        LifecycleType.STARTED: (
            events.Started(workflow="fulfil", version=3, nonce="abcdef", source="s-1", python="3.11.7"),
            {"submission_id": "s-1"},
        ),
        LifecycleType.COMPLETED: (events.Completed(value=Raw(b'{"ok":1}')), {"result": {"ok": 1}}),
        LifecycleType.FAILED: (events.Failed(error=error), {"error": {"type": "E", "message": "m"}}),
        LifecycleType.CANCELLED: (events.Cancelled(reason="r"), {"reason": "r"}),
        LifecycleType.TERMINATED: (events.Terminated(reason="t"), {"reason": "t"}),
        LifecycleType.STATUS_CHANGED: (events.StatusSet(text="packing"), {"status": "packing"}),
        LifecycleType.ACTIVITY_FAILED: (
            events.ActivityFailed(ref=2, error=error, attempt=2),
            {"error": {"type": "E", "message": "m"}, "activity": "charge", "attempt": 2},
        ),
    }
    for type, (event, fields) in facts.items():
        (message,) = messages(event)
        assert (message.topic, message.partition, message.key) == ("shop.lifecycle", 5, b"order 17")
        assert (header(message.headers, "ce_type"), header(message.headers, "ce_id")) == (type, "order 17/2/4")
        common = {"workflow_id": "order 17", "run": 2, "seq": 4, "workflow": "fulfil", "version": 3}
        assert body(message) == common | {"at": "2023-11-14T22:13:20Z"} | fields


def test_the_trace_of_a_start_goes_on() -> None:
    started = events.Started(workflow="w", version=1, nonce="n", source="s", python="3", traceparent="00-1-2-01")
    (message,) = messages(started)
    assert header(message.headers, "traceparent") == "00-1-2-01"


def test_events_that_concern_nobody_else_send_nothing() -> None:
    assert (
        messages(
            events.TimerFired(ref=1),
            events.SignalReceived(name="s", value=Raw(b"1"), signal_id="1"),
            events.CancelRequested(),
            events.ActivityCompleted(ref=1, value=Raw(b"1")),
            events.TimerCancelled(ref=1),
            events.SignalAwaited(name="s"),
            events.WaitCancelled(ref=1),
        )
        == []
    )


def test_publishing_again_from_history_gives_the_same_bytes_in_the_same_order() -> None:
    for name, script in SCRIPTS.items():
        case = script()
        scheduled = {n: e for n, e in enumerate(case.history, 1) if isinstance(e, events.ActivityScheduled)}
        assert messages_of(case.identity, Topics(), case.rows, scheduled.__getitem__) == case.messages, name


def test_references_are_what_has_to_be_looked_up() -> None:
    case = SCRIPTS["order_shipped"]()
    assert references(case.rows) == [2, 2, 2, 2]
