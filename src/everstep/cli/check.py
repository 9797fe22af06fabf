"""`everstep check`: the source of workflows, read for what replay could not repeat."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import click

from everstep.app import load
from everstep.checking import RULES, Finding, Report, check
from everstep.cli._failures import DONE, FINDING
from everstep.cli._output import as_json, json_line, one_line


def _chosen(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> frozenset[str]:
    """The rules that `EV101,EV2` means: whole numbers and beginnings of numbers."""
    wanted = [one.strip().upper() for value in values for one in value.split(",") if one.strip()]
    for one in wanted:
        if not any(rule.startswith(one) for rule in RULES):
            raise click.BadParameter(f"there is no rule {one}; there are {', '.join(RULES)}")
    return frozenset(rule for rule in RULES if rule.startswith(tuple(wanted)))


@click.command("check")
@click.argument("app", metavar="MODULE:app")
@click.option("--select", multiple=True, callback=_chosen, metavar="RULES", help="Only these, such as EV101,EV2.")
@click.option("--ignore", multiple=True, callback=_chosen, metavar="RULES", help="All but these.")
@as_json
def check_command(app: str, select: frozenset[str], ignore: frozenset[str], as_json: bool) -> int:
    """Check the workflows of MODULE:app for what replay could not repeat.

    Reads their source and everything of yours that they reach; activities may do anything and are not read. A comment
    `# everstep: ignore[EV101] reason` excuses a line. Exit code 1 if something was found.
    """
    report = check(load(app), (select or RULES.keys()) - ignore)
    if as_json:
        json_line(_document(report))
    else:
        _tell(report)
    return FINDING if any(not finding.is_note for finding in report.findings) else DONE


def _tell(report: Report) -> None:
    for finding in report.findings:
        click.echo(one_line(_line(finding)))
    for name in report.unread:
        click.echo(f"note: {name} was not read: it has no source here", err=True)
    for hint in _hints(report.findings):
        click.echo(hint, err=True)
    read = f"{_counted(report.workflows, 'workflow')}, {_counted(report.functions, 'function')}"
    click.echo(f"{_counted(len(report.findings), 'finding')} in {read}", err=True)


def _line(finding: Finding) -> str:
    place = f"{_shown(finding.path)}:{finding.line}:{finding.column}"
    return f"{place} {finding.rule} {finding.message}{_way(finding)}: {finding.fix}"


def _way(finding: Finding) -> str:
    if not finding.workflow:
        return ""
    through = f" through {' -> '.join(finding.through)}" if finding.through else ""
    return f" (reached from workflow {finding.workflow!r}{through})"


def _hints(findings: Iterable[Finding]) -> Iterator[str]:
    """Where each rule is documented."""
    for number in sorted({finding.rule for finding in findings}):
        rule = RULES[number]
        yield f"{number} {rule.name}: see docs/determinism.md#{number.lower()}-{rule.name}"


def _counted(count: int, thing: str) -> str:
    return f"{count} {thing}{'' if count == 1 else 's'}"


def _shown(path: Path) -> str:
    """Relative to where the command was given, if it lies there."""
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)


def _document(report: Report) -> dict[str, Any]:
    return {
        "findings": [
            {
                "path": _shown(finding.path),
                "line": finding.line,
                "column": finding.column,
                "rule": finding.rule,
                "name": RULES[finding.rule].name,
                "message": finding.message,
                "fix": finding.fix,
                "workflow": finding.workflow or None,
                "through": finding.through,
                "note": finding.is_note,
            }
            for finding in report.findings
        ],
        "workflows": report.workflows,
        "functions": report.functions,
        "unread": report.unread,
    }
