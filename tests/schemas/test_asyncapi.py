"""The AsyncAPI document holds together, and what the services send is what it says."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema_rs import Draft202012Validator, meta
from tests.schemas.sent import IDENTITY, NOW, RUN, SCHEDULED, SENT, STARTED, TOPICS

from everstep._core.messages import messages_of
from everstep._core.model import HistoryRow
from everstep.admin.topics import FOREVER, queue_topic, topics_of
from everstep.settings import Settings
from everstep_orchestrator.pipeline.notices import Notices
from everstep_schemas.cloudevents import STRUCTURED, body, header
from everstep_schemas.events import encode_events

DOCUMENT: Any = json.loads((Path(__file__).parents[2] / "schemas" / "asyncapi.json").read_bytes())
CHANNELS, OPERATIONS = DOCUMENT["channels"], DOCUMENT["operations"]
MESSAGES, SCHEMAS = DOCUMENT["components"]["messages"], DOCUMENT["components"]["schemas"]
SETTINGS = Settings()


def validator(schema: Any) -> Draft202012Validator:
    return Draft202012Validator({**schema, "components": DOCUMENT["components"]}, validate_formats=True)


def references(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        for name, value in part.items():
            if name == "$ref":
                yield value
            else:
                yield from references(value)
    elif isinstance(part, list):
        for value in part:
            yield from references(value)


def resolved(reference: str) -> Any:
    part = DOCUMENT
    for step in reference.removeprefix("#/").split("/"):
        part = part[step]
    return part


def channel_of(topic: str) -> Any:
    """The channel whose address gives the topic."""
    [channel] = [one for one in CHANNELS.values() if re.fullmatch(_pattern(one["address"]), topic)]
    return channel


def _pattern(address: str) -> str:
    return re.escape(address).replace(r"\{queue\}", r"[^{}]+")


# ---- structure, by the rules of AsyncAPI 3.0


def test_has_the_parts_that_the_format_asks_for() -> None:
    assert DOCUMENT["asyncapi"] == "3.0.0"
    assert DOCUMENT["info"].keys() >= {"title", "version"}
    assert DOCUMENT.keys() <= {"asyncapi", "info", "defaultContentType", "channels", "operations", "components"}


def test_every_reference_leads_somewhere() -> None:
    found = set(references(DOCUMENT))
    assert len(found) > 50
    for reference in found:
        assert isinstance(resolved(reference), dict)


def test_every_component_has_a_legal_name_and_is_referred_to() -> None:
    found = set(references(DOCUMENT))
    for kind, components in DOCUMENT["components"].items():
        assert all(re.fullmatch(r"[a-zA-Z0-9._-]+", name) for name in components)
        unused = {name for name in components if f"#/components/{kind}/{name}" not in found}
        assert unused <= {"Lifecycle"}  # the whole of which every fact is a part


def test_every_address_names_its_parameters() -> None:
    for channel in CHANNELS.values():
        assert set(re.findall(r"\{(\w+)\}", channel["address"])) == channel.get("parameters", {}).keys()


def test_an_operation_only_uses_messages_of_its_channel() -> None:
    for operation in OPERATIONS.values():
        assert operation["action"] in ("send", "receive")
        assert operation["messages"]
        for part in (operation, *([operation["reply"]] if "reply" in operation else [])):
            start = part["channel"]["$ref"] + "/messages/"
            assert all(message["$ref"].startswith(start) for message in part["messages"])


def test_every_message_of_every_channel_is_sent_and_received() -> None:
    for name, channel in CHANNELS.items():
        for action in ("send", "receive"):
            uses = [one for one in OPERATIONS.values() if one["action"] == action]
            answers = [one["reply"] for one in OPERATIONS.values() if "reply" in one]
            used = {reference for one in (*uses, *answers) for reference in references(one["messages"])}
            assert {f"#/channels/{name}/messages/{message}" for message in channel["messages"]} <= used


@pytest.mark.parametrize("name", MESSAGES)
def test_headers_and_payload_are_schemas(name: str) -> None:
    message = MESSAGES[name]
    assert message["contentType"]
    assert message["summary"]
    for part in ("headers", "payload"):
        if part in message:
            meta.validate(message[part])
    assert message["headers"]["type"] == "object"


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_schema_is_one(name: str) -> None:
    meta.validate(SCHEMAS[name])


# ---- truth


@pytest.mark.parametrize("name", SENT)
def test_what_services_send_is_described(name: str) -> None:
    record, message = SENT[name], MESSAGES[name.split(",")[0]]
    assert name.split(",")[0] in channel_of(record.topic)["messages"]
    validator(message["headers"]).validate({key: value.decode() for key, value in record.headers})
    if "payload" in message:
        validator(message["payload"]).validate(json.loads(record.value))
    if record.key is not None:
        assert "bindings" in message


@pytest.mark.parametrize("name", SENT)
def test_a_record_s_ce_id_begins_with_its_correlation_id(name: str) -> None:
    location = MESSAGES[name.split(",")[0]].get("correlationId", {}).get("location")
    if location is not None:
        id = header(SENT[name].headers, "ce_id")
        assert id is not None
        assert json.loads(SENT[name].value)["token"] == id.partition("/")[0]


def test_answers_to_two_starts_are_two_events() -> None:
    notices = Notices(TOPICS, 3)
    answers = [notices.existing(RUN, asked) for asked in ("s1", "s2")]
    first = messages_of(IDENTITY, TOPICS, [HistoryRow(1, NOW, encode_events([STARTED]))], lambda _: SCHEDULED)
    assert len({header(message.headers, "ce_id") for message in (*first, *answers)}) == 3


def test_everything_but_submissions_is_sent_here() -> None:
    assert {name.split(",")[0] for name in SENT} == MESSAGES.keys() - set(CHANNELS["submissions"]["messages"])


def test_a_structured_submission_fits_and_is_read() -> None:
    submission = {"kind": "cancel", "workflow_id": "order-17"}
    event = {"specversion": "1.0", "id": "1", "source": "/shop", "type": "shop.cancelled", "data": submission}
    message = MESSAGES["structured_submission"]
    validator(message["payload"]).validate(event)
    assert not validator(message["payload"]).is_valid(event | {"data": {"kind": "stop"}})
    assert message["contentType"].encode() == STRUCTURED
    read, _ = body(json.dumps(event).encode(), [("content-type", STRUCTURED)])
    assert json.loads(read) == submission


def test_the_topics_are_those_that_migrate_creates() -> None:
    created = {topic.name: topic for topic in (*topics_of(SETTINGS, 8), queue_topic(SETTINGS, "queue"))}
    described = {channel["address"].format(queue="queue"): channel for channel in CHANNELS.values()}
    assert described.keys() == created.keys()
    for name, topic in created.items():
        kafka = described[name]["bindings"]["kafka"]
        retention = FOREVER if topic.retention is None else round(topic.retention.total_seconds() * 1000)
        assert kafka["topicConfiguration"] == {
            "cleanup.policy": [topic.config(1)["cleanup.policy"]],
            "retention.ms": retention,
        }
        assert kafka.get("partitions") == (1 if topic.fixed and topic.partitions == 1 else None)


def test_the_workers_group_is_the_real_one() -> None:
    assert OPERATIONS["work"]["bindings"]["kafka"]["groupId"]["const"] == TOPICS.worker_group("{queue}")
