"""CloudEvents in binary mode out; binary, structured and plain in."""

from __future__ import annotations

import json

import msgspec
import pytest

from everstep_schemas import cloudevents

TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
DATA = b'{"kind":"cancel", "workflow_id":"order-17"}'
STRUCTURED = ("content-type", b"application/cloudevents+json")


def event(**more: object) -> bytes:
    attributes = {"specversion": "1.0", "id": "1", "source": "/shop", "type": "shop.cancelled", **more}
    return json.dumps(attributes).encode()[:-1] + b', "data": ' + DATA + b"}"


def test_the_headers_that_cloudevents_ask_for() -> None:
    headers = dict(cloudevents.headers("everstep.run.started", "order-17/1/1"))
    assert headers.keys() >= {"ce_specversion", "ce_type", "ce_source", "ce_id", "content-type"}
    assert headers["ce_specversion"] == b"1.0"
    assert "traceparent" not in headers


def test_a_trace_goes_on_in_its_header() -> None:
    headers = cloudevents.headers("t", "ß", TRACEPARENT)
    assert cloudevents.header(headers, "traceparent") == TRACEPARENT
    assert cloudevents.header(headers, "ce_id") == "ß"


@pytest.mark.parametrize(
    ("headers", "value"),
    [
        ([], None),
        ([("other", b"x")], None),
        ([("ce_type", b"x"), ("ce_type", b"y")], "x"),
        ([("CE_Type", b"x")], "x"),
        ([("ce_type", b"")], ""),
        ([("ce_type", b"\xff")], None),
    ],
)
def test_a_header_as_text(headers: cloudevents.Headers, value: str | None) -> None:
    assert cloudevents.header(headers, "ce_type") == value


@pytest.mark.parametrize(
    "headers",
    [
        (),
        (("content-type", b"application/json"),),
        cloudevents.headers("shop.cancelled", "1"),
    ],
)
def test_a_plain_or_binary_body_is_the_value(headers: cloudevents.Headers) -> None:
    assert cloudevents.body(DATA, headers) == (DATA, None)
    assert cloudevents.body(DATA, (*headers, ("traceparent", TRACEPARENT.encode()))) == (DATA, TRACEPARENT)


@pytest.mark.parametrize("type", [b"application/cloudevents+json", b"application/cloudevents+json; charset=UTF-8"])
@pytest.mark.parametrize("name", ["content-type", "Content-Type"])
def test_a_structured_body_is_the_data_byte_for_byte(name: str, type: bytes) -> None:
    assert cloudevents.body(event(), [(name, type)]) == (DATA, None)


def test_the_event_s_own_trace_comes_before_the_record_s() -> None:
    record = ("traceparent", TRACEPARENT.encode())
    own = TRACEPARENT.replace("4bf9", "aaaa")
    assert cloudevents.body(event(), [STRUCTURED, record]) == (DATA, TRACEPARENT)
    assert cloudevents.body(event(traceparent=own), [STRUCTURED, record]) == (DATA, own)


@pytest.mark.parametrize(
    "value", [b"", b"null", b"{", b'{"specversion": "1.0"}', b'{"data": {}}', event(specversion=1)]
)
def test_a_structured_event_that_is_none_is_an_error(value: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        cloudevents.body(value, [STRUCTURED])
