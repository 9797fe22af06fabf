"""Texts such as `customer="C-9"`: a name and a value in JSON, as they stand in commands and in addresses."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from msgspec import Raw

from everstep._core.attributes import check_size, stored
from everstep_schemas.events import AttributeValue
from everstep_schemas.names import why_bad_name

_NOT_TEXT = 'text needs its quotes, as in name="like this"'


def named(text: str) -> tuple[str, Raw]:
    """The name and the value of `name=JSON`; `ValueError` in words for what is no such text."""
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f'{text[:100]!r} is not name=JSON, as in customer="C-9"')
    if why := why_bad_name(name):
        raise ValueError(f"the name {name[:100]!r} {why}")
    try:
        value.encode()
        msgspec.json.decode(value)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError) as error:
        raise ValueError(f"{name}: {value[:100]!r} is not JSON ({error}); {_NOT_TEXT}") from error
    return name, Raw(value.encode())


def all_named(texts: Iterable[str]) -> dict[str, Raw]:
    """The values of several such texts; `ValueError` if a name comes twice."""
    found: dict[str, Raw] = {}
    for name, value in map(named, texts):
        if name in found:
            raise ValueError(f"{name!r} is given twice")
        found[name] = value
    return found


def attributes(texts: Iterable[str]) -> dict[str, AttributeValue]:
    """The attributes in several such texts; `ValueError` for a value that none can have."""
    values = {name: _attribute(name, value) for name, value in all_named(texts).items()}
    check_size(values)
    return values


def _attribute(name: str, value: Raw) -> AttributeValue:
    try:
        return stored(name, msgspec.json.decode(value))
    except TypeError as error:
        raise ValueError(str(error)) from error
