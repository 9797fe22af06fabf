"""The guide's troubleshooting is about what there is: messages that the code has, and every class of error."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from tests.docs.guide import TROUBLESHOOTING

import everstep
from everstep import PayloadError
from everstep._core.payloads import codec_for

ROOT = Path(__file__).parents[2]
BY_MESSAGE, _, BY_CLASS = TROUBLESHOOTING.partition("By class.")
MESSAGES = [message.strip() for _, message in re.findall(r"^\| (`+)(.+?)\1 \|", BY_MESSAGE, re.MULTILINE)]
OF_VALUES = "Expected `int`, got `str` - at `$.order.quantity`"
# What stands in a message for a value: something quoted, in parentheses, a number, a name with a dot, three dots.
VALUE = re.compile(r"'[^']*'|[\w$]+(?:\.\w+)+(?:\(\))?|\([^)]*\)|\b\w*\d+\b|…")
ERRORS = {
    name
    for name in everstep.__all__
    if isinstance(thing := getattr(everstep, name), type) and issubclass(thing, BaseException)
}


@cache
def texts() -> list[str]:
    """All texts in the code, those with values in them as their fixed parts, with a line break for each value."""
    files = [path for part in ("src", "services") for path in (ROOT / part).rglob("*.py")]
    return [text for file in files for text in texts_in(ast.parse(file.read_text()))]


def texts_in(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "\n" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def fixed_parts(message: str) -> list[str]:
    parts = (part.strip(" :,") for part in VALUE.split(message))
    return [part for part in parts if re.search(r"\w", part)]


def says(text: str, parts: list[str]) -> bool:
    """Whether the text has all the parts, in order."""
    return re.search(".*".join(map(re.escape, parts)), text, re.DOTALL) is not None


@pytest.mark.parametrize("message", [message for message in MESSAGES if message != OF_VALUES])
def test_the_code_says_what_is_quoted(message: str) -> None:
    """Its phrases stand in one text; a word alone, which may be put in where there is something to say, in any."""
    parts = fixed_parts(message)
    phrases = [part for part in parts if " " in part]
    assert phrases or len(parts) > 1
    assert any(says(text, phrases or parts) for text in texts()), f"no text in the code has {phrases}"
    assert all(any(word in text for text in texts()) for word in parts)


def test_values_that_do_not_fit_are_told_as_quoted() -> None:
    assert OF_VALUES in MESSAGES
    with pytest.raises(PayloadError) as told:
        codec_for(dict[str, int]).decode(b'{"quantity": "many"}')
    path = OF_VALUES.partition(" - ")[0]
    assert str(told.value).startswith(path)
    error = PayloadError("$.quantity", path).under("order")
    assert str(error) == OF_VALUES


def test_there_are_messages_at_all() -> None:
    assert len(MESSAGES) > 12


def test_every_error_is_explained() -> None:
    assert {name for name in ERRORS if f"`{name}`" not in BY_CLASS} == set()


def test_no_error_is_made_up() -> None:
    named = set(re.findall(r"`([A-Z]\w+)`", BY_CLASS))
    assert named - ERRORS - {"TimeoutError", "BaseException"} == set()


def test_which_errors_have_another_base_is_said() -> None:
    outside = {name for name in ERRORS if not issubclass(getattr(everstep, name), everstep.EverstepError)}
    sentence = BY_CLASS.partition("|")[0]
    assert set(re.findall(r"`(\w+)`", sentence)) == {"EverstepError", *outside}
