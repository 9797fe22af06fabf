"""The OpenAPI document of the routes, from the structs that requests and answers are made of."""

from __future__ import annotations

import inspect
from functools import reduce
from operator import or_
from typing import Any, Literal, get_args

import msgspec
from litestar import Litestar
from litestar.openapi import OpenAPIConfig
from litestar.openapi.spec import Schema
from litestar.plugins import OpenAPISchemaPlugin
from litestar.types import ControllerRouterHandler
from litestar.typing import FieldDefinition

_API_VERSION = "1"


class AnyJson(OpenAPISchemaPlugin):
    """JSON that passes through undecoded is documented as any JSON."""

    def is_plugin_supported_field(self, field_definition: FieldDefinition) -> bool:
        return field_definition.annotation is msgspec.Raw

    def to_openapi_schema(self, field_definition: FieldDefinition, schema_creator: Any) -> Schema:
        return Schema(description="Any JSON.")


class Structs(OpenAPISchemaPlugin):
    """Structs by their fields, tags and docstrings. Litestar's own plugin cannot take undecoded JSON as a default."""

    def is_plugin_supported_field(self, field_definition: FieldDefinition) -> bool:
        return not field_definition.is_union and field_definition.is_subclass_of(msgspec.Struct)

    def to_openapi_schema(self, field_definition: FieldDefinition, schema_creator: Any) -> Schema:
        struct = field_definition.annotation
        hints = field_definition.get_type_hints(include_extras=True)
        fields = msgspec.structs.fields(struct)
        types = {field.encode_name: _without_unset(hints[field.name]) for field in fields}
        required = [field.encode_name for field in fields if field.required]
        config = struct.__struct_config__
        if config.tag_field is not None:
            types = {config.tag_field: Literal[config.tag], **types}
            required.insert(0, config.tag_field)
        properties = {name: FieldDefinition.from_annotation(type) for name, type in types.items()}
        schema: Schema = schema_creator.create_component_schema(field_definition, required, properties)
        schema.description = inspect.cleandoc(struct.__doc__) if struct.__doc__ else None
        schema.additional_properties = False if config.forbid_unknown_fields else None
        return schema


def _without_unset(type: Any) -> Any:
    """A field that may be left out, as the type of what stands there otherwise."""
    arguments = get_args(type)
    if msgspec.UnsetType not in arguments:
        return type
    return reduce(or_, (argument for argument in arguments if argument is not msgspec.UnsetType))


def document(routes: list[ControllerRouterHandler]) -> bytes:
    """The OpenAPI 3.1 document of these routes as JSON; the same bytes for the same routes."""
    config = OpenAPIConfig(
        title="Everstep",
        version=_API_VERSION,
        description="Durable runs: start, steer and read them. Any orchestrator answers for all runs.",
        operation_id_creator=lambda handler, _method, _path: handler.handler_name,
    )
    app = Litestar(route_handlers=routes, openapi_config=config, plugins=[AnyJson(), Structs()])
    schema = app.openapi_schema.to_schema()
    return msgspec.json.format(msgspec.json.encode(schema, order="sorted"), indent=2) + b"\n"
