"""The messages of all topics: headers, key and body of each."""

from __future__ import annotations

from typing import get_args

from everstep_schemas import cloudevents, wire
from everstep_schemas.documents.lifecycle import KINDS
from everstep_schemas.documents.structs import Schema, Structs

JSON = "application/json"
KAFKA = "0.5.0"

_BY_ID = "The workflow id."
_TOKEN = {"correlationId": {"location": "$message.payload#/token"}}
_TRACEPARENT = {"type": "string", "description": "W3C Trace Context."}


def messages(structs: Structs) -> dict[str, Schema]:
    """Every message by name; the structs of the bodies are collected in `structs`."""
    command, control = structs.refer(wire.ActivityCommand), structs.refer(wire.Control)
    return {
        **_submissions(structs),
        "activity_command": _sent("One attempt to execute.", command, "everstep.activity.command") | _TOKEN,
        **{_tag(member): _inbox(structs, member) for member in get_args(wire.InboxMessage)},
        "control": _sent("An attempt that nobody waits for.", control, "everstep.activity.cancel"),
        **_facts(structs),
        "dead_letter": _dead_letter(),
    }


def _tag(member: type[wire.Inbox]) -> str:
    return str(member.__struct_config__.tag)


def _inbox(structs: Structs, member: type[wire.Inbox]) -> Schema:
    """A message to a run. One that answers carries the token of what it answers as its identity."""
    key = _BY_ID if "workflow_id" in member.__struct_fields__ else None
    message = _sent(_INBOX[member], structs.refer(member), wire.INBOX_TYPES[member], key)
    answers = "token" in member.__struct_fields__ and member is not wire.ChildEnd
    return message | (_TOKEN if answers else {})


_INBOX: dict[type[wire.Inbox], str] = {
    wire.ActivityStarted: "A worker checks an attempt out.",
    wire.ActivitiesRenewed: "A worker still runs these attempts.",
    wire.ActivityCompleted: "An attempt's result.",
    wire.ActivityFailed: "An attempt's error.",
    wire.Forwarded: "A submission in another partition, or of a run.",
    wire.ChildStart: "A run starts another as its child.",
    wire.ChildEnd: "A run no longer wants its child to go on.",
    wire.ChildCompleted: "A child's result, for its parent.",
    wire.ChildFailed: "Why a child has no result, for its parent.",
    wire.RequestAnswered: "Whether what a run sent to another one reached it.",
}


def _submissions(structs: Structs) -> dict[str, Schema]:
    references = {member.__struct_config__.tag: structs.refer(member) for member in get_args(wire.AnySubmission)}
    plain = {
        str(kind): {
            "summary": f"Plain JSON, or a CloudEvent in binary mode, that asks to {str(kind).replace('_', ' a ')}.",
            "contentType": JSON,
            "headers": {
                "type": "object",
                "description": "None is needed; other CloudEvents attributes are not looked at.",
                "properties": {"traceparent": _TRACEPARENT},
            },
            "payload": reference,
            "bindings": _key("Anything; the workflow id keeps the order of what concerns one id."),
        }
        for kind, reference in references.items()
    }
    return {**plain, "structured_submission": _structured(list(references.values()))}


def _structured(submissions: list[Schema]) -> Schema:
    media_type = cloudevents.STRUCTURED.decode()
    return {
        "summary": "Any submission as a CloudEvent in structured mode.",
        "contentType": media_type,
        "headers": {
            "type": "object",
            "properties": {"content-type": {"type": "string", "description": f"Begins with {media_type}."}},
            "required": ["content-type"],
        },
        "payload": {
            "type": "object",
            "properties": {
                "specversion": {"type": "string"},
                "data": {"oneOf": submissions},
                "traceparent": _TRACEPARENT,
            },
            "required": ["specversion", "data"],
        },
    }


def _facts(structs: Structs) -> dict[str, Schema]:
    structs.refer(wire.Lifecycle)
    whole = structs.schemas["Lifecycle"]
    structs.schemas |= {kind.type: kind.schema(whole) for kind in KINDS}
    return {
        kind.type: _sent(kind.description, {"$ref": f"#/components/schemas/{kind.type}"}, kind.type, _BY_ID)
        for kind in KINDS
    }


def _dead_letter() -> Schema:
    own = {
        "everstep_reason": "A short word.",
        "everstep_detail": "A sentence for people.",
        "everstep_topic": "The topic it was read from, or meant for.",
        "everstep_partition": "Absent from what was meant for a topic.",
        "everstep_offset": "Absent from what was meant for a topic.",
    }
    return {
        "summary": "The original bytes.",
        "contentType": "application/octet-stream",
        "headers": {
            "type": "object",
            "description": "After these, the original headers.",
            "properties": {name: {"type": "string", "description": text} for name, text in own.items()},
            "required": ["everstep_reason", "everstep_detail", "everstep_topic"],
        },
        "bindings": _key("The original key, if there was one."),
    }


def _sent(summary: str, payload: Schema, ce_type: str, key: str | None = None) -> Schema:
    """A message that Everstep writes."""
    message: Schema = {"summary": summary, "contentType": JSON, "headers": _headers(ce_type), "payload": payload}
    return message if key is None else message | {"bindings": _key(key)}


def _headers(ce_type: str) -> Schema:
    fixed = {name: value.decode() for name, value in cloudevents.headers(ce_type, "")}
    ce_id = {"type": "string", "description": "The same at every publication."}
    constants = {name: {"const": value} for name, value in fixed.items()}
    return {
        "type": "object",
        "properties": {**constants, "ce_id": ce_id, "traceparent": _TRACEPARENT},
        "required": list(fixed),
    }


def _key(description: str) -> Schema:
    return {"kafka": {"key": {"type": "string", "description": description}, "bindingVersion": KAFKA}}
