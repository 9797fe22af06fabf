"""`everstep dev`: a local stack, an orchestrator and a worker, restarted on every change, told about in sentences.

The services are processes of their own sessions, so a Ctrl-C in the terminal reaches this command alone, which then
ends them in order: first the services, then whatever servers it had started.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import click
from aiokafka import AIOKafkaConsumer

from everstep import stack, words
from everstep.cli._output import one_line
from everstep.cli.migrate import migrate
from everstep.cli.services import command_of
from everstep.kafka import connection
from everstep.lifecycle import Fact, fact_of
from everstep.settings import Settings
from everstep_schemas.names import Topics

_SERVICES = {"orchestrator": "everstep_orchestrator", "worker": "everstep_worker"}
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_STOP_SECONDS = 30.0
_AGAIN_SECONDS = 1.0
_COLOURS = {"completed": "green", "failed": "red", "stalled": "red", "rejected": "red", "cancelled": "yellow"}


@click.command("dev")
@click.argument("app", metavar="MODULE:app")
def dev_command(app: str) -> None:
    """Run everything that MODULE:app needs on this machine until Ctrl-C, and again whenever its code changes.

    Kafka and PostgreSQL come from EVERSTEP_STACK unless their addresses are set; their data is kept. One line tells
    each thing that happens to a run.
    """
    asyncio.run(_dev(app))


async def _dev(app: str) -> None:
    me = asyncio.current_task()
    assert me is not None  # noqa: S101  # for the type checker
    for number in _SIGNALS:
        asyncio.get_running_loop().add_signal_handler(number, _cancel_once, me)
    with suppress(asyncio.CancelledError):
        await _run(app)


def _cancel_once(task: asyncio.Task[None]) -> None:
    """A second Ctrl-C must not disturb the clearing up after the first."""
    if not task.cancelling():
        _note("stopping")
        task.cancel()


async def _run(app: str) -> None:
    _note("making sure that Kafka and PostgreSQL run")
    async with stack.open(directory=stack.LocalStack().directory) as servers:
        exports = stack.environment(servers)
        environment = {**os.environ, **exports}
        settings = Settings.from_environment(environment)
        for line in [*await migrate(settings), *(f"export {name}={value}" for name, value in exports.items())]:
            _note(line)
        changes = [asyncio.Event() for _ in _SERVICES]
        async with _lifecycle(settings) as facts, asyncio.TaskGroup() as tasks:
            for (name, module), changed in zip(_SERVICES.items(), changes, strict=True):
                tasks.create_task(_service(name, command_of(module, app), environment, changed))
            tasks.create_task(_watch_code(changes))
            tasks.create_task(_tell(facts))


def _note(text: str) -> None:
    click.echo(click.style(f"· {text}", dim=True), err=True)


# ---- the services


async def _service(name: str, command: list[str], environment: Mapping[str, str], changed: asyncio.Event) -> None:
    """Runs a service, anew after every change and when it is killed; one that fails waits for what repairs it."""
    while True:
        changed.clear()
        process = await asyncio.create_subprocess_exec(*command, env=environment, start_new_session=True)
        ended, change = asyncio.create_task(process.wait()), asyncio.create_task(changed.wait())
        try:
            await asyncio.wait((ended, change), return_when=asyncio.FIRST_COMPLETED)
            if not changed.is_set():
                await _ended(name, ended.result(), changed)
        finally:
            change.cancel()
            await _end(process, ended)


async def _ended(name: str, code: int, changed: asyncio.Event) -> None:
    """Returns when the service is to start again: soon if it was killed, else when the code has changed."""
    if code < 0:
        _note(f"the {name} was ended by {signal.Signals(-code).name}; it starts again")
        await asyncio.sleep(_AGAIN_SECONDS)
    else:
        _note(f"the {name} ended with code {code}; it starts again when a file changes")
        await changed.wait()


async def _end(process: asyncio.subprocess.Process, ended: asyncio.Task[int]) -> None:
    if process.returncode is None:
        process.terminate()
    done, _ = await asyncio.wait((ended,), timeout=_STOP_SECONDS)
    if not done:
        process.kill()
        await ended


async def _watch_code(changes: Sequence[asyncio.Event]) -> None:
    """Sets the events whenever a Python file in or below the current directory has changed."""
    try:
        from watchfiles import PythonFilter, awatch
    except ImportError:
        _note("changes are not noticed: `pip install 'everstep[dev]'` brings what does that")
        return
    async for files in awatch(Path.cwd(), watch_filter=PythonFilter()):
        _note(f"{', '.join(sorted({Path(file).name for _, file in files}))} changed: restarting")
        for changed in changes:
            changed.set()


# ---- what happens


@asynccontextmanager
async def _lifecycle(settings: Settings) -> AsyncIterator[AIOKafkaConsumer]:
    """The lifecycle topic from its present end on."""
    consumer = AIOKafkaConsumer(
        Topics(settings.topic_prefix).lifecycle, **connection(settings), group_id=None, auto_offset_reset="latest"
    )
    try:
        await consumer.start()
        await consumer.seek_to_end()
        yield consumer
    finally:
        await consumer.stop()


async def _tell(facts: AIOKafkaConsumer) -> None:
    """One line for each fact."""
    while True:
        fact = fact_of(await facts.getone())
        if fact is not None:
            click.echo(_line(fact))


def _line(fact: Fact) -> str:
    body = fact.body
    text = one_line(f"{body.workflow_id}  {words.fact_text(fact.type, body)}")
    return f"{body.at.astimezone():%H:%M:%S}  {click.style(text, fg=_COLOURS.get(fact.type.rpartition('.')[2]))}"
