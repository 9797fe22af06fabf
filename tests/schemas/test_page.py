"""The examples of docs/messages.md are real messages, and its links lead somewhere."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from tests.schemas.examples import recorded

from everstep_schemas.documents.topics import CHANNELS

PAGE = Path(__file__).parents[2] / "docs" / "messages.md"
TEXT = PAGE.read_text()
EXAMPLES = [line for block in re.findall(r"^```json\n(.*?)^```$", TEXT, re.M | re.S) for line in block.splitlines()]
GOLDEN = [
    json.loads(body)
    for group in ("submissions", "inbox", "commands", "control", "lifecycle")
    for body in recorded(group).values()
]


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_is_a_golden_message(example: str) -> None:
    assert json.loads(example) in GOLDEN


def test_there_are_examples_of_every_kind_that_others_write() -> None:
    shown = {json.loads(example).get("kind") for example in EXAMPLES}
    assert shown >= {"start", "signal", "cancel", "terminate", "activity_completed", "activity_failed"}


def test_every_topic_is_in_the_table() -> None:
    for channel in CHANNELS.values():
        assert f"| `{channel.address.format(queue='<queue>')}` |" in TEXT


def test_links_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)]+)\)", TEXT)
    assert links
    assert [link for link in links if not (PAGE.parent / link).exists()] == []
