"""Writes the tables of the reference pages from the code: `python docs/generate.py`. A test says when to do so.

Everything between `<!-- generated: NAME -->` and `<!-- end -->` belongs to this script.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import click

from everstep import _doors, settings, telemetry
from everstep.checking.rules import PRELUDE, RULES, Rule
from everstep.cli import ALIASES, COMMANDS, everstep
from everstep.conformance import CHECKS
from everstep_schemas.documents.lifecycle import KINDS

HERE = Path(__file__).parent
PAGES = ("settings.md", "metrics.md", "cli.md", "messages.md", "determinism.md", "other-languages.md")


def settings_table() -> Iterator[str]:
    yield "| variable | default | meaning |"
    yield "| --- | --- | --- |"
    for spec in settings.specs():
        yield f"| `{spec.variable}` | {_code(spec.default)} | {spec.help}{' Secret.' if spec.secret else ''} |"


def metrics_table() -> Iterator[str]:
    yield "| metric | kind | labels | of | meaning |"
    yield "| --- | --- | --- | --- | --- |"
    for metric in telemetry.METRICS:
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        yield f"| `{metric.name}` | {metric.kind} | {labels} | {metric.process} | {metric.help} |"


def lifecycle_table() -> Iterator[str]:
    yield "| `ce_type` | always | sometimes | meaning |"
    yield "| --- | --- | --- | --- |"
    for kind in KINDS:
        always, sometimes = (", ".join(f"`{name}`" for name in names) for names in (kind.always, kind.sometimes))
        yield f"| `{kind.type}` | {always} | {sometimes} | {kind.description} |"


def checks() -> Iterator[str]:
    yield "| rule | check |"
    yield "| --- | --- |"
    for check in sorted(CHECKS, key=lambda check: check.rule):
        yield f"| {check.rule} | {check.title} |"


def doors() -> Iterator[str]:
    yield "| | refused | instead |"
    yield "| --- | --- | --- |"
    for group in _doors.GROUPS:
        closed = dict.fromkeys((*group.functions, *group.events))
        yield f"| {group.what} | {', '.join(f'`{name}`' for name in closed)} | {group.instead} |"


def prelude() -> Iterator[str]:
    yield _python(PRELUDE)


def rules() -> Iterator[str]:
    yield "| | | finds |"
    yield "| --- | --- | --- |"
    for rule in RULES.values():
        yield f"| [{rule.number}](#{rule.number.lower()}-{rule.name}) | {rule.name} | {rule.finds} |"
    for rule in RULES.values():
        yield from _rule(rule)


def _rule(rule: Rule) -> Iterator[str]:
    yield from ("", f"### {rule.number} {rule.name}", "")
    note = " A note: it alone is no failure." if rule.is_note else ""
    yield from (f"Finds {rule.finds}.{note}", "", rule.why, "")
    yield from (f"**Instead:** {rule.fix}.", "", _python(rule.bad), "", "Better:", "", _python(rule.good))


def _python(code: str) -> str:
    return f"```python\n{code}```"


def commands() -> Iterator[str]:
    with click.Context(everstep, info_name="everstep") as root:
        for name in COMMANDS:
            aliases = [alias for alias, of in ALIASES.items() if of == name]
            yield from _command(_named(everstep, root, name), root, name, aliases)


def _command(command: click.Command, parent: click.Context, name: str, aliases: list[str]) -> Iterator[str]:
    context = click.Context(command, info_name=name, parent=parent)
    if isinstance(command, click.Group):
        for sub in command.list_commands(context):
            yield from _command(_named(command, context, sub), context, sub, [])
        return
    arguments = " ".join(command.collect_usage_pieces(context)).replace("[OPTIONS]", "").split()
    yield from (f"## `{' '.join([context.command_path, *arguments])}`", "")
    if aliases:
        yield from (f"Also `everstep {' '.join(aliases)}`.", "")
    yield from (_paragraphs(command.help or ""), "")
    options = [option for option in command.params if isinstance(option, click.Option)]
    for option in options:
        record = option.get_help_record(context)
        if record is not None:
            yield f"* `{record[0]}`: {record[1]}"
    if options:
        yield ""


def _named(group: click.Group, context: click.Context, name: str) -> click.Command:
    command = group.get_command(context, name)
    if command is None:
        raise LookupError(name)
    return command


def _paragraphs(help: str) -> str:
    """Click's paragraphs, with commands in them as code."""
    lines = [" ".join(part.split()) for part in help.split("\n\n")]
    return "\n\n".join(f"`{line}`" if line.startswith("everstep ") else line for line in lines)


def _code(text: str) -> str:
    return f"`{text}`" if text and " " not in text else text


SECTIONS: dict[str, Callable[[], Iterator[str]]] = {
    "settings": settings_table,
    "metrics": metrics_table,
    "lifecycle": lifecycle_table,
    "commands": commands,
    "checks": checks,
    "doors": doors,
    "prelude": prelude,
    "rules": rules,
}


def page(text: str) -> str:
    """A page with its generated sections as they should be."""

    def fresh(match: re.Match[str]) -> str:
        body = "\n".join(SECTIONS[match[1]]()).strip()
        return f"<!-- generated: {match[1]} -->\n{body}\n<!-- end -->"

    return re.sub(r"<!-- generated: (\w+) -->\n.*?<!-- end -->", fresh, text, flags=re.DOTALL)


if __name__ == "__main__":
    for name in PAGES:
        path = HERE / name
        path.write_text(page(path.read_text()))
