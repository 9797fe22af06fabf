"""Values to JSON and back, by their annotations.

A `Codec` is built once per annotation. Writing a value reads it back: what the other side would refuse is refused here,
where the mistake was made and the path of the field is known (`$.order.quantity`). Both directions are one call into
msgspec; `payload_types` teaches it what it does not read by itself.

Equal values give equal bytes in every process: sets are written in sorted order, dicts in their own. Nothing is written
that would come back as something else: NaN and infinity, which JSON lacks, and text with half of a surrogate pair are
refused. Integers of any size and NUL characters are fine.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, Generic, TypeVar

import msgspec
from msgspec import Raw

from everstep._core.payload_fields import is_pydantic
from everstep._core.payload_types import dec_hook, readable
from everstep.errors import PayloadError

__all__ = ["Codec", "PayloadError", "codec_for"]

T = TypeVar("T")

_EXACT = (str, int, bool, type(None))


class Codec(Generic[T]):
    """Writes and reads the values of one annotation. Build with `codec_for`."""

    __slots__ = ("_decoder", "_exact", "_loose", "_unordered")

    def __init__(self, annotation: Any) -> None:
        understood = readable(annotation)
        self._decoder: msgspec.json.Decoder[T] = msgspec.json.Decoder(understood.type, dec_hook=dec_hook)
        self._unordered = understood.unordered
        self._loose = understood.loose
        self._exact = annotation if annotation in _EXACT else None

    def encode(self, value: T) -> bytes:
        """The JSON of `value`; `PayloadError` if it does not fit the annotation or cannot be JSON."""
        try:
            data = _encoder.encode(normal(value) if self._unordered else value)
            if type(value) is self._exact:
                return data
            read = self._decoder.decode(data)
            if self._loose and read != value:  # nothing was lost of a value that equals what comes back
                return _encoder.encode(normal(value))
        except Exception as error:
            raise _refusal(error, value) from None
        return data

    def decode(self, raw: bytes | Raw) -> T:
        """The value in `raw`; `PayloadError` if it is not JSON or does not fit the annotation."""
        try:
            return self._decoder.decode(raw)
        except Exception as error:  # also what an author's `__post_init__` raises
            raise _refusal(error) from None


_codecs: dict[Any, Codec[Any]] = {}


def codec_for(annotation: Any) -> Codec[Any]:
    """The codec of a type; `RegistrationError` if values of it cannot cross the wire."""
    if annotation is None:
        annotation = type(None)
    try:
        codec = _codecs.get(annotation)
    except TypeError:  # an `Annotated` whose metadata cannot be hashed
        return Codec(annotation)
    if codec is None:
        codec = _codecs[annotation] = Codec(annotation)
    return codec


# ---- errors


def _refusal(error: Exception, value: object = None) -> PayloadError:
    """What went wrong and where. What JSON cannot carry is searched for in `value`: msgspec names no place for it."""
    try:
        normal(value)
    except PayloadError as found:
        return found
    except RecursionError as deep:
        error = deep
    if isinstance(error, RecursionError):
        return PayloadError("$", "the value is nested too deeply, or holds itself")
    if isinstance(error, msgspec.MsgspecError):
        return _with_path(str(error))
    return PayloadError("$", f"{type(error).__qualname__}: {error}")


_PLACE = re.compile(r" - at `\$([^`]*)`")


def _with_path(text: str) -> PayloadError:
    """msgspec ends its messages with the path; around a stand-in it adds the outer path after the inner one."""
    path = "".join(reversed(_PLACE.findall(text)))
    return PayloadError(f"${path}", _PLACE.sub("", text))


# ---- writing


def _enc_hook(value: Any) -> Any:
    """Plain forms of what msgspec does not write: subclasses of `str`, `int` and `float`, pydantic models."""
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int.__int__(value)
    if isinstance(value, float):
        return _number(float.__float__(value), "$")
    if is_pydantic(type(value)):
        return _pydantic_plain(value)
    raise TypeError(f"a `{type(value).__qualname__}` cannot be written as JSON")


_encoder = msgspec.json.Encoder(enc_hook=_enc_hook)


def normal(value: Any, path: str = "$") -> Any:
    """`value` with its sets sorted; `PayloadError` with the path of what JSON cannot carry unchanged."""
    walk = _WALKS.get(type(value)) or _walk_of(value)
    return walk(value, path)


def _text(value: str, path: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise PayloadError(path, "the text holds half of a surrogate pair, which is not valid Unicode") from None
    return value


def _number(value: float, path: str) -> float:
    if not math.isfinite(value):
        raise PayloadError(path, f"JSON has no {value}")
    return value


def _array(value: list[Any] | tuple[Any, ...], path: str) -> list[Any]:
    return [normal(one, f"{path}[{i}]") for i, one in enumerate(value)]


def _object(value: Mapping[Any, Any], path: str) -> dict[Any, Any]:
    return {_key(key, path): normal(one, f"{path}.{key}") for key, one in value.items()}


def _key(key: Any, path: str) -> Any:
    if isinstance(key, str):
        return _text(key, path)
    _other({key: None}, path)
    return key


def _set(value: set[Any] | frozenset[Any], path: str) -> list[Any]:
    """In the order of the elements' JSON, since not all elements can be compared with each other."""
    return sorted((normal(one, f"{path}[...]") for one in value), key=_encoder.encode)


def _struct(value: msgspec.Struct, path: str) -> msgspec.Struct:
    changes = {name: normal(getattr(value, name), f"{path}.{name}") for name in value.__struct_fields__}
    return msgspec.structs.replace(value, **changes)


def _instance(value: Any, path: str) -> dict[str, Any]:
    """A dataclass or attrs instance."""
    fields = dataclasses.fields(value) if dataclasses.is_dataclass(value) else value.__attrs_attrs__
    return {one.name: normal(getattr(value, one.name), f"{path}.{one.name}") for one in fields}


def _model(value: Any, path: str) -> Any:
    return normal(_pydantic_plain(value), path)


def _other(value: Any, path: str) -> Any:
    try:
        _encoder.encode(value)
    except Exception as error:
        raise PayloadError(path, str(error)) from None
    return value


Walk = Callable[[Any, str], Any]
_WALKS: dict[type, Walk] = {
    str: _text,
    float: _number,
    bool: lambda value, path: value,
    int: lambda value, path: value,
    type(None): lambda value, path: value,
    list: _array,
    tuple: _array,
    dict: _object,
    set: _set,
    frozenset: _set,
}


def _walk_of(value: Any) -> Walk:
    if isinstance(value, msgspec.Struct):
        return _struct
    if is_pydantic(type(value)):
        return _model
    if dataclasses.is_dataclass(value) or hasattr(value, "__attrs_attrs__"):
        return _instance
    return next(
        (walk for cls, walk in _WALKS.items() if isinstance(value, cls) and not isinstance(value, Enum)), _other
    )


def _pydantic_plain(model: Any) -> Any:
    """A pydantic model as plain JSON values, its sets sorted."""
    plain, rich = model.model_dump(mode="json", by_alias=True), model.model_dump(by_alias=True)
    return _sorted_like(rich, plain)


def _sorted_like(rich: Any, plain: Any) -> Any:
    """`plain`, the JSON form of `rich`, with every list sorted that stands for a set."""
    if isinstance(plain, dict) and isinstance(rich, Mapping) and len(plain) == len(rich):
        return {key: _sorted_like(one, plain[key]) for (key, one) in zip(plain, rich.values(), strict=True)}
    if not isinstance(plain, list):
        return plain
    if isinstance(rich, set | frozenset):
        return sorted(plain, key=_encoder.encode)
    if isinstance(rich, list | tuple):
        return [_sorted_like(*pair) for pair in zip(rich, plain, strict=True)]
    return plain
