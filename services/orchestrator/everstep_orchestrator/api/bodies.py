"""Bodies of requests: JSON straight into strict structs, so that arguments pass through undecoded."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, TypeVar
from uuid import uuid4

import msgspec
from litestar.dto import AbstractDTO
from litestar.openapi.spec import Reference, Schema
from litestar.typing import FieldDefinition
from msgspec import UNSET, Meta, Raw, UnsetType

from everstep._error_infos import CALLBACK_FAILED
from everstep_orchestrator.api.dependencies import Api
from everstep_orchestrator.api.problems import INVALID, MALFORMED, NOT_JSON, TOO_LARGE, AnyRequest, Refused
from everstep_orchestrator.api.segments import valid_name
from everstep_schemas.events import EMPTY_ARGS, AttributeValue
from everstep_schemas.wire import NULL, FirstSignal, OnDuplicate

T = TypeVar("T")
Version = Annotated[int, Meta(ge=1, le=2**31 - 1)]


class Body(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request's body; unknown fields are refused rather than dropped."""


class StartRequest(Body, frozen=True):
    """A run to start. `args` is a JSON array, `kwargs` an object.

    Without `workflow_id` the run gets an id of its own. The same `submission_id` starts one run however often it is
    sent; without one, sending again is another submission and falls under `on_duplicate`.

    The code begins at `start_at`, or at once, and may run for `timeout_seconds`. `attributes` can be searched for, the
    `memo` is only kept. The signal in `with_signal` reaches the run that answers the start, whether new or open before.
    """

    workflow: str
    workflow_id: str | None = None
    args: Raw = EMPTY_ARGS
    kwargs: Raw | UnsetType = UNSET
    version: Version | None = None
    on_duplicate: OnDuplicate = "reject"
    submission_id: str | None = None
    attributes: dict[str, AttributeValue] = {}
    memo: dict[str, Raw] = {}
    start_at: datetime | None = None
    timeout_seconds: float | None = None
    with_signal: FirstSignal | None = None


class SignalRequest(Body, frozen=True):
    """A signal's value, any JSON. The same `signal_id` is applied once however often it is sent."""

    value: Raw = NULL
    signal_id: str | None = None


class UpdateRequest(Body, frozen=True):
    """An update's value, any JSON. The same `update_id` is carried out once and answered however often it is sent."""

    value: Raw = NULL
    update_id: str | None = None


class CompleteRequest(Body, frozen=True):
    """A callback's value, any JSON. The same `submission_id` counts once however often it is sent."""

    value: Raw = NULL
    submission_id: str | None = None


class FailRequest(Body, frozen=True):
    """Why a callback failed. `type` is the sender's word for it; `submission_id` as for a completion."""

    message: str
    type: str = CALLBACK_FAILED
    submission_id: str | None = None


class HeartbeatRequest(Body, frozen=True):
    """How far the work for a callback is, any JSON."""

    details: Raw = NULL


class ReasonRequest(Body, frozen=True):
    """Why the run is to end, for its history."""

    reason: str = ""


class JsonBody(AbstractDTO[T]):
    """Decodes a handler's `data` from the bytes as they came."""

    @classmethod
    def create_for_field_definition(
        cls, field_definition: FieldDefinition, handler_id: str, backend_cls: Any = None
    ) -> None:
        """Nothing to prepare: the struct is its own model."""

    @classmethod
    def create_openapi_schema(
        cls, field_definition: FieldDefinition, handler_id: str, schema_creator: Any
    ) -> Reference | Schema:
        schema: Reference | Schema = schema_creator.for_field_definition(field_definition)
        return schema

    def decode_bytes(self, value: bytes) -> T:
        try:
            value.decode()  # raw parts are stored undecoded and must be readable as text later
            return msgspec.json.decode(value, type=self.model_type)
        except msgspec.ValidationError as error:
            raise Refused(INVALID, f"the body does not fit: {error}") from error
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Refused(MALFORMED, f"the body is not JSON: {error}") from error
        except RecursionError as error:
            raise Refused(INVALID, "the body is nested too deep") from error


async def require_json(request: AnyRequest) -> None:
    """Refuses a body of another content type, which also keeps other sites' forms from posting here."""
    if request.content_type[0] != "application/json":
        raise Refused(NOT_JSON, "send the header `content-type: application/json` and a JSON object, {} at the least")
    if not await request.body():
        raise Refused(MALFORMED, "the body is empty, so it is not JSON: send a JSON object, {} at the least")


def name_or_new(what: str, name: str | None) -> str:
    """A name that was given, or one that nobody else has."""
    return uuid4().hex if name is None else valid_name(what, name)


def check_size(api: Api, what: str, *parts: bytes | Raw) -> None:
    """Refuses what would be too large to be stored."""
    size = sum(len(bytes(part)) for part in parts)
    if size > api.max_payload_bytes:
        allowed = f"{api.max_payload_bytes} are allowed (EVERSTEP_MAX_PAYLOAD_BYTES)"
        raise Refused(TOO_LARGE, f"{what} have {size} bytes; {allowed}: pass a reference to large data instead")
