"""The authors' guide as a program: its code with the page's own line numbers, and the sections that show code."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from everstep import App

PAGE = Path(__file__).parents[2] / "docs" / "writing-workflows.md"
TEXT = PAGE.read_text()
TROUBLESHOOTING = TEXT.partition("\n## Troubleshooting\n")[2]


@dataclass(frozen=True)
class Section:
    """A part of the page with code in it. `lines` are those of the page."""

    title: str
    lines: range

    def workflows(self, app: App) -> set[tuple[str, int]]:
        """The workflows that it defines, by name and version."""
        return {
            (workflow.name, workflow.version)
            for versions in app.workflows.values()
            for workflow in versions.values()
            if workflow.fn.__code__.co_firstlineno in self.lines
        }


def program(text: str = TEXT) -> str:
    """The Python of the page, everything else left blank, so that errors name the page's lines."""
    kept, within = [], False
    for line in text.splitlines():
        if line.startswith("```"):
            within = line == "```python"
            line = ""
        kept.append(line if within else "")
    return "\n".join(kept) + "\n"


def sections() -> list[Section]:
    """Those with code, in order."""
    lines, code = TEXT.splitlines(), program().splitlines()
    starts = [number for number, line in enumerate(lines, 1) if line.startswith("## ")]
    ranges = [range(start, end) for start, end in zip(starts, [*starts[1:], len(lines) + 1], strict=True)]
    return [
        Section(lines[numbers.start - 1].removeprefix("## "), numbers)
        for numbers in ranges
        if any(code[number - 1] for number in numbers)
    ]


def contents() -> list[str]:
    """What the page's list of contents names, in order."""
    before = TEXT.partition("\n## ")[0]
    return re.findall(r"\[([^\]]+)\]\(#", before)


def titles() -> list[str]:
    return re.findall(r"^## (.*)$", TEXT, re.MULTILINE)
