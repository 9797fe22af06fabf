"""`everstep query`, `update` and `callback`: what runs are asked and told. Only queries need the HTTP API."""

from __future__ import annotations

import asyncio
import shlex
import uuid
from collections.abc import Awaitable
from functools import partial
from typing import TypeVar

import click
import msgspec
from msgspec import Raw

from everstep._client import connected
from everstep.cli import _parsing
from everstep.cli._output import as_json, json_line, one_line
from everstep.cli.reading import run_number
from everstep.settings import Settings
from everstep_schemas import wire

T = TypeVar("T")

_PATIENCE_SECONDS = 5.0

token = click.argument("token", metavar="TOKEN", callback=_parsing.callback_token)
submission_id = click.option(
    "--submission-id", callback=_parsing.name, help="The same one counts once however often it is sent."
)


# ---- queries


@click.command("query")
@click.argument("id", metavar="ID", callback=_parsing.name)
@click.argument("name", required=False, callback=_parsing.name)
@click.argument("arguments", metavar="[ARG_JSON]...", nargs=-1, callback=_parsing.jsons)
@run_number
@as_json
def query_command(id: str, name: str | None, arguments: tuple[Raw, ...], run: int | None, as_json: bool) -> None:
    """Ask the run ID the query NAME, and print its answer as JSON; without NAME, list the queries it answers.

    Needs EVERSTEP_API_URL: an orchestrator replays the run to ask it, also one that has ended.
    """
    if name is not None:
        click.echo(bytes(asyncio.run(_query(id, name, msgspec.json.encode(arguments), run))))
        return
    names = asyncio.run(_queries(id, run))
    if as_json:
        json_line(names)
    else:
        for one in names:
            click.echo(one_line(one))


async def _query(id: str, name: str, arguments: bytes, run: int | None) -> Raw:
    async with connected(_api()) as transport:
        return await transport.query(id, name, arguments, run)


async def _queries(id: str, run: int | None) -> list[str]:
    from everstep._client.http import HttpTransport

    transport = HttpTransport(_api())
    try:
        return await transport.queries(id, run)
    finally:
        await transport.close()


def _api() -> Settings:
    return Settings.from_environment(needs=("api_url",))


# ---- updates


@click.command("update")
@click.argument("id", metavar="ID", callback=_parsing.name)
@click.argument("name", callback=_parsing.name)
@click.argument("value", metavar="[JSON]", callback=_parsing.json, default="null")
@click.option("--update-id", callback=_parsing.name, help="The same one is carried out once and answered each time.")
@click.option("--timeout", type=click.FloatRange(0), metavar="SECONDS", help="Give up waiting after so long.")
def update_command(id: str, name: str, value: Raw, update_id: str | None, timeout: float | None) -> None:
    """Ask the run ID to do NAME with a value in JSON, and print its answer as JSON.

    everstep update sub-1 change_plan '"pro"' --update-id 2026-11

    Exit code 1 if the run does not accept it, or cannot carry it out.
    """
    update = wire.Update(workflow_id=id, name=name, value=value, update_id=update_id or uuid.uuid4().hex)
    click.echo(bytes(asyncio.run(_update(update, timeout))))


async def _update(update: wire.Update, timeout: float | None) -> Raw:
    limit = asyncio.timeout(timeout)
    try:
        async with limit, connected(_parsing.settings()) as transport:
            return await _awaited(update, transport.update(update))
    except TimeoutError:
        if not limit.expired():
            raise
        again = f"it may still be carried out; --update-id {update.update_id} asks for the answer again"
        raise TimeoutError(f"run {update.workflow_id!r} has not answered after {timeout:g} s: {again}") from None


async def _awaited(update: wire.Update, answer: Awaitable[T]) -> T:
    text = f"no answer yet; `everstep describe {shlex.quote(update.workflow_id)}` tells what the run is about"
    remark = asyncio.get_running_loop().call_later(_PATIENCE_SECONDS, partial(click.echo, text, err=True))
    try:
        return await answer
    finally:
        remark.cancel()


# ---- callbacks


@click.group("callback")
def callback_command() -> None:
    """What a run waits for from outside, by the token that it gave out.

    Over Kafka alone a command returns once the request is durable, and cannot know whether anybody waits for it.
    """


@callback_command.command("complete")
@token
@click.argument("value", metavar="[JSON]", callback=_parsing.json, default="null")
@submission_id
def complete(token: str, value: Raw, submission_id: str | None) -> None:
    """Give the callback with this TOKEN a value in JSON."""
    _say(wire.CompleteCallback(token=token, value=value, submission_id=submission_id or uuid.uuid4().hex))


@callback_command.command("fail")
@token
@click.argument("message")
@click.option("--type", "type_", default="CallbackFailed", show_default=True, help="A word for the kind of failure.")
@submission_id
def fail(token: str, message: str, type_: str, submission_id: str | None) -> None:
    """Fail the callback with this TOKEN: its run sees an error with this MESSAGE."""
    problem = wire.CallbackProblem(message=message, type=type_)
    _say(wire.FailCallback(token=token, error=problem, submission_id=submission_id or uuid.uuid4().hex))


@callback_command.command("heartbeat")
@token
@click.argument("details", metavar="[JSON]", callback=_parsing.json, default="null")
def heartbeat(token: str, details: Raw) -> None:
    """Say that the work for the callback with this TOKEN goes on, with details in JSON."""
    _say(wire.HeartbeatCallback(token=token, details=details))


def _say(submission: wire.CallbackSubmission) -> None:
    async def say() -> None:
        async with connected(_parsing.settings()) as transport:
            await transport.callback(submission)

    asyncio.run(say())
