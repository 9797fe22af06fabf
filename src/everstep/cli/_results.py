"""How the end of a run is printed."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Awaitable, Iterator
from functools import partial

import click
from msgspec import UNSET

from everstep._client.transport import Ended
from everstep.cli._failures import DONE, FINDING
from everstep.cli._output import json_line
from everstep.words import error_text, shorten

_PATIENCE_SECONDS = 5.0


async def awaited(workflow_id: str, end: Awaitable[Ended]) -> Ended:
    """The end of a run; whoever waits for long is told where to look, since the run may be stalled."""
    text = f"still waiting; `everstep describe {shlex.quote(workflow_id)}` tells what for"
    remark = asyncio.get_running_loop().call_later(_PATIENCE_SECONDS, partial(click.echo, text, err=True))
    try:
        return await end
    finally:
        remark.cancel()


def show(ended: Ended, as_json: bool) -> int:
    """Prints what a run returned, or on standard error how else it ended; the exit code tells which."""
    completed = ended.status == "completed"
    if as_json:
        json_line({name: value for name, value in _document(ended).items() if value is not None})
    elif completed:
        click.echo("null" if ended.value is UNSET else bytes(ended.value))
    else:
        why = error_text(ended.error) if ended.error else ended.reason
        did = _DID.get(ended.status, ended.status).format(next_run=ended.next_run)
        click.echo(f"error: run {ended.workflow_id!r} {did}{f': {why}' if why else ''}", err=True)
    return DONE if completed else FINDING


def ending(ended: Ended) -> Iterator[tuple[str, str]]:
    """How a run ended, as names and short texts."""
    if ended.status == "completed":
        yield "returned", shorten(ended.value) or "null"
    yield "error", error_text(ended.error) if ended.error else ""
    yield "reason", ended.reason or ""
    yield "goes on as", "" if ended.next_run is None else f"run {ended.next_run}"


_DID = {
    "cancelled": "was cancelled",
    "terminated": "was terminated",
    "timed_out": "has reached its timeout",
    "continued": "goes on as run {next_run}",
}


def _document(ended: Ended) -> dict[str, object]:
    return {
        "workflow_id": ended.workflow_id,
        "run": ended.run,
        "status": ended.status,
        "value": None if ended.value is UNSET else ended.value,
        "error": ended.error,
        "reason": ended.reason,
        "next_run": ended.next_run,
        "last_run": ended.last_run,
    }
