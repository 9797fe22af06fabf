"""What a check finds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from everstep.checking.rules import RULES


@dataclass(frozen=True, order=True)
class Finding:
    """One thing that replay may not repeat, where it stands, and how workflows get there. Columns count from 1."""

    path: Path
    line: int
    column: int
    rule: str
    message: str
    fix: str
    workflow: str = ""
    through: tuple[str, ...] = ()

    @property
    def is_note(self) -> bool:
        """Whether it is only worth knowing."""
        return RULES[self.rule].is_note


@dataclass(frozen=True)
class Report:
    """What a check found, and how much it read. `unread` names functions without a source."""

    findings: tuple[Finding, ...]
    workflows: int
    functions: int
    unread: tuple[str, ...] = ()
