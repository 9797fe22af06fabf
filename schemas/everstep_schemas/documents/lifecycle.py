"""Which fields of a lifecycle record appear under which `ce_type`."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from everstep_schemas.documents.structs import Schema
from everstep_schemas.wire import Lifecycle
from everstep_schemas.wire import LifecycleType as Type


@dataclass(frozen=True, slots=True)
class Kind:
    """The fields of one type: those that are always there and those that may be, besides the required ones of all."""

    type: str
    description: str
    always: tuple[str, ...]
    sometimes: tuple[str, ...] = ()

    def schema(self, lifecycle: Schema) -> Schema:
        """The part of the whole struct's schema that such a record uses. Later versions may add fields."""
        always = (*_required(), *self.always)
        properties = lifecycle["properties"]
        return {
            "title": self.type,
            "description": self.description,
            "type": "object",
            "properties": {name: properties[name] for name in (*always, *self.sometimes)},
            "required": list(always),
        }


def _required() -> list[str]:
    return [field.encode_name for field in msgspec.structs.fields(Lifecycle) if field.required]


def _of_run(type: str, description: str, *always: str, sometimes: tuple[str, ...] = ()) -> Kind:
    """A fact about a run, which has a version from its first step on."""
    return Kind(type, description, ("workflow", *always), ("version", *sometimes))


KINDS = (
    _of_run(
        Type.STARTED,
        "The run exists; `submission_id` is the identity of the submission that started it."
        " Also the answer to a start that found a run and was to be answered with it: `submission_id` is then that"
        " start's, and `status` says how the run ended if it has.",
        "submission_id",
        sometimes=("status", "parent"),
    ),
    _of_run(
        Type.COMPLETED,
        "The run's code returned `result`. `unread` counts, by name, the signals that it never received; also below.",
        "result",
        sometimes=("unread",),
    ),
    _of_run(Type.FAILED, "The run's code raised `error`.", "error", sometimes=("unread",)),
    _of_run(
        Type.CANCELLED,
        "The run ended because it was cancelled, for the `reason` given.",
        "reason",
        sometimes=("unread",),
    ),
    _of_run(Type.TERMINATED, "The run was ended without running its code, for the `reason` given.", "reason"),
    _of_run(Type.TIMED_OUT, "The run reached its timeout and was ended without running its code."),
    _of_run(
        Type.CONTINUED,
        "The next run of the id goes on with the work of this one: its code asked for that, or it failed with `error`"
        " and is begun again at `retry_at`.",
        sometimes=("error", "retry_at"),
    ),
    _of_run(
        Type.STALLED,
        "The run cannot go on, and `reason` says why and what to do. It loses nothing, and goes on once that is done.",
        "submission_id",
        "reason",
    ),
    _of_run(
        Type.HELD,
        "The run waits for an orchestrator that has its code; another one does.",
        "submission_id",
        sometimes=("reason",),
    ),
    _of_run(Type.RESUMED, "The run was stalled or held and goes on.", "submission_id", sometimes=("reason",)),
    _of_run(Type.STATUS_CHANGED, "The run's code set its status text to `status`.", "status"),
    _of_run(Type.MILESTONE, "The run has reached what `status` says.", "status"),
    _of_run(
        Type.ACTIVITY_FAILED,
        "An attempt of an activity failed. With `retry_at` another follows then; without, the activity has failed.",
        "activity",
        "attempt",
        "error",
        sometimes=("retry_at",),
    ),
    _of_run(
        Type.SIGNAL_UNREADABLE,
        "A signal `name` did not fit the type that the run's code declares, for the `reason` given, and was put aside.",
        "name",
        "reason",
    ),
    _of_run(
        Type.UPDATE_COMPLETED,
        "The run carried out the update with the identity `submission_id`, and answers with `result`.",
        "submission_id",
        "result",
    ),
    _of_run(
        Type.UPDATE_FAILED,
        "The run accepted the update with the identity `submission_id` and could not carry it out.",
        "submission_id",
        "error",
    ),
    _of_run(
        Type.CALLBACK_COMPLETED,
        "The submission with the identity `submission_id` completed a callback of the run.",
        "submission_id",
    ),
    _of_run(
        Type.CALLBACK_FAILED,
        "The submission with the identity `submission_id` failed a callback of the run.",
        "submission_id",
        "error",
    ),
    Kind(
        Type.SUBMISSION_REJECTED,
        "The submission with the identity `submission_id` was understood and has no effect, for the `reason` given."
        " `run` and `seq` are 0.",
        ("submission_id", "reason"),
    ),
)
