"""Signals: messages to a run, by name, typed at both ends."""

from __future__ import annotations

from typing import Any, ClassVar, Generic, TypeVar, get_args

from everstep._core.payloads import Codec, codec_for
from everstep._core.texts import check_name
from everstep.errors import PayloadError, RegistrationError
from everstep_schemas.names import why_bad_name

T = TypeVar("T")


class Declared:
    """Something that is sent to runs under a name, with types in brackets; without them any JSON value fits."""

    kind: ClassVar[str]

    def __init__(self, name: str, /) -> None:
        if problem := why_bad_name(name):
            raise RegistrationError(f"a {self.kind} cannot be named {name!r}: the name {problem}")
        self.name = name
        self._codecs: dict[int, Codec[Any]] = {}

    def _codec(self, position: int) -> Codec[Any]:
        """The codec of a type in brackets. Python tells those only after `__init__`, so they are asked here."""
        codec = self._codecs.get(position)
        if codec is None:
            given = get_args(getattr(self, "__orig_class__", None))
            codec = self._codecs[position] = codec_for(given[position] if position < len(given) else Any)
        return codec

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"


class Signal(Declared, Generic[T]):
    """A message that runs receive under `name`, with one value: `shipped = Signal[Shipped]("shipped")`."""

    kind = "signal"

    @property
    def codec(self) -> Codec[T]:
        """Writes and reads the value."""
        return self._codec(0)


def declared(signal: Signal[Any] | str, type: Any = Any) -> tuple[str, Codec[Any]]:
    """The name of a signal and what writes and reads its value."""
    if isinstance(signal, Signal):
        return signal.name, signal.codec
    check_name("signal", signal)
    return signal, codec_for(type)


def encoded(signal: Signal[Any] | str, value: Any) -> tuple[str, bytes]:
    """The name of a signal and its value as JSON; `PayloadError` if that does not fit."""
    name, codec = declared(signal)
    try:
        return name, codec.encode(value)
    except PayloadError as error:
        raise error.saying(f"the value of signal {name!r} does not fit") from None
