"""CloudEvents 1.0, Kafka protocol binding: binary mode out, binary and structured mode in."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec import Raw

Headers = Sequence[tuple[str, bytes]]
STRUCTURED = b"application/cloudevents+json"

_FIXED = (("content-type", b"application/json"), ("ce_specversion", b"1.0"), ("ce_source", b"/everstep"))


def headers(type: str, id: str, traceparent: str | None = None) -> tuple[tuple[str, bytes], ...]:
    """The headers of a CloudEvent in binary mode; `id` is the same at every publication."""
    own = (*_FIXED, ("ce_type", type.encode()), ("ce_id", id.encode()))
    return own if traceparent is None else (*own, ("traceparent", traceparent.encode()))


def header(headers: Headers, name: str) -> str | None:
    """The value of a header as text, or None if it is absent or not UTF-8."""
    for key, value in headers:
        if key.lower() == name and value is not None:
            try:
                return value.decode()
            except UnicodeDecodeError:
                return None
    return None


class _Structured(msgspec.Struct):
    specversion: str
    data: Raw
    traceparent: str | None = None


_structured = msgspec.json.Decoder(_Structured)


def body(value: bytes, headers: Headers) -> tuple[bytes, str | None]:
    """The JSON body of a record and its traceparent, whichever of the two modes it came in, or plain."""
    content_type = next((v for k, v in headers if k.lower() == "content-type"), b"")
    if content_type.startswith(STRUCTURED):
        event = _structured.decode(value)
        return bytes(event.data), event.traceparent or header(headers, "traceparent")
    return value, header(headers, "traceparent")
