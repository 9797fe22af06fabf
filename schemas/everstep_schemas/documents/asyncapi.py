"""The AsyncAPI 3.0 document: all topics, what they carry, who writes and reads them, and what is promised."""

from __future__ import annotations

from collections.abc import Sequence

from everstep_schemas.documents.messages import JSON, KAFKA, messages
from everstep_schemas.documents.structs import Schema, Structs
from everstep_schemas.documents.topics import ANSWERS, CHANNELS, OPERATIONS, TOPICS, Operation, Topic

_VERSION = "1"
_DESCRIPTION = (
    "The Kafka topics of Everstep, durable execution on your own Kafka and PostgreSQL.\n\n"
    "Addresses have the default prefix; EVERSTEP_TOPIC_PREFIX changes it. Bodies are JSON in UTF-8, instants are RFC"
    " 3339 in UTC. Everstep writes CloudEvents 1.0 in binary mode (headers `ce_*`). Delivery is at least once. Readers"
    " ignore fields and types that they do not know; in submissions an unknown field is an error.\n\n"
    "Each operation is tagged with the role that performs it: a `client` is any program that uses Everstep, `worker`"
    " and `orchestrator` are its services."
)


def document() -> Schema:
    """The whole document."""
    structs = Structs("#/components/schemas/")
    components = {"messages": messages(structs), "schemas": structs.schemas}
    return {
        "asyncapi": "3.0.0",
        "info": {"title": "Everstep", "version": _VERSION, "description": _DESCRIPTION},
        "defaultContentType": JSON,
        "channels": {name: _channel(name, topic) for name, topic in CHANNELS.items()},
        "operations": {name: _operation(operation) for name, operation in OPERATIONS.items()},
        "components": components,
    }


def _channel(name: str, topic: Topic) -> Schema:
    configuration = {"cleanup.policy": ["delete"], "retention.ms": topic.retention_ms}
    fixed = {} if topic.partitions is None else {"partitions": topic.partitions}
    queue = {"queue": {"description": "An activity's queue: 1 to 200 letters, digits, '.', '_' and '-'."}}
    return {
        "address": topic.address,
        "description": f"{topic.description}\n\nWritten by: {_who(name, 'send')}. Read by: {_who(name, 'receive')}.",
        "messages": {message: {"$ref": f"#/components/messages/{message}"} for message in topic.messages},
        **({"parameters": queue} if "{queue}" in topic.address else {}),
        "bindings": {"kafka": {**fixed, "topicConfiguration": configuration, "bindingVersion": KAFKA}},
    }


def _who(channel: str, action: str) -> str:
    """The roles that do so, workers' answers included."""
    roles = {one.role for one in OPERATIONS.values() if (one.topic, one.action) == (channel, action)}
    answering = {"worker"} if (channel, action) == ("inbox", "send") else set()
    return ", ".join(f"{role}s" for role in sorted(roles | answering))


def _operation(operation: Operation) -> Schema:
    body: Schema = {
        "action": operation.action,
        "channel": {"$ref": f"#/channels/{operation.topic}"},
        "summary": operation.summary,
        "tags": [{"name": operation.role}],
        "messages": _references(operation.topic, operation.messages or CHANNELS[operation.topic].messages),
    }
    if operation.topic == "activities":
        body["reply"] = {
            "address": {"location": "$message.payload#/reply_to/topic"},
            "channel": {"$ref": "#/channels/inbox"},
            "messages": _references("inbox", ANSWERS),
        }
    if (operation.topic, operation.action) == ("activities", "receive"):
        group = {"type": "string", "const": TOPICS.worker_group("{queue}")}
        body["bindings"] = {"kafka": {"groupId": group, "bindingVersion": KAFKA}}
    return body


def _references(channel: str, names: Sequence[str]) -> list[Schema]:
    return [{"$ref": f"#/channels/{channel}/messages/{name}"} for name in names]
