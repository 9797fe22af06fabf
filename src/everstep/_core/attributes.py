"""Attributes: named values of a run that others can search for. Each change is a command."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from everstep._core.journal import Journal
from everstep_schemas.events import AttributesSet
from everstep_schemas.events import AttributeValue as Stored
from everstep_schemas.names import why_bad_name

AttributeValue = str | int | float | bool | datetime | Sequence[str]
MAX_BYTES = 16 * 1024


class Attributes(MutableMapping[str, AttributeValue]):
    """The run's attributes. Instants are kept, and come back, as text: RFC 3339 in UTC."""

    def __init__(self, journal: Journal, values: Mapping[str, Stored]) -> None:
        self._journal = journal
        self._values: dict[str, Stored] = dict(values)

    def __getitem__(self, name: str) -> AttributeValue:
        value = self._values[name]
        return list(value) if isinstance(value, list) else value

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"Attributes({self._values!r})"

    def __setitem__(self, name: str, value: AttributeValue) -> None:
        """Raises `TypeError` for a value of another type and `ValueError` for one that cannot be stored."""
        new = stored(name, value)
        if name in self._values and self._values[name] == new and type(self._values[name]) is type(new):
            return
        check_size({**self._values, name: new})
        self._record(name, new)

    def __delitem__(self, name: str) -> None:
        if name not in self._values:
            raise KeyError(name)
        self._record(name, None)

    def _record(self, name: str, value: Stored | None) -> None:
        _, recorded = self._journal.record(AttributesSet(values={name: value}))
        for changed, kept in recorded.values.items():
            if kept is None:
                self._values.pop(changed, None)
            else:
                self._values[changed] = kept

    def snapshot(self) -> dict[str, Stored]:
        return dict(self._values)

    def encoded(self) -> bytes | None:
        """All of them as JSON, None for none."""
        return msgspec.json.encode(self._values) if self._values else None


def stored(name: str, value: Any) -> Stored:
    """A value as it is kept. Raises `TypeError` and `ValueError` in words about the attribute."""
    if problem := why_bad_name(name) if isinstance(name, str) else "is no text":
        raise ValueError(f"attribute {str(name)[:100]!r}: the name {problem}")
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise ValueError(f"attribute {name!r}: an instant needs a time zone: datetime(…, tzinfo=UTC)")
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, bool | int | float | str):
        return _checked(name, value)
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        return [_text(f"{name}[{place}]", one) for place, one in enumerate(value)]
    raise TypeError(
        f"attribute {name!r} is text, a number, true or false, an instant or a list of text, "
        f"not {type(value).__qualname__}"
    )


def _text(place: str, value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"attribute {place!r} is text, as all items of a list are, not {type(value).__qualname__}")
    return str(_checked(place, value))


def _checked(name: str, value: str | float | bool) -> str | int | float | bool:
    if isinstance(value, str):
        text = str.__str__(value)
        if "\0" in text:
            raise ValueError(f"attribute {name!r} holds a NUL character, which PostgreSQL cannot store")
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ValueError(f"attribute {name!r} is not valid Unicode (it holds half of a surrogate pair)") from None
        return text
    if isinstance(value, float) and not (value == value and abs(value) != float("inf")):
        raise ValueError(f"attribute {name!r}: JSON has no {value}")
    return value


def check_size(values: Mapping[str, Stored]) -> None:
    """Raises `ValueError` if attributes are too large for what is searched."""
    size = len(msgspec.json.encode(values))
    if size > MAX_BYTES:
        raise ValueError(f"the attributes would take {size} bytes of JSON, and {MAX_BYTES} are allowed: use the memo")
