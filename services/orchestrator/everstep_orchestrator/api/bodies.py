"""Bodies of requests: JSON straight into strict structs, so that arguments pass through undecoded."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

import msgspec
from litestar.dto import AbstractDTO
from litestar.openapi.spec import Reference, Schema
from litestar.typing import FieldDefinition
from msgspec import UNSET, Meta, Raw, UnsetType

from everstep_orchestrator.api.problems import INVALID, MALFORMED, NOT_JSON, AnyRequest, Refused
from everstep_schemas.events import EMPTY_ARGS
from everstep_schemas.wire import NULL, OnDuplicate

T = TypeVar("T")
Version = Annotated[int, Meta(ge=1, le=2**31 - 1)]


class Body(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request's body; unknown fields are refused rather than dropped."""


class StartRequest(Body, frozen=True):
    """A run to start. `args` is a JSON array, `kwargs` an object.

    Without `workflow_id` the run gets an id of its own. The same `submission_id` starts one run however often it is
    sent; without one, sending again is another submission and falls under `on_duplicate`.
    """

    workflow: str
    workflow_id: str | None = None
    args: Raw = EMPTY_ARGS
    kwargs: Raw | UnsetType = UNSET
    version: Version | None = None
    on_duplicate: OnDuplicate = "reject"
    submission_id: str | None = None


class SignalRequest(Body, frozen=True):
    """A signal's value, any JSON. The same `signal_id` is applied once however often it is sent."""

    value: Raw = NULL
    signal_id: str | None = None


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
