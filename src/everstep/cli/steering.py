"""`everstep start`, `signal`, `cancel` and `terminate`: over HTTP with EVERSTEP_API_URL, else straight to Kafka."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any, get_args

import click
import msgspec
from msgspec import Raw

from everstep._client import connected
from everstep._client.transport import Ended
from everstep.cli import _parsing
from everstep.cli._output import as_json
from everstep.cli._results import awaited, show
from everstep_schemas import wire

_PATIENCE_SECONDS = 5.0


workflow_id = click.argument("id", metavar="ID", callback=_parsing.name)


@click.command("start")
@click.argument("workflow", callback=_parsing.name)
@click.argument("arguments", metavar="[ARG_JSON]...", nargs=-1, callback=_parsing.jsons)
@click.option("--id", "id", callback=_parsing.name, help="The workflow id; one is made up without it.")
@click.option("--wait", is_flag=True, help="Wait for the run and print what it returned.")
@click.option("--version", type=click.IntRange(1), help="Of the workflow; by default the highest there is.")
@click.option(
    "--on-duplicate",
    type=click.Choice(get_args(wire.OnDuplicate)),
    default="reject",
    show_default=True,
    help="What to do if the id has a run.",
)
@click.option("--submission-id", callback=_parsing.name, help="The same one starts one run however often it is sent.")
@click.option(
    "--attribute",
    "attributes",
    metavar="NAME=JSON",
    multiple=True,
    callback=_parsing.attribute_values,
    help="What the run can be searched by; may be repeated.",
)
@click.option(
    "--memo",
    metavar="NAME=JSON",
    multiple=True,
    callback=_parsing.named_jsons,
    help="What is kept with it; may be repeated.",
)
@click.option("--start-at", metavar="INSTANT", callback=_parsing.instant, help="When it begins: 2026-01-31T18:00:00Z.")
@click.option(
    "--timeout",
    "timeout_seconds",
    metavar="SECONDS",
    type=click.FloatRange(0, min_open=True),
    help="How long the run may take.",
)
@click.option(
    "--signal",
    "with_signal",
    metavar="NAME=JSON",
    callback=_parsing.first_signal,
    help="A signal that reaches the run, whether it is new or was open before.",
)
@as_json
def start_command(
    workflow: str,
    arguments: tuple[Raw, ...],
    id: str | None,
    wait: bool,
    submission_id: str | None,
    as_json: bool,
    **more: Any,
) -> int:
    """Start a run of WORKFLOW with arguments in JSON, and print its id.

    everstep start fulfil_order '{"order_id": "17"}' --id order-17 --wait
    """
    start = wire.Start(
        workflow=workflow,
        workflow_id=id or uuid.uuid4().hex,
        args=Raw(msgspec.json.encode(arguments)),
        submission_id=submission_id or uuid.uuid4().hex,
        **more,
    )
    ended = asyncio.run(_start(start, wait))
    if ended is not None:
        return show(ended, as_json)
    click.echo(msgspec.json.encode({"workflow_id": start.workflow_id}).decode() if as_json else start.workflow_id)
    return 0


async def _start(start: wire.Start, wait: bool) -> Ended | None:
    async with connected(_parsing.settings()) as transport:
        remark = asyncio.get_running_loop().call_later(_PATIENCE_SECONDS, _still_waiting)
        try:
            started = await transport.start(start)
        finally:
            remark.cancel()
        return await awaited(start.workflow_id, started.ended()) if wait else None


def _still_waiting() -> None:
    click.echo("no orchestrator has answered yet: the start is stored and is carried out when one runs", err=True)


@click.command("signal")
@workflow_id
@click.argument("name", callback=_parsing.name)
@click.argument("value", metavar="[JSON]", callback=_parsing.json, default="null")
@click.option("--signal-id", callback=_parsing.name, help="The same one is applied once however often it is sent.")
def signal_command(id: str, name: str, value: Raw, signal_id: str | None) -> None:
    """Send the signal NAME with a value in JSON to the run ID."""
    _send(wire.Signal(workflow_id=id, name=name, value=value, signal_id=signal_id or uuid.uuid4().hex))


@click.command("cancel")
@workflow_id
@click.option("--reason", default="", help="For its history.")
def cancel_command(id: str, reason: str) -> None:
    """Ask the run ID to end: its code sees CancelledError and may clean up."""
    _send(wire.Cancel(workflow_id=id, reason=reason))


@click.command("terminate")
@workflow_id
@click.option("--reason", default="", help="For its history.")
def terminate_command(id: str, reason: str) -> None:
    """End the run ID without asking its code."""
    _send(wire.Terminate(workflow_id=id, reason=reason))


def _send(submission: wire.Signal | wire.Cancel | wire.Terminate) -> None:
    async def send() -> None:
        async with connected(_parsing.settings()) as transport:
            await transport.send(submission)

    asyncio.run(send())
