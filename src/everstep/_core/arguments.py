"""The arguments of a function as JSON: an array of the positional ones, an object of those that must be named.

A caller in Python may name what it likes; what can be an array element becomes one, so that equal calls give equal
bytes. A caller of another language may do the same.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable, Mapping
from itertools import chain, repeat
from types import SimpleNamespace
from typing import Any, Never, NoReturn, get_type_hints

import msgspec
from msgspec import Raw, UnsetType

from everstep._core.payloads import Codec, codec_for
from everstep.errors import PayloadError, RegistrationError

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_NAMEABLE = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
_ANY = codec_for(Any)
_NONE = ("", _ANY)
_all = codec_for(list[Any])
_array: msgspec.json.Decoder[list[Raw]] = msgspec.json.Decoder(list[Raw])
_object: msgspec.json.Decoder[dict[str, Raw]] = msgspec.json.Decoder(dict[str, Raw])
_encode = msgspec.json.Encoder().encode


class Arguments:
    """Writes and reads the arguments of one function, and its result. `omitted` parameters do not cross the wire."""

    def __init__(self, fn: Callable[..., Any], owner: str, omitted: Collection[str] = ()) -> None:
        hints = _type_hints(fn, owner, omitted)
        parameters = [one for one in inspect.signature(fn).parameters.values() if one.name not in omitted]
        self.owner = owner
        self.result = _codec(hints.get("return", Any), owner, "its result")
        self._signature = inspect.Signature(parameters)
        codecs = {one.name: _codec(hints.get(one.name, Any), owner, f"parameter {one.name!r}") for one in parameters}
        positional = [one for one in parameters if one.kind in _POSITIONAL]
        self._in_order = [(one.name, codecs[one.name]) for one in positional]
        self._fewest = sum(one.default is one.empty for one in positional)
        self._named = {one.name: codecs[one.name] for one in parameters if one.kind in _NAMEABLE}
        self._rest = next(((one.name, codecs[one.name]) for one in parameters if one.kind is one.VAR_POSITIONAL), _NONE)
        self._others = next((codecs[one.name] for one in parameters if one.kind is one.VAR_KEYWORD), _ANY)
        # Whether a call needs no more than an array of these.
        self._simple = not any(one.kind is one.KEYWORD_ONLY and one.default is one.empty for one in parameters)

    # ---- writing, where the call is made

    def encode(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[bytes, bytes | None]:
        """The JSON of a call; `TypeError` as Python would raise it, `PayloadError` for values that do not fit."""
        try:
            return self._encoded(args, kwargs)
        except PayloadError as error:
            raise error.saying(f"the arguments of {self.owner} do not fit") from None

    def _encoded(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[bytes, bytes | None]:
        if not kwargs and self._is_simple(len(args)):
            return _join(
                _write(name, codec, one) for (name, codec), one in zip(self._in_order, args, strict=False)
            ), None
        try:
            bound = self._signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{self.owner}: {error}") from None
        positional, named = self._each(bound, _write)
        return _join(positional), _join_named(named) if named else None

    def encode_result(self, value: Any) -> bytes:
        """The JSON of what the function returned; `PayloadError` if it does not fit the annotation."""
        try:
            return self.result.encode(value)
        except PayloadError as error:
            raise error.saying(f"the result of {self.owner} does not fit") from None

    # ---- reading, where the function runs

    def decode(
        self, args: bytes | Raw, kwargs: bytes | Raw | UnsetType | None = None
    ) -> tuple[list[Any], dict[str, Any]]:
        """The values of a call; `PayloadError` for what does not fit the function."""
        try:
            positional = _array.decode(args)
            named = _object.decode(kwargs) if kwargs else {}
        except RecursionError:
            raise PayloadError("$", f"the arguments of {self.owner} are nested too deeply") from None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise PayloadError("$", f"the arguments of {self.owner} cannot be read: {error}") from None
        if not named and self._is_simple(len(positional)):
            return [_read(name, codec, raw) for (name, codec), raw in zip(self._in_order, positional, strict=False)], {}
        try:
            bound = self._signature.bind(*positional, **named)
        except TypeError as error:
            raise PayloadError("$", f"{self.owner}: {error}") from None
        return self._each(bound, _read)

    def _is_simple(self, count: int) -> bool:
        return self._simple and self._fewest <= count <= len(self._in_order)

    def _each(self, bound: inspect.BoundArguments, do: _Do) -> tuple[list[Any], dict[str, Any]]:
        """`do` on every argument: first those of the array, then those of the object."""
        in_order = chain(self._in_order, repeat(self._rest))
        positional = [do(name, codec, one) for (name, codec), one in zip(in_order, bound.args, strict=False)]
        named = {name: do(name, self._named.get(name, self._others), one) for name, one in bound.kwargs.items()}
        return positional, named


def encode_any(args: tuple[Any, ...], owner: str) -> bytes:
    """The JSON of a call of something whose types are not known here; `PayloadError` for what cannot be JSON."""
    try:
        return _all.encode(list(args))
    except PayloadError as error:
        raise error.saying(f"the arguments of {owner} do not fit") from None


_Do = Callable[[str, Codec[Any], Any], Any]


def _write(name: str, codec: Codec[Any], value: Any) -> bytes:
    try:
        return codec.encode(value)
    except PayloadError as error:
        raise error.under(name) from None


def _read(name: str, codec: Codec[Any], raw: Raw) -> Any:
    try:
        return codec.decode(raw)
    except PayloadError as error:
        raise error.under(name) from None


def _join(values: Iterable[bytes]) -> bytes:
    return b"[" + b",".join(values) + b"]"


def _join_named(values: Mapping[str, bytes]) -> bytes:
    return msgspec.json.encode({name: Raw(value) for name, value in values.items()})


def _codec(annotation: Any, owner: str, what: str) -> Codec[Any]:
    try:
        return codec_for(Any if annotation in (NoReturn, Never) else annotation)
    except RegistrationError as error:
        raise RegistrationError(f"{owner}: {what}: {error}") from None


def _type_hints(fn: Callable[..., Any], owner: str, omitted: Collection[str]) -> dict[str, Any]:
    annotations = {name: one for name, one in fn.__annotations__.items() if name not in omitted}
    try:
        return get_type_hints(SimpleNamespace(__annotations__=annotations), fn.__globals__, include_extras=True)
    except Exception as error:
        raise RegistrationError(
            f"{owner}: its annotations cannot be read ({error}): the types must be defined above it, in the module "
            "itself, and not be imported under `if TYPE_CHECKING`"
        ) from None
