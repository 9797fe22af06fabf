"""`everstep list`, `describe`, `history` and `result`."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from datetime import datetime
from itertools import chain, islice
from typing import get_args

import click

from everstep import words
from everstep._client.transport import Ended
from everstep.cli._output import as_json, fields, json_line, one_line, table, when
from everstep.cli._parsing import attribute_values
from everstep.cli._results import awaited, ending, show
from everstep.cli._sources import Source, source
from everstep.histories import HistoryLine
from everstep.pending import Pending
from everstep.reads import Condition, Filter, HistoryEvent, RunDescription, RunSummary, Status
from everstep_schemas import events
from everstep_schemas.events import AttributeValue

_MOST_WAITS = 10
_MOST_MILESTONES = 5

run_number = click.option("--run", type=click.IntRange(1), help="Which run of the id; the newest by default.")


@click.command("list")
@click.option("--workflow", help="Only runs of this workflow.")
@click.option(
    "--status",
    type=click.Choice([*get_args(Status), *get_args(Condition)]),
    help="Only runs of this status or condition.",
)
@click.option(
    "--attribute",
    "attributes",
    metavar="NAME=JSON",
    multiple=True,
    callback=attribute_values,
    help="Only runs with this attribute; may be repeated.",
)
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="The most runs to show.")
@as_json
def list_command(
    workflow: str | None, status: Filter | None, attributes: dict[str, AttributeValue], limit: int, as_json: bool
) -> None:
    """List runs, newest first.

    everstep list --status running --attribute 'customer="C-9"'
    """
    runs = asyncio.run(_list(workflow, status, attributes, limit))
    if as_json:
        for run in runs:
            json_line(run)
    else:
        table(("ID", "RUN", "WORKFLOW", "STATUS", "STARTED", "SAYS"), map(_row, runs))


async def _list(
    workflow: str | None, status: Filter | None, attributes: dict[str, AttributeValue], limit: int
) -> list[RunSummary]:
    async with source() as here:
        return [run async for run in here.runs(workflow, status, limit, attributes)]


def _row(run: RunSummary) -> tuple[str, ...]:
    status = run.condition or run.status
    return run.workflow_id, str(run.run), run.workflow, status, when(run.started_at), run.custom_status or ""


@click.command("describe")
@click.argument("id", metavar="ID")
@run_number
@as_json
def describe_command(id: str, run: int | None, as_json: bool) -> None:
    """Describe the run ID: its state, and what it waits for or how it ended."""
    description, more = asyncio.run(_describe(id, run))
    if as_json:
        json_line(description)
    else:
        fields([*_described(description), *more])


async def _describe(id: str, run: int | None) -> tuple[RunDescription, list[tuple[str, str]]]:
    """The run, what it has reached, and what it waits for or how it ended."""
    async with source() as here:
        description = await here.describe(id, run)
        if description.status == "running":
            return description, list(await _told(here, description))
        told = await _told(here, description)
        return description, [*told, *ending(await here.ended(id, description.run))]


async def _told(here: Source, run: RunDescription) -> Iterator[tuple[str, str]]:
    """What the history tells."""
    open_ones, milestones = Pending(), deque[tuple[datetime, str]](maxlen=_MOST_MILESTONES)
    async for event in here.history(run.workflow_id, run.run):
        open_ones.add(*_parts(event))
        if isinstance(event.event, events.MilestoneReached):
            milestones.append((event.at, event.event.text))
    waits = list(islice(open_ones.lines(), _MOST_WAITS)) if run.status == "running" else []
    more = len(open_ones) - len(waits) if waits else 0
    return chain(
        (("milestone", f"{words.shorten(one_line(text))}, {words.moment(at)}") for at, text in milestones),
        (("waits for", wait) for wait in waits),
        (("waits for", f"and {more} more"),) if more else (),
    )


def _parts(event: HistoryEvent) -> words.Entry:
    return event.seq, event.at, event.event


def _described(run: RunDescription) -> Iterator[tuple[str, str]]:
    yield "id", run.workflow_id
    yield "run", str(run.run)
    yield (
        "workflow",
        f"{run.workflow} version {run.version}" if run.version else f"{run.workflow}, version not chosen yet",
    )
    yield "attempt", "" if run.attempt == 1 else str(run.attempt)
    yield "parent", "" if run.parent is None else f"{run.parent.workflow_id}, run {run.parent.run}"
    for name, value in run.attributes.items():
        yield "attribute", words.shorten(words.attribute_text(name, value))
    for name, noted in run.memo.items():
        yield "memo", f"{name}={words.shorten(noted)}"
    yield "status", run.status
    yield "condition", run.condition or ""
    if run.reason is not None:
        yield "because", run.reason.message
        yield "expected", run.reason.expected or ""
        yield "got", run.reason.got or ""
        yield "at event", "" if run.reason.seq is None else str(run.reason.seq)
    yield "says" if run.closed_at is None else "last said", run.custom_status or ""
    yield "started", when(run.started_at)
    yield "begins", when(run.begins_at)
    yield "ends by", when(run.expires_at) if run.closed_at is None else ""
    yield "ended", when(run.closed_at)
    yield "took", words.span(run.closed_at - run.started_at) if run.closed_at else ""


@click.command("history")
@click.argument("id", metavar="ID")
@run_number
@as_json
def history_command(id: str, run: int | None, as_json: bool) -> None:
    """Tell what happened in the run ID, one line for each event.

    With --json, the events themselves, each with its run; a file of them is what `everstep replay --from` takes.
    """
    asyncio.run(_exported(id, run) if as_json else _history(id, run))


async def _history(id: str, run: int | None) -> None:
    teller = words.Teller()
    async with source() as here:
        async for event in here.history(id, run):
            for line in teller.tell(*_parts(event)):
                number = "" if line.seq is None else str(line.seq)
                click.echo(one_line(f"{number:>5}  {when(line.at)}  {line.text}"))


async def _exported(id: str, run: int | None) -> None:
    async with source() as here:
        number = (await here.describe(id, run)).run
        async for event in here.history(id, number):
            json_line(HistoryLine(workflow_id=id, run=number, seq=event.seq, at=event.at, event=event.event))


@click.command("result")
@click.argument("id", metavar="ID")
@run_number
@click.option("--timeout", type=click.FloatRange(0), metavar="SECONDS", help="Give up waiting after so long.")
@as_json
def result_command(id: str, run: int | None, timeout: float | None, as_json: bool) -> int:
    """Wait for the end of the run ID and print what it returned, as JSON."""
    return show(asyncio.run(_result(id, run, timeout)), as_json)


async def _result(id: str, run: int | None, timeout: float | None) -> Ended:
    limit = asyncio.timeout(timeout)
    try:
        async with limit, source() as here:
            return await awaited(id, here.ended(id, run))
    except TimeoutError:
        if not limit.expired():
            raise
        raise TimeoutError(f"run {id!r} is still running after {timeout:g} s") from None
