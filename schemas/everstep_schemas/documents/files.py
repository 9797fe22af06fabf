"""The documents as files: the same bytes for the same structs."""

from __future__ import annotations

import msgspec

from everstep_schemas.documents import asyncapi, jsonschema
from everstep_schemas.documents.structs import Schema


def files() -> dict[str, bytes]:
    """Every file by its name below `schemas`."""
    bodies = {f"jsonschema/{name}.json": schema for name, schema in jsonschema.documents().items()}
    return {"asyncapi.json": _file(asyncapi.document())} | {name: _file(schema) for name, schema in bodies.items()}


def _file(document: Schema) -> bytes:
    return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"
