"""How commands speak: tables and colours on a terminal, plain columns in a pipe, JSON when asked."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import click
import msgspec

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")


def json_line(value: Any) -> None:
    """One JSON document on one line."""
    click.echo(msgspec.json.encode(value).decode())


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table on a terminal; in a pipe the rows alone, columns separated by tabs."""
    if not sys.stdout.isatty():
        for row in rows:
            click.echo("\t".join(one_line(cell) for cell in row))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        drawn.add_column(column, overflow="fold", no_wrap=column in _WHOLE)
    for row in rows:
        drawn.add_row(*(Text(one_line(cell), style=_STYLES.get(cell, "")) for cell in row))
    Console().print(drawn)


def fields(pairs: Iterable[tuple[str, str]]) -> None:
    """Names and values below each other; without a value the name is left out."""
    given = [(name, value) for name, value in pairs if value]
    width = max((len(name) for name, _ in given), default=0)
    for name, value in given:
        click.echo(f"{click.style(name.ljust(width), bold=True)}  {click.style(value, fg=_COLOURS.get(value))}")


def when(at: datetime | None) -> str:
    """An instant to the millisecond in UTC."""
    return "" if at is None else f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S}.{at.microsecond // 1000:03d}Z"


def one_line(text: str) -> str:
    """Text that came from users, without control characters, which could steer the terminal."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


_COLOURS = {
    "running": "cyan",
    "completed": "green",
    "failed": "red",
    "cancelled": "yellow",
    "terminated": "yellow",
    "stalled": "red",
    "held": "yellow",
    "ok": "green",
}
# Columns whose cells are short enough to stand on one line always.
_WHOLE = {"RUN", "STATUS", "STARTED", "NUMBER", "AT", "REASON"}
_STYLES = {word: str(colour) for word, colour in _COLOURS.items()}
