"""The generated documents are current, and say what the code does."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import pytest
from jsonschema_rs import Draft202012Validator, meta
from tests.schemas.examples import recorded
from tests.schemas.sent import SENT, Record

from everstep._core.reception import Request
from everstep_orchestrator.pipeline.incoming import Elsewhere, Reader
from everstep_schemas import wire
from everstep_schemas.documents.files import files
from everstep_schemas.documents.lifecycle import KINDS
from everstep_schemas.names import shard_of
from everstep_schemas.wire import LifecycleType

DIRECTORY = Path(__file__).parents[2] / "schemas"
HOW = "run `python -m everstep_schemas.documents schemas`"
FROM_WORKERS = {"activity_started", "activities_renewed", "activity_completed", "activity_failed"}
TYPES = {value for name, value in vars(LifecycleType).items() if name.isupper()}


def schema(document: str) -> Any:
    return json.loads((DIRECTORY / "jsonschema" / f"{document}.json").read_bytes())


def validator(document: str, part: str | None = None) -> Draft202012Validator:
    """Of a whole document or of one of its definitions; formats count."""
    whole = schema(document)
    chosen = whole if part is None else {"$ref": f"#/$defs/{part}", "$defs": whole["$defs"]}
    return Draft202012Validator(chosen, validate_formats=True)


@pytest.mark.parametrize("name", files())
def test_what_is_checked_in_is_current(name: str) -> None:
    assert (DIRECTORY / name).read_bytes() == files()[name], HOW


def test_nothing_else_lies_beside_it() -> None:
    assert {f"jsonschema/{path.name}" for path in DIRECTORY.glob("jsonschema/*")} == files().keys() - {"asyncapi.json"}


def test_the_command_writes_the_same(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "everstep_schemas.documents", str(tmp_path)], check=True)
    written = {str(path.relative_to(tmp_path)): path.read_bytes() for path in tmp_path.rglob("*.json")}
    assert written == files()


@pytest.mark.parametrize("document", [Path(name).stem for name in files() if "/" in name])
def test_every_document_is_a_schema(document: str) -> None:
    meta.validate(schema(document))


# ---- what fits


def golden(*groups: str) -> list[tuple[str, Any]]:
    return [(name, json.loads(body)) for group in groups for name, body in recorded(group).items()]


@pytest.mark.parametrize(
    ("document", "body"),
    [("submission", body) for _, body in golden("submissions")]
    + [("activity_command", body) for _, body in golden("commands")]
    + [("control", body) for _, body in golden("control")]
    + [("lifecycle", body) for _, body in golden("lifecycle")]
    + [("activity_result" if body["kind"] in FROM_WORKERS else "inbox", body) for _, body in golden("inbox")],
)
def test_golden_messages_fit(document: str, body: Any) -> None:
    validator(document).validate(body)


@pytest.mark.parametrize(("name", "body"), golden("lifecycle"))
def test_golden_facts_fit_their_type(name: str, body: Any) -> None:
    validator("lifecycle", name.split(",")[0]).validate(body)


@pytest.mark.parametrize("name", [name for name in SENT if name.split(",")[0] in TYPES])
def test_what_services_send_has_exactly_the_fields_of_its_type(name: str) -> None:
    """A field that the document does not name would be tolerated by readers and never be known to them."""
    kind, body = name.split(",")[0], json.loads(SENT[name].value)
    validator("lifecycle", kind).validate(body)
    assert body.keys() <= schema("lifecycle")["$defs"][kind]["properties"].keys()


def test_every_lifecycle_type_is_described_and_sent() -> None:
    assert {kind.type for kind in KINDS} == TYPES
    assert {name.split(",")[0] for name in SENT} >= TYPES


def test_every_message_and_field_of_a_union_is_in_the_document() -> None:
    for document, union in (("submission", wire.AnySubmission), ("activity_result", wire.ActivityResult)):
        for member in get_args(union):
            described = schema(document)["$defs"][member.__name__]
            assert described["properties"].keys() == {"kind", *member.__struct_encode_fields__}
            assert described["description"]


# ---- what does not

START: dict[str, Any] = {"kind": "start", "workflow": "w", "workflow_id": "order-17"}
SIGNAL: dict[str, Any] = {"kind": "signal", "name": "n", "workflow_id": "order-17"}
WRONG: Sequence[Any] = [
    [],
    "start",
    {},
    {"kind": "begin", "workflow_id": "order-17"},
    {"workflow": "w", "workflow_id": "order-17"},
    {"kind": "start", "workflow": "w"},
    {"kind": "signal", "workflow_id": "order-17"},
    {"kind": "cancel"},
    {"kind": "cancel", "workflow_id": "order-17", "reason": None},
    {"kind": "terminate", "workflow_id": 17},
    START | {"surprise": 1},
    START | {"workflow_id": ""},
    START | {"workflow_id": "x" * 513},
    START | {"workflow_id": "two\nlines"},
    START | {"workflow_id": "\x7f"},
    START | {"workflow_id": "\x9f"},
    START | {"workflow": "\x00"},
    START | {"submission_id": ""},
    START | {"args": {}},
    START | {"args": None},
    START | {"kwargs": []},
    START | {"kwargs": None},
    START | {"version": 0},
    START | {"version": 1 << 31},
    START | {"version": "1"},
    START | {"on_duplicate": "retry"},
    START | {"on_duplicate": None},
    SIGNAL | {"name": "\t"},
    SIGNAL | {"signal_id": "x" * 513},
]
RIGHT: Sequence[Any] = [
    START,
    START | {"workflow_id": "x" * 512},
    START | {"workflow_id": "ß 🎁 \u2028"},
    START | {"version": None, "submission_id": None},
    START | {"version": (1 << 31) - 1},
    SIGNAL,
    SIGNAL | {"signal_id": None, "value": None},
]


def orchestrator_takes(body: Any) -> bool:
    shards = 4
    record = Record("everstep.submissions", json.dumps(body).encode(), shard_of("order-17", shards))
    return isinstance(Reader(shards, 1000).submission(record), Request | Elsewhere)


@pytest.mark.parametrize("body", WRONG)
def test_a_wrong_submission_fits_neither_the_document_nor_the_orchestrator(body: Any) -> None:
    assert not validator("submission").is_valid(body)
    assert not orchestrator_takes(body)


@pytest.mark.parametrize("body", RIGHT)
def test_a_right_submission_fits_both(body: Any) -> None:
    validator("submission").validate(body)
    assert orchestrator_takes(body)


@pytest.mark.parametrize(
    ("document", "body"),
    [
        ("control", {"kind": "pause", "token": "t"}),
        ("control", {"kind": "cancel"}),
        ("activity_command", {"workflow_id": "order-17"}),
        ("activity_command", json.loads(recorded("commands")["activity_command"]) | {"reply_to": "everstep.inbox"}),
        ("activity_command", json.loads(recorded("commands")["activity_command"]) | {"deadline": "tomorrow"}),
        ("activity_result", json.loads(recorded("inbox")["activity_completed"]) | {"kind": "activity_done"}),
        ("activity_result", json.loads(recorded("inbox")["activity_completed"]) | {"seq": "2"}),
        ("activity_result", json.loads(recorded("inbox")["activity_failed"]) | {"error": {"message": "no type"}}),
        ("inbox", {"kind": "forwarded", "workflow_id": "order-17"}),
        ("lifecycle", {"workflow_id": "order-17", "run": 1, "seq": 1}),
    ],
)
def test_a_wrong_message_does_not_fit(document: str, body: Any) -> None:
    assert not validator(document).is_valid(body)


def test_a_fact_without_what_its_type_promises_does_not_fit() -> None:
    started = json.loads(recorded("lifecycle")[LifecycleType.STARTED])
    assert not validator("lifecycle", LifecycleType.COMPLETED).is_valid(started)
