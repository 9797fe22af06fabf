"""Bytes from anybody: understood, refused or dead, and never an exception."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import Raw

from everstep._core.reception import Request
from everstep_orchestrator.pipeline.incoming import Dead, Elsewhere, Incoming, Reader, Refused, Result
from everstep_schemas import wire
from everstep_schemas.names import Token, shard_of

SHARDS = 4
READER = Reader(SHARDS, max_payload_bytes=1000)


@dataclass(frozen=True)
class Record:
    value: bytes | None
    partition: int = shard_of("order-17", SHARDS)
    topic: str = "everstep.submissions"
    offset: int = 42
    key: bytes | None = None
    headers: Sequence[tuple[str, bytes]] = field(default=())


def start(**fields: Any) -> dict[str, Any]:
    return {"kind": "start", "workflow": "fulfil_order", "workflow_id": "order-17", "args": [1], **fields}


def read(body: object, **record: Any) -> Incoming:
    value = body if isinstance(body, bytes) else json.dumps(body).encode()
    return READER.submission(Record(value, **record))


def test_a_start_is_identified_by_its_position() -> None:
    incoming = read(start())
    assert isinstance(incoming, Request)
    assert incoming.source == "everstep.submissions/0/42".replace("/0/", f"/{shard_of('order-17', SHARDS)}/")


def test_a_submission_id_is_the_identity() -> None:
    incoming = read(start(submission_id="s1"))
    assert isinstance(incoming, Request)
    assert incoming.source == "s1"


def test_a_submission_in_another_partition_keeps_the_identity_it_had_there() -> None:
    mine = shard_of("order-17", SHARDS)
    other = (mine + 1) % SHARDS
    incoming = read(start(), partition=other)
    assert isinstance(incoming, Elsewhere)
    assert incoming.shard == mine
    forwarded = READER.inbox(Record(wire.encoder.encode(incoming.message), partition=mine, topic="everstep.inbox"))
    assert isinstance(forwarded, Request)
    assert forwarded.source == f"everstep.submissions/{other}/42"
    assert isinstance(forwarded.submission, wire.Start)
    assert bytes(forwarded.submission.args) == b"[1]"


def test_structured_cloudevents_carry_the_same() -> None:
    event = {"specversion": "1.0", "type": "x", "source": "y", "id": "1", "data": start(), "traceparent": "00-a-b-01"}
    incoming = read(event, headers=[("content-type", b"application/cloudevents+json; charset=UTF-8")])
    assert isinstance(incoming, Request)
    assert incoming.traceparent == "00-a-b-01"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "not_json"),
        (b"not json", "not_json"),
        (b'{"kind":"start","workflow_id":"order-17","workflow":"w","args":["\xff"]}', "not_json"),
        (b"[" * 10_000 + b"]" * 10_000, "invalid"),
        (b'{"kind":"start","workflow_id":"order-17","workflow":"w","args":' + b"[" * 100_000, "too_deep"),
        ({"kind": "start", "workflow_id": "order-17"}, "invalid"),
        (start(color="red"), "invalid"),
        (start(version="two"), "invalid"),
        ({"kind": "explode", "workflow_id": "order-17"}, "invalid"),
        (start(workflow_id=""), "invalid"),
        (start(workflow_id="a\x00b"), "invalid"),
        (start(workflow_id="x" * 513), "invalid"),
        (b'{"kind":"cancel","workflow_id":"\\ud800"}', "not_json"),
    ],
)
def test_what_cannot_be_understood_is_dead(body: object, reason: str) -> None:
    incoming = read(body)
    assert isinstance(incoming, Dead)
    assert incoming.reason == reason
    assert incoming.detail


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (start(args={"a": 1}), "args must be a JSON array"),
        (start(kwargs=[1]), "kwargs must be a JSON object"),
        (start(args=["x" * 2000]), "EVERSTEP_MAX_PAYLOAD_BYTES"),
        (start(workflow="a\nb"), "control character"),
        (start(submission_id=""), "0 bytes"),
        (start(version=0), "versions count from 1"),
        (start(version=1 << 31), "versions count from 1"),
        ({"kind": "signal", "workflow_id": "order-17", "name": "n", "value": "x" * 2000}, "EVERSTEP_MAX_PAYLOAD_BYTES"),
    ],
)
def test_what_asks_for_the_impossible_is_refused_with_the_reason(body: object, says: str) -> None:
    incoming = read(body)
    assert isinstance(incoming, Refused)
    assert says in incoming.reason


def test_a_result_is_found_by_its_token() -> None:
    token = Token(2, 2 << 48 | 7, 5, 1, "abc")
    message = wire.ActivityCompleted(workflow_id="w", run=1, seq=5, attempt=1, token=str(token))
    incoming = READER.inbox(Record(wire.encoder.encode(message), partition=2))
    assert isinstance(incoming, Result)
    assert incoming.token == token


@pytest.mark.parametrize(
    "token",
    [
        "nonsense",
        str(Token(1, 1 << 48 | 7, 5, 1, "abc")),  # another shard's
        str(Token(2, 1 << 48 | 7, 5, 1, "abc")),
        str(Token(2, 1 << 80, 5, 1, "abc")),  # beyond what Postgres calls a bigint
        str(Token(2, -1, 5, 1, "abc")),
    ],
)
def test_a_made_up_token_is_dead(token: str) -> None:
    message = wire.ActivityCompleted(workflow_id="w", run=1, seq=5, attempt=1, token=token)
    assert isinstance(READER.inbox(Record(wire.encoder.encode(message), partition=2)), Dead)


@pytest.mark.parametrize(("workflow_id", "partition"), [("order-17", -1), ("a\0b", 0)])
def test_what_was_forwarded_to_the_wrong_place_is_dead(workflow_id: str, partition: int) -> None:
    submission = Raw(json.dumps({"kind": "terminate", "workflow_id": workflow_id}).encode())
    message = wire.Forwarded(workflow_id=workflow_id, source="s", submission=submission)
    assert isinstance(READER.inbox(Record(wire.encoder.encode(message), partition=partition)), Dead)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
FIELDS = st.sampled_from(["kind", "workflow", "workflow_id", "args", "kwargs", "name", "value", "token", "seq"])


# Other processes may hold the cores: only what is found counts, not how quickly.
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary() | st.builds(lambda d: json.dumps(d).encode(), st.dictionaries(FIELDS, JSON)))
def test_no_bytes_raise(value: bytes) -> None:
    READER.submission(Record(value))
    READER.inbox(Record(value))
