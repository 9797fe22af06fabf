"""`everstep conformance`: a worker in any language, against what any worker must do."""

from __future__ import annotations

import asyncio
import textwrap
from collections.abc import Iterable
from typing import Any

import click

from everstep.cli._failures import DONE, FINDING
from everstep.cli._output import as_json, json_line
from everstep.conformance import CHECKS, Outcome, run
from everstep.settings import Settings
from everstep_schemas.names import why_bad_queue

_MARKS = {"ok": ("ok", "green"), "failed": ("FAILED", "red"), "not run": ("not run", "yellow")}


def _queue(context: click.Context, parameter: click.Parameter, value: str) -> str:
    if why := why_bad_queue(value):
        raise click.BadParameter(f"{value!r} {why}")
    return value


@click.command("conformance", context_settings={"allow_interspersed_args": False})
@click.option("--queue", default="default", show_default=True, callback=_queue, help="The queue that it serves.")
@click.option("--rule", "rules", type=int, multiple=True, metavar="N", help="Only this rule; may be repeated.")
@as_json
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- COMMAND...")
def conformance_command(queue: str, rules: tuple[int, ...], as_json: bool, command: tuple[str, ...]) -> int:
    """Check the worker that COMMAND starts, in whatever language it is written.

    The rules stand in docs/worker.md; docs/other-languages.md says which activities the worker has to offer. It is told
    where to work by EVERSTEP_KAFKA_BOOTSTRAP, EVERSTEP_TOPIC_PREFIX and EVERSTEP_QUEUE. Needs
    EVERSTEP_KAFKA_BOOTSTRAP; topics of its own are created and deleted. Exit code 1 if a rule is broken.
    """
    if unknown := sorted(set(rules).difference(check.rule for check in CHECKS)):
        raise click.BadParameter(f"nothing checks rule {unknown[0]}", param_hint="--rule")
    settings = Settings.from_environment(needs=["kafka_bootstrap"])
    if not as_json:
        click.echo(f"checking {command[0]}; this takes about a minute", err=True)
    outcomes = asyncio.run(run(command, settings, queue=queue, only=rules))
    for outcome in outcomes:
        if as_json:
            json_line(_document(outcome))
        else:
            _tell(outcome)
    return _sum(outcomes)


def _tell(outcome: Outcome) -> None:
    word, colour = _MARKS[outcome.status]
    click.echo(f"{click.style(word.ljust(7), fg=colour)}  rule {outcome.check.rule:>2}  {outcome.check.title}")
    if outcome.status != "ok":
        for name, text in (("expected", outcome.expected), ("seen", outcome.seen)):
            click.echo(textwrap.indent(f"{name}: {_printable(text)}", " " * 18))


def _printable(text: str) -> str:
    """What a worker wrote, without control characters, which could steer the terminal."""
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)


def _sum(outcomes: Iterable[Outcome]) -> int:
    broken = [outcome for outcome in outcomes if outcome.status != "ok"]
    rules = sorted({outcome.check.rule for outcome in broken})
    words = f"broken: {', '.join(map(str, rules))}" if rules else "every rule holds"
    click.echo(f"{words}; the rules stand in docs/worker.md", err=True)
    return FINDING if broken else DONE


def _document(outcome: Outcome) -> dict[str, Any]:
    return {
        "rule": outcome.check.rule,
        "check": outcome.check.title,
        "status": outcome.status,
        "seconds": round(outcome.seconds, 1),
        "expected": outcome.expected or None,
        "seen": outcome.seen or None,
    }
