"""Comments that excuse a line, `# everstep: ignore[EV104] the reason`, and those of them that excuse nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from everstep.checking.findings import Finding
from everstep.checking.rules import RULES
from everstep.checking.source import Excuse, Source

UNUSED = "EV900"
Spanning = tuple[Finding, int]  # a finding and the last line of its code


def apply(findings: Iterable[Spanning], sources: Iterable[Source]) -> Iterator[Finding]:
    """The findings that no comment excuses, and a note for each comment that excuses none.

    The comment stands on the finding's line, or on the last line of its expression.
    """
    excuses = [(source.path, excuse) for source in sources for excuse in source.excuses]
    used: set[tuple[Path, int, str]] = set()
    for finding, end_line in findings:
        excusing = {
            (path, excuse.line, finding.rule)
            for path, excuse in excuses
            if path == finding.path and excuse.line in (finding.line, end_line) and finding.rule in excuse.rules
        }
        used |= excusing
        if not excusing:
            yield finding
    for path, excuse in excuses:
        yield from _unused(path, excuse, used)


def _unused(path: Path, excuse: Excuse, used: set[tuple[Path, int, str]]) -> Iterator[Finding]:
    if not excuse.rules:
        says = "`everstep: ignore` names no rule"
        yield Finding(path, excuse.line, excuse.column, UNUSED, says, "write `everstep: ignore[EV…]` and the reason")
    for rule in excuse.rules:
        if rule not in RULES:
            yield Finding(path, excuse.line, excuse.column, UNUSED, f"there is no rule {rule}", "correct its number")
        elif (path, excuse.line, rule) not in used:
            says = f"`ignore[{rule}]` excuses nothing here"
            yield Finding(path, excuse.line, excuse.column, UNUSED, says, RULES[UNUSED].fix)
