"""One rule of the check."""

from __future__ import annotations

from dataclasses import dataclass
from textwrap import dedent

# What every example stands below.
PRELUDE = """\
import asyncio
from dataclasses import dataclass

from everstep import App, Context, days, seconds

app = App("shop")


@app.activity
async def charge(order: str, cents: int) -> str: ...
"""


@dataclass(frozen=True)
class Rule:
    """`fix` says what to do in general; a finding may say it more exactly. A note alone does not fail a check."""

    number: str
    name: str
    finds: str
    why: str
    fix: str
    bad: str
    good: str
    is_note: bool = False


def rule(number: str, name: str, finds: str, why: str, fix: str, bad: str, good: str, is_note: bool = False) -> Rule:
    return Rule(number, name, finds, why, fix, dedent(bad).strip() + "\n", dedent(good).strip() + "\n", is_note)
