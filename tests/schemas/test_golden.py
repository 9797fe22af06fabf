"""What was written once is read for ever, and today's code still writes the same bytes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
import pytest
from msgspec import UNSET
from tests.schemas.examples import GROUPS, recorded

from everstep._core.model import StallReason
from everstep_schemas import errors, events, wire

HOW = "add an example to tests/schemas/examples.py and run `python -m tests.schemas.examples`"
EXAMPLES = [(group, name) for group in GROUPS for name in GROUPS[group].examples]
each_example = pytest.mark.parametrize(("group", "name"), EXAMPLES)


@each_example
def test_golden_bytes_are_read_as_what_they_say(group: str, name: str) -> None:
    assert GROUPS[group].decode(recorded(group)[name]) == GROUPS[group].examples[name]


@each_example
def test_the_same_bytes_are_still_written(group: str, name: str) -> None:
    assert GROUPS[group].encode(GROUPS[group].examples[name]) == recorded(group)[name]


@pytest.mark.parametrize("group", GROUPS)
def test_every_line_has_its_example(group: str) -> None:
    assert recorded(group).keys() == GROUPS[group].examples.keys(), HOW


# ---- what later versions add

# The start of every object that is a struct of ours. Payloads, and submissions that are handed on, belong to others;
# the two columns of the outbox are no object.
_STRUCT = re.compile(
    rb'^\{(?!"refs")|(?<!"submission":)\{(?="kind":)|(?<="error":)\{|(?<="cause":)\{|(?<="reply_to":)\{|(?<="retry":)\{'
    rb'|(?<="bodies":\[)\{'
)
LATER = b'{"in_a_later_version":[{"kind":"x"}],'


def extended(body: bytes) -> bytes:
    """The bytes with an unknown field in each struct."""
    return _STRUCT.sub(LATER, body).replace(b",}", b"}")


@pytest.mark.parametrize(("group", "name"), [one for one in EXAMPLES if one[0] != "headers"])
def test_what_a_later_version_adds_is_ignored_but_refused_from_clients(group: str, name: str) -> None:
    body, value = extended(recorded(group)[name]), GROUPS[group].examples[name]
    if isinstance(value, wire.Submission):
        with pytest.raises(msgspec.ValidationError, match="in_a_later_version"):
            GROUPS[group].decode(body)
    else:
        assert GROUPS[group].decode(body) == value


def test_unknown_fields_stood_in_nested_structs_too() -> None:
    counted = {
        name: len(_STRUCT.findall(body))
        for group in ("inbox", "commands", "history")
        for name, body in recorded(group).items()
    }
    assert counted["activity_failed"] == 3
    assert counted["activity_command"] == 2
    assert counted["activity_scheduled"] == 2
    assert counted["an activation"] > 10


# ---- everything has an example


def structs() -> set[type[msgspec.Struct]]:
    """Every struct that is stored or sent; those that others derive from are none themselves."""
    found = {
        value
        for module in (wire, events, errors)
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, msgspec.Struct)
    }
    return {one for one in found if not one.__subclasses__()} - {msgspec.Struct} | {StallReason}


def filled(value: Any) -> Iterator[tuple[type[msgspec.Struct], str]]:
    """The fields of all structs in a value that are written: those that differ from their default, or have none."""
    if isinstance(value, msgspec.Struct):
        for field in msgspec.structs.fields(value):
            held = getattr(value, field.name)
            if field.required or held not in (field.default, UNSET):
                yield type(value), field.name
                yield from filled(held)
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from filled(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from filled(one)


def test_every_field_of_every_struct_has_an_example() -> None:
    fields = {(struct, field.name) for struct in structs() for field in msgspec.structs.fields(struct)}
    assert fields - set(filled([group.examples for group in GROUPS.values()])) == set(), HOW
