"""The fields of classes that cross the wire, told alike for every kind of class."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, NotRequired, Required, get_args, get_origin, get_type_hints

import msgspec
from typing_extensions import is_typeddict


@dataclass(frozen=True, slots=True)
class Field:
    """`key` is the name in JSON, `parameter` the name that the class's constructor takes."""

    key: str
    type: Any
    required: bool
    parameter: str

    @property
    def constants(self) -> frozenset[Any]:
        """The values of a required `Literal` field: they tell classes apart."""
        return frozenset(get_args(self.type) if self.required and get_origin(self.type) is Literal else ())


@dataclass(frozen=True, slots=True)
class Shape:
    """A class as JSON sees it: an object with these fields, or an array of them in order."""

    cls: Any
    fields: tuple[Field, ...]
    is_array: bool = False


def is_pydantic(annotation: Any) -> bool:
    """Whether it is a pydantic model, asked without importing pydantic."""
    pydantic: Any = sys.modules.get("pydantic")
    return pydantic is not None and isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel)


def shape_of(annotation: Any) -> Shape | None:
    """The fields of a class, with type variables filled in; None for anything else."""
    cls = get_origin(annotation) or annotation
    if not isinstance(cls, type):
        return None
    if is_pydantic(cls):
        return Shape(cls, tuple(_pydantic_fields(cls)))
    if issubclass(cls, msgspec.Struct):
        return Shape(cls, tuple(_struct_fields(annotation, cls)), cls.__struct_config__.array_like)
    if not (dataclasses.is_dataclass(cls) or hasattr(cls, "__attrs_attrs__") or is_typeddict(cls) or _is_tuple(cls)):
        return None
    types = _types(annotation, cls)
    return Shape(cls, tuple(_annotated_fields(cls, types)), is_array=_is_tuple(cls))


def _is_tuple(cls: type) -> bool:
    return issubclass(cls, tuple) and hasattr(cls, "_fields")


def _types(annotation: Any, cls: Any) -> dict[str, Any]:
    """The annotations of a class, with the arguments of `annotation` in the place of its type variables."""
    values = dict(zip(getattr(cls, "__parameters__", ()), get_args(annotation), strict=False))
    return {name: _filled(hint, values) for name, hint in get_type_hints(cls, include_extras=True).items()}


def _filled(hint: Any, values: dict[Any, Any]) -> Any:
    if hint in values:
        return values[hint]
    parameters = getattr(hint, "__parameters__", ())
    return hint[tuple(values.get(one, one) for one in parameters)] if parameters and get_args(hint) else hint


def _annotated_fields(cls: Any, types: dict[str, Any]) -> Iterator[Field]:
    if dataclasses.is_dataclass(cls):
        for one in dataclasses.fields(cls):
            has_default = one.default is not dataclasses.MISSING or one.default_factory is not dataclasses.MISSING
            if one.init:
                yield Field(one.name, types[one.name], not has_default, one.name)
    elif hasattr(cls, "__attrs_attrs__"):
        nothing = sys.modules["attr"].NOTHING
        for one in cls.__attrs_attrs__:
            if one.init:
                yield Field(one.name, types.get(one.name, Any), one.default is nothing, one.alias)
    elif is_typeddict(cls):
        for name in cls.__annotations__:
            marker = get_origin(types[name])  # beneath `from __future__ import annotations` the class has not seen it
            required = marker is Required or (marker is not NotRequired and name in cls.__required_keys__)
            yield Field(name, types[name], required, name)
    else:
        for name in cls._fields:
            yield Field(name, types.get(name, Any), name not in cls._field_defaults, name)


def _struct_fields(annotation: Any, cls: Any) -> Iterator[Field]:
    if cls.__struct_config__.tag is not None:
        literal: Any = Literal
        tag = literal[cls.__struct_config__.tag]
        yield Field(cls.__struct_config__.tag_field, tag, required=True, parameter="")
    for one in msgspec.structs.fields(annotation):
        yield Field(one.encode_name, one.type, one.required, one.name)


def _pydantic_fields(cls: Any) -> Iterator[Field]:
    for name, one in cls.model_fields.items():
        alias = one.validation_alias if isinstance(one.validation_alias, str) else one.alias
        yield Field(alias or name, one.annotation, one.is_required(), name)
