"""The reference pages say what the code says."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
generate = runpy.run_path(str(DOCS / "generate.py"))


@pytest.mark.parametrize("name", generate["PAGES"])
def test_the_page_is_current(name: str) -> None:
    text = (DOCS / name).read_text()
    assert generate["page"](text) == text, "run `python docs/generate.py`"


def test_every_section_stands_in_a_page() -> None:
    pages = "".join((DOCS / name).read_text() for name in generate["PAGES"])
    assert all(f"<!-- generated: {section} -->" in pages for section in generate["SECTIONS"])
