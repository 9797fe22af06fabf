"""`everstep replay`: does this code go on with the runs that there are? Asked before it is deployed.

Every history is replayed in two processes that hash strings differently, since what is only in order within one process
is not in the next. Nothing is written, no activity runs, and from a file no server is needed.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import BinaryIO

import click
import msgspec

from everstep._core.model import Identity, StallReason
from everstep._replaying import Outcome, Replayer
from everstep.cli._failures import DONE, FINDING
from everstep.cli._output import as_json, json_line, one_line
from everstep.histories import History, NoHistory, read_all
from everstep.settings import Settings

_EVERY = 20


class Finding(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A run that this code cannot go on with (`differs`), or whose commands it gives other `arguments`.

    At the event `seq` the history holds `expected`, the code produces `got`. `elsewhere`: only in a process that hashes
    strings by another seed.
    """

    workflow_id: str
    run: int
    workflow: str
    version: int
    kind: str
    message: str
    seq: int | None = None
    expected: str | None = None
    got: str | None = None
    commands: int = 0
    elsewhere: bool = False


class Report(msgspec.Struct, kw_only=True):
    """What replaying came to. `not_begun` counts runs that have no history yet."""

    replayed: int = 0
    not_begun: int = 0
    differs: list[Finding] = []
    arguments: list[Finding] = []


@click.command("replay")
@click.argument("app", metavar="MODULE:app")
@click.option(
    "--from",
    "file",
    type=click.File("rb"),
    metavar="FILE",
    help="Histories that `everstep history ID --json` has printed, of one or more runs; - for standard input.",
)
@click.option("--all-open", is_flag=True, help="All open runs, out of EVERSTEP_POSTGRES_DSN.")
@click.option("--workflow", help="Only runs of this workflow.")
@click.option("--limit", type=click.IntRange(1), help="The most runs to replay.")
@as_json
def replay_command(
    app: str, file: BinaryIO | None, all_open: bool, workflow: str | None, limit: int | None, as_json: bool
) -> int:
    """Replay histories with the code of MODULE:app, and tell what it would do differently.

    everstep replay orders.workflows:app --all-open

    Run it before a deploy: a run whose history the new code does not repeat would be stalled. Nothing is changed and no
    activity runs. Other arguments for the same command are a warning, since a run goes on with what history holds. Exit
    code 1 if a run differs.
    """
    if (file is None) == (not all_open):
        raise click.UsageError("say what to replay: --from FILE or --all-open")
    try:
        report = asyncio.run(_replay(app, file, workflow, limit, told=not as_json))
    except NoHistory as error:
        raise click.UsageError(str(error)) from None
    if as_json:
        json_line(report)
    else:
        click.echo(_summary(report))
    return FINDING if report.differs else DONE


async def _replay(app: str, file: BinaryIO | None, workflow: str | None, limit: int | None, *, told: bool) -> Report:
    report, seed = Report(), os.environ.get("PYTHONHASHSEED", "0")
    async with (
        Replayer(app, seed) as here,
        Replayer(app, "1" if seed != "1" else "2") as elsewhere,
        _source(file, workflow) as runs,
    ):
        async for recorded in runs:
            if limit is not None and report.replayed >= limit:
                break
            if not recorded.rows:
                report.not_begun += 1
                continue
            outcomes = await asyncio.gather(here.replay(recorded), elsewhere.replay(recorded))
            _judge(report, recorded.identity, *outcomes, told=told)
            report.replayed += 1
            _progress(report)
    _progress(report, ended=True)
    return report


# ---- what is replayed


@asynccontextmanager
async def _source(file: BinaryIO | None, workflow: str | None) -> AsyncIterator[AsyncIterator[History]]:
    if file is not None:
        yield _exported(file, workflow)
        return
    from everstep.reads import connect  # brings the driver of a database that a file does not need

    async with connect(Settings.from_environment(needs=("postgres_dsn",)), connections=1) as reader:

        async def stored() -> AsyncIterator[History]:
            async for run in reader.histories.open_runs(workflow):
                rows = [row async for page in reader.histories.pages(run.identity.run_key) for row in page]
                yield History(run.identity, rows)

        yield stored()


async def _exported(file: BinaryIO, workflow: str | None) -> AsyncIterator[History]:
    for recorded in read_all(file, file.name):
        if workflow is None or recorded.identity.workflow == workflow:
            yield recorded


# ---- what came of it


def _judge(report: Report, run: Identity, here: Outcome, elsewhere: Outcome, *, told: bool) -> None:
    problem, differing = here.problem or elsewhere.problem, here.first or elsewhere.first
    if problem is not None:
        found = _finding(run, problem, elsewhere=here.problem is None)
        report.differs.append(found)
    elif differing is not None:
        commands = max(here.differing, elsewhere.differing)
        found = _finding(run, differing, kind="arguments", commands=commands, elsewhere=here.first is None)
        report.arguments.append(found)
    else:
        return
    if told:
        _progress(report, ended=True)
        for line in _lines(found):
            click.echo(one_line(line))


def _finding(run: Identity, reason: StallReason, *, kind: str = "", commands: int = 0, elsewhere: bool) -> Finding:
    return Finding(
        workflow_id=run.workflow_id,
        run=run.run,
        workflow=run.workflow,
        version=run.version,
        kind=kind or reason.kind,
        message=reason.message,
        seq=reason.seq,
        expected=reason.expected,
        got=reason.got,
        commands=commands,
        elsewhere=elsewhere,
    )


def _lines(found: Finding) -> Iterator[str]:
    where = "" if found.seq is None else f" at event {found.seq}"
    yield f"{found.workflow_id}, run {found.run}, {found.workflow} version {found.version}: {_what(found)}{where}"
    if found.expected is None:
        yield f"  because            {found.message}"
    else:
        yield f"  history holds      {found.expected}"
        yield f"  the code produces  {found.got}"
    if found.elsewhere:
        yield "  but only           under another PYTHONHASHSEED: something is ordered by the hash of a string"
    if found.expected is not None or found.kind in _TO_DO:
        yield f"  what to do         {_advice(found)}"


def _advice(found: Finding) -> str:
    expected, got = found.expected or "", found.got or ""
    if expected.startswith(_PATCH) and not got.startswith(_PATCH):
        return f"put ctx.retire_patch({expected.removeprefix(_PATCH)}) in its place until this run has ended"
    return _TO_DO.get(found.kind, _OTHER_CODE)


def _what(found: Finding) -> str:
    if found.kind == "arguments":
        return "warning, other arguments"
    return "cannot be replayed" if found.expected is None else "differs"


_PATCH = "patch "
_OTHER_CODE = "do what history holds, or give the changed code a new version and keep the old one for this run"
_TO_DO = {
    "arguments": "nothing, if that is meant: the run goes on with the arguments that history holds",
    "unknown_workflow": "keep this code in the app until its runs have ended",
    "blocked": "await something in the loop, or move the work into an activity",
}


def _summary(report: Report) -> str:
    runs = "1 run" if report.replayed == 1 else f"{report.replayed} runs"
    parts = [
        f"replayed {runs}",
        f"{len(report.differs)} cannot go on" if report.differs else "",
        f"{len(report.arguments)} with other arguments" if report.arguments else "",
        f"{report.not_begun} have not begun" if report.not_begun else "",
    ]
    return ", ".join(part for part in parts if part)


def _progress(report: Report, *, ended: bool = False) -> None:
    """How far it is, on a terminal."""
    if sys.stderr.isatty() and (ended or report.replayed % _EVERY == 0):
        click.echo("\r\033[K" if ended else f"\rreplayed {report.replayed}", nl=False, err=True)
