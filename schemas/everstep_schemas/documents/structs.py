"""JSON Schema of structs: what their decoders accept, and what the orchestrator asks of submissions besides.

`msgspec.json.schema` cannot take undecoded JSON as a default, hence this reading of `msgspec.inspect`.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import inspect as types

from everstep_schemas.names import MAX_NAME_BYTES
from everstep_schemas.wire import FirstSignal, Submission

Schema = dict[str, Any]

_NAME: Schema = {"minLength": 1, "maxLength": MAX_NAME_BYTES, "pattern": r"^[^\u0000-\u001f\u007f-\u009f]*$"}

# What is checked after decoding.
_NARROWER: Schema = {"args": {"type": "array"}, "kwargs": {"type": "object"}}
_NARROWER_IN_SUBMISSIONS: Schema = {
    "workflow_id": _NAME,
    "workflow": _NAME,
    "name": _NAME,
    "submission_id": _NAME,
    "signal_id": _NAME,
    "update_id": _NAME,
    "version": {"minimum": 1, "maximum": (1 << 31) - 1},
}


class Structs:
    """Collects the schemas of structs by name; they refer to each other under `prefix`."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self.schemas: dict[str, Schema] = {}

    def refer(self, struct: type[msgspec.Struct]) -> Schema:
        """A reference to the struct, which is collected with all that it refers to."""
        return self._of(types.type_info(struct))

    def _of(self, info: types.Type) -> Schema:
        match info:
            case types.StructType():
                return self._collected(info)
            case types.UnionType():
                return {"anyOf": [self._of(one) for one in info.types]}
            case types.LiteralType():
                return {"enum": list(info.values)}
            case types.RawType():
                return {}
            case types.ListType() | types.VarTupleType():
                return {"type": "array", "items": self._of(info.item_type)}
            case types.DictType():
                return {"type": "object", "additionalProperties": self._of(info.value_type)}
            case types.DateTimeType():
                return {"type": "string", "format": "date-time"}
        return {"type": _SIMPLE[type(info)]}

    def _collected(self, info: types.StructType) -> Schema:
        name = info.cls.__name__
        if name not in self.schemas:
            self.schemas[name] = {}  # a struct may refer to itself
            self.schemas[name] |= self._struct(info)
        return {"$ref": f"{self._prefix}{name}"}

    def _struct(self, info: types.StructType) -> Schema:
        tag = {} if info.tag_field is None else {info.tag_field: {"const": info.tag}}
        schema: Schema = {
            "title": info.cls.__name__,
            "description": _unwrapped(info.cls.__doc__ or ""),
            "type": "object",
            "properties": tag | {field.encode_name: self._field(info.cls, field) for field in info.fields},
            "required": [*tag, *(field.encode_name for field in info.fields if field.required)],
        }
        return schema | ({"additionalProperties": False} if info.forbid_unknown_fields else {})

    def _field(self, struct: type, field: types.Field) -> Schema:
        narrower = _NARROWER | (_NARROWER_IN_SUBMISSIONS if issubclass(struct, Submission | FirstSignal) else {})
        schema: Schema = self._of(field.type) | narrower.get(field.encode_name, {})
        default = field.default_factory() if callable(field.default_factory) else field.default
        if default not in (msgspec.NODEFAULT, None):
            schema["default"] = msgspec.json.decode(msgspec.json.encode(default))
        return schema


def _unwrapped(docstring: str) -> str:
    """One line per paragraph."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in docstring.split("\n\n"))


_SIMPLE: dict[type[types.Type], str] = {
    types.StrType: "string",
    types.IntType: "integer",
    types.FloatType: "number",
    types.BoolType: "boolean",
    types.NoneType: "null",
}
