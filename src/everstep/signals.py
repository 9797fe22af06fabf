"""Signals: messages to a run, by name, typed at both ends."""

from __future__ import annotations

from typing import Any, Generic, TypeVar, get_args

from everstep._core.payloads import Codec, codec_for
from everstep.errors import RegistrationError
from everstep_schemas.names import why_bad_name

T = TypeVar("T")


class Signal(Generic[T]):
    """A message that runs receive under `name`, with one value: `shipped = Signal[Shipped]("shipped")`.

    Without a type in brackets any JSON value fits.
    """

    def __init__(self, name: str, /) -> None:
        if problem := why_bad_name(name):
            raise RegistrationError(f"a signal cannot be named {name!r}: the name {problem}")
        self.name = name
        self._codec: Codec[T] | None = None

    @property
    def codec(self) -> Codec[T]:
        """Writes and reads the value. Python tells the type in brackets only after `__init__`, so it is asked here."""
        if self._codec is None:
            given = get_args(getattr(self, "__orig_class__", None))
            self._codec = codec_for(given[0] if given else Any)
        return self._codec

    def __repr__(self) -> str:
        return f"Signal({self.name!r})"
