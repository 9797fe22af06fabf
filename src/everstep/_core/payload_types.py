"""Teaches msgspec the annotations that it does not read by itself: unions of several classes, and pydantic models.

JSON does not say which of `Approved | Rejected` an object is. It is the one whose fields are there: of the members
whose required fields the object has, the one that leaves the fewest of its fields over. Two members that some object
would fit alike are refused when the codec is built, so the choice never depends on luck; a `Literal` field with other
values in each tells them apart.

Such a type is replaced by a *stand-in*, an empty class for which msgspec calls `read` with the plain JSON value. A
class with such a type in a field gets a stand-in too, and so on up to the top.
"""

from __future__ import annotations

import sys
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Annotated, Any, NotRequired, Required, Union, get_args, get_origin

import msgspec
from msgspec import inspect as info
from typing_extensions import TypeAliasType, TypedDict

from everstep._core.payload_fields import Shape, is_pydantic, shape_of
from everstep.errors import RegistrationError

Reader = Callable[[Any], Any]


class _AnyInstance(type):
    """msgspec checks that what a hook returned is an instance: of a stand-in, everything is."""

    def __instancecheck__(cls, instance: object) -> bool:
        return True


class StandIn(metaclass=_AnyInstance):
    """Base of the classes that msgspec sees in the place of what it cannot read."""

    read: Reader


class Nested(ValueError):
    """What a stand-in's `read` found; msgspec adds the path that leads to the stand-in."""


def dec_hook(cls: type, value: Any) -> Any:
    """What msgspec calls for a class of which it knows nothing."""
    if not issubclass(cls, StandIn):
        return value
    try:
        return cls.read(value)
    except msgspec.ValidationError as error:
        raise Nested(str(error)) from None


@dataclass(frozen=True, slots=True)
class Readable:
    """What a codec needs to know of an annotation.

    `type` is one that msgspec reads. `unordered`: there are sets, so equal values may give other bytes. `loose`: JSON
    that reads back does not prove a value right, since NaN becomes null and null is allowed.
    """

    type: Any
    unordered: bool
    loose: bool


def readable(annotation: Any) -> Readable:
    """`annotation` as msgspec reads it; `RegistrationError` if nothing can, saying which part of it and why."""
    stand_ins = _StandIns()
    try:
        replaced = stand_ins.replace(annotation)
        nodes = [node for one in (replaced, *stand_ins.inner) for node in _nodes(info.type_info(one))]
    except (TypeError, NameError, RecursionError) as error:
        raise RegistrationError(f"`{text_of(annotation)}` cannot cross the wire: {error}") from None
    for node in nodes:
        if isinstance(node, info.CustomType) and not (node.cls is object or issubclass(node.cls, StandIn)):
            raise RegistrationError(
                f"`{text_of(node.cls)}` in `{text_of(annotation)}` cannot cross the wire: use a dataclass, a msgspec "
                "struct, an attrs class, a TypedDict, a pydantic model, or a type that JSON can carry"
            )
    return Readable(replaced, any(map(_is_unordered, nodes)), any(map(_is_loose, nodes)))


def text_of(annotation: Any) -> str:
    return annotation.__qualname__ if isinstance(annotation, type) and not get_args(annotation) else str(annotation)


def _nodes(root: info.Type) -> Iterator[info.Type]:
    """Every node of msgspec's description of a type, each once (types can be recursive)."""
    seen: set[int] = set()
    todo: list[Any] = [root]
    while todo:
        node = todo.pop()
        if not isinstance(node, info.Type | info.Field) or id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, info.Type):
            yield node
        for name in node.__struct_fields__:
            value = getattr(node, name)
            todo.extend(value if isinstance(value, tuple) else (value,))


def _is_unordered(node: info.Type) -> bool:
    stand_in = isinstance(node, info.CustomType) and node.cls is not object
    return stand_in or isinstance(node, info.SetType | info.FrozenSetType)


def _is_loose(node: info.Type) -> bool:
    if isinstance(node, info.UnionType):
        return {info.FloatType, info.NoneType} <= {type(one) for one in node.types}
    return isinstance(node, info.AnyType | info.CustomType)


# ---- annotations


def _unwrapped(annotation: Any) -> Any:
    """Without `NewType`, `type X = …` and the markers of a TypedDict's keys."""
    while True:
        if get_origin(annotation) in (Required, NotRequired):
            annotation = get_args(annotation)[0]
        elif isinstance(annotation, TypeAliasType):
            annotation = annotation.__value__
        elif isinstance(annotation, typing.NewType):
            annotation = annotation.__supertype__
        else:
            return annotation


def _is_union(annotation: Any) -> bool:
    return get_origin(annotation) in (Union, types.UnionType)


def _is_choice(members: list[Any]) -> bool:
    """Whether msgspec cannot tell the members of a union apart: several classes, and not all of them tagged structs."""
    objects = [shape.cls for shape in map(shape_of, members) if shape is not None and not shape.is_array]
    if any(map(is_pydantic, objects)):
        return len(members) - (type(None) in members) > 1
    return len(objects) > 1 and not all(map(_is_tagged, objects))


def _is_tagged(cls: Any) -> bool:
    return issubclass(cls, msgspec.Struct) and cls.__struct_config__.tag is not None


def _members(union: Any) -> list[Any]:
    return [_unwrapped(one) for one in get_args(union)]


def _needs_help(annotation: Any, seen: list[Any]) -> bool:
    """Whether `annotation` is, or holds at any depth, what msgspec cannot read. `seen` ends recursive types."""
    annotation = _unwrapped(annotation)
    if annotation in seen or get_origin(annotation) is typing.Literal:
        return False
    seen.append(annotation)
    if is_pydantic(annotation) or (_is_union(annotation) and _is_choice(_members(annotation))):
        return True
    shape = shape_of(annotation)
    parts = [one.type for one in shape.fields] if shape is not None else get_args(annotation)
    return any(_needs_help(part, seen) for part in parts)


# ---- stand-ins


class _StandIns:
    """The stand-ins of one annotation. `inner` collects the types that they read with."""

    def __init__(self) -> None:
        self._of: list[tuple[Any, type[StandIn]]] = []
        self.inner: list[Any] = []

    def replace(self, annotation: Any) -> Any:
        """`annotation` with stand-ins where they are needed."""
        annotation = _unwrapped(annotation)
        if not _needs_help(annotation, []):
            return annotation
        if _is_union(annotation):
            return self._union(annotation)
        if is_pydantic(annotation):
            return self._stand_in(annotation, lambda: _pydantic_reader(annotation))
        if (shape := shape_of(annotation)) is not None:
            return self._stand_in(annotation, lambda: self._class_reader(shape))
        return self._generic(annotation)

    def _generic(self, annotation: Any) -> Any:
        origin, args = get_origin(annotation), get_args(annotation)
        if origin is Annotated:
            return Annotated[(self.replace(args[0]), *args[1:])]
        return origin[tuple(one if one is ... else self.replace(one) for one in args)]

    def _union(self, annotation: Any) -> Any:
        members = _members(annotation)
        if _is_choice(members):
            return self._stand_in(annotation, lambda: self._choice_reader(annotation, members))
        replaced = [self.replace(one) for one in members]
        if any(_is_stand_in(one) for one in replaced) and len(members) - (type(None) in members) > 1:
            return self._stand_in(annotation, lambda: self._choice_reader(annotation, members))
        return Union[tuple(replaced)]  # noqa: UP007 - the members are only known at run time

    def _stand_in(self, annotation: Any, make_reader: Callable[[], Reader]) -> type[StandIn]:
        """The stand-in of `annotation`; noted before its reader is made, which may meet the same annotation again."""
        for known, stand_in in self._of:
            if known == annotation:
                return stand_in
        stand_in = type(text_of(annotation), (StandIn,), {})
        self._of.append((annotation, stand_in))
        stand_in.read = staticmethod(make_reader())
        return stand_in

    def _reader(self, annotation: Any) -> Reader:
        replaced = self.replace(annotation)
        self.inner.append(replaced)
        return lambda value: msgspec.convert(value, replaced, dec_hook=dec_hook, str_keys=True)

    def _class_reader(self, shape: Shape) -> Reader:
        if shape.is_array:
            return self._array_reader(shape)
        fields = {one.key: (Required if one.required else NotRequired)[self.replace(one.type)] for one in shape.fields}
        plain = _typed_dict(text_of(shape.cls), fields)
        parameters = {one.key: one.parameter for one in shape.fields if one.parameter}
        self.inner.append(plain)

        def read(value: Any) -> Any:
            found = msgspec.convert(value, plain, dec_hook=dec_hook, str_keys=True)
            return shape.cls(**{parameters[key]: one for key, one in found.items() if key in parameters})

        return read

    def _array_reader(self, shape: Shape) -> Reader:
        plain = types.GenericAlias(tuple, tuple(self.replace(one.type) for one in shape.fields))
        names = [one.parameter for one in shape.fields]
        self.inner.append(plain)
        return lambda value: shape.cls(
            **dict(zip(names, msgspec.convert(value, plain, dec_hook=dec_hook, str_keys=True), strict=True))
        )

    def _choice_reader(self, annotation: Any, members: list[Any]) -> Reader:
        shapes = [(one, shape_of(one)) for one in members]
        candidates = [
            _Candidate(text_of(one), shape, self._reader(one))
            for one, shape in shapes
            if shape is not None and not shape.is_array
        ]
        others = [one for one, shape in shapes if shape is None or shape.is_array]
        _refuse_lookalikes(candidates)
        if any(
            issubclass(get_origin(one) or one, Mapping) for one in others if isinstance(get_origin(one) or one, type)
        ):
            raise TypeError(f"an object could be a dict or another member of `{text_of(annotation)}`")
        read_other = self._reader(Union[tuple(others)]) if others else None  # noqa: UP007

        def read(value: Any) -> Any:
            if isinstance(value, dict):
                return _chosen(candidates, value).read(value)
            if read_other is None:
                raise msgspec.ValidationError(f"Expected `object`, got `{type(value).__name__}`")
            return read_other(value)

        return read


def _is_mapping(annotation: Any) -> bool:
    cls = get_origin(annotation) or annotation
    return isinstance(cls, type) and issubclass(cls, Mapping)


def _is_stand_in(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, StandIn)


_typed_dict: Any = TypedDict  # as a function, which makes a class at run time


class _Candidate:
    """A class that an object may be."""

    def __init__(self, name: str, shape: Shape, read: Reader) -> None:
        self.name = name
        self.read = read
        self.all = frozenset(one.key for one in shape.fields)
        self.required = frozenset(one.key for one in shape.fields if one.required)
        self.constants = {one.key: one.constants for one in shape.fields if one.constants}

    def fits(self, value: dict[str, Any]) -> bool:
        return self.required <= value.keys() and all(value[key] in known for key, known in self.constants.items())

    def looks_like(self, other: _Candidate) -> bool:
        """Whether some object has exactly the fields of both."""
        apart = any(known.isdisjoint(other.constants.get(key, known)) for key, known in self.constants.items())
        return self.required <= other.all and other.required <= self.all and not apart


def _refuse_lookalikes(candidates: list[_Candidate]) -> None:
    for one, other in combinations(candidates, 2):
        if one.looks_like(other):
            raise TypeError(
                f"`{one.name}` and `{other.name}` cannot be told apart in JSON: give one of them a required field that "
                "the other lacks, or both a field with its own constant, such as `kind: Literal['approved']`"
            )


def _chosen(candidates: list[_Candidate], value: dict[str, Any]) -> _Candidate:
    fitting = [one for one in candidates if one.fits(value)]
    fewest = min((len(value.keys() - one.all) for one in fitting), default=0)
    best = [one for one in fitting if len(value.keys() - one.all) == fewest]
    if len(best) == 1:
        return best[0]
    names = ", ".join(f"`{one.name}`" for one in best or candidates)
    fields = ", ".join(map(str, value)) or "none"
    raise msgspec.ValidationError(
        f"Expected {'only one' if best else 'one'} of {names} to fit the fields that are there: {fields}"
    )


def _pydantic_reader(model: Any) -> Reader:
    def read(value: Any) -> Any:
        try:
            return model.model_validate_json(msgspec.json.encode(value))
        except sys.modules["pydantic"].ValidationError as error:
            first = error.errors()[0]
            path = "".join(f"[{one}]" if isinstance(one, int) else f".{one}" for one in first["loc"])
            raise msgspec.ValidationError(f"{first['msg']} - at `${path}`") from None

    return read
