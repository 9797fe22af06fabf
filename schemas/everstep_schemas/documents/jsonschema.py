"""JSON Schema documents (2020-12), one for the bodies that a program reads or writes in one role."""

from __future__ import annotations

from typing import get_args

import msgspec

from everstep_schemas.documents.lifecycle import KINDS
from everstep_schemas.documents.structs import Schema, Structs
from everstep_schemas.wire import (
    ActivitiesRenewed,
    ActivityCommand,
    ActivityResult,
    AnySubmission,
    Control,
    InboxMessage,
    Lifecycle,
)

WORKERS = (*get_args(ActivityResult), ActivitiesRenewed)
INTERNAL = tuple(member for member in get_args(InboxMessage) if member not in WORKERS)

_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def documents() -> dict[str, Schema]:
    """The documents by name."""
    return {
        "submission": _document("What a record of the submissions topic may hold.", *get_args(AnySubmission)),
        "activity_command": _document("What a worker is asked to do.", ActivityCommand),
        "activity_result": _document("What a worker says of what it executes.", *WORKERS),
        "inbox": _document("Internal: what orchestrators and runs say to each other.", *INTERNAL),
        "control": _document("What all workers are told.", Control),
        "lifecycle": _lifecycle(),
    }


def _document(description: str, *members: type[msgspec.Struct]) -> Schema:
    structs = Structs("#/$defs/")
    either = [structs.refer(member) for member in members]
    head: Schema = {"$schema": _DIALECT, "description": description}
    return head | (either[0] if len(either) == 1 else {"oneOf": either}) | {"$defs": structs.schemas}


def _lifecycle() -> Schema:
    """Every record fits the whole; `$defs` holds besides, by `ce_type`, what such a record has."""
    whole = _document("A record of the lifecycle topic; `$defs` says more by its `ce_type`.", Lifecycle)
    kinds = {kind.type: kind.schema(whole["$defs"]["Lifecycle"]) for kind in KINDS}
    return whole | {"$defs": whole["$defs"] | kinds}
