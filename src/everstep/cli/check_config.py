"""`everstep check-config`: the settings as they are, and whether what they lead to is there and fits."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from typing import Literal, NamedTuple

import click

from everstep.admin import database, topics
from everstep.cli._failures import DONE, UNREACHABLE, USAGE, code_of, sentence
from everstep.cli._output import as_json, json_line, table
from everstep.settings import Settings, SettingsError, specs
from everstep_schemas.names import Topics

_WORD = len("wrong")

Origin = Literal["environment", "file", "default"]


class Setting(NamedTuple):
    """A setting as it is; secrets are masked."""

    name: str
    value: str
    origin: Origin


class Check(NamedTuple):
    """What one part of the installation answered. `code` is the exit code that it asks for."""

    name: str
    code: int
    text: str


@click.command("check-config")
@as_json
def check_config_command(as_json: bool) -> int:
    """Check the settings in the environment, and the database, topics and API that they name.

    Exit code 2 if something is wrong, 3 if something does not answer. What is not set is not checked.
    """
    try:
        settings = Settings.from_environment()
    except SettingsError as error:
        _show([], [Check("settings", USAGE, mistake) for mistake in error.mistakes], as_json)
        return USAGE
    warnings = [Check("settings", DONE, text) for text in settings.unknown]
    checks = [*warnings, *asyncio.run(_checks(settings))]
    _show([_setting(settings, spec.name, spec.variable) for spec in specs()], checks, as_json)
    return max((check.code for check in checks), default=DONE)


def _setting(settings: Settings, name: str, variable: str) -> Setting:
    origin: Origin = (
        "environment" if os.environ.get(variable) else "file" if os.environ.get(variable + "_FILE") else "default"
    )
    value = settings.shown(name)
    if origin == "default":
        value = next(spec.default for spec in specs() if spec.name == name)
    return Setting(variable, value, origin)


async def _checks(settings: Settings) -> list[Check]:
    shards: int | None = None

    async def check_database() -> str:
        nonlocal shards
        found = await database.check_reachable(settings.postgres_dsn, settings.postgres_schema, settings.shards)
        shards = found.shards
        return f"PostgreSQL {found.server_version // 10_000}, migrated, {found.shards} shards"

    async def check_topics() -> str:
        return await _topics(settings, shards)

    async def check_api() -> str:
        return await _api(settings)

    wanted: list[tuple[str, str, Callable[[], Awaitable[str]]]] = [
        ("database", settings.postgres_dsn, check_database),
        ("topics", settings.kafka_bootstrap, check_topics),
        ("api", settings.api_url, check_api),
    ]
    return [await _check(name, check) for name, address, check in wanted if address]


async def _check(name: str, check: Callable[[], Awaitable[str]]) -> Check:
    try:
        return Check(name, DONE, await check())
    except Exception as error:
        code = code_of(error)
        if code is None:
            raise
        return Check(name, code, sentence(error))


async def _topics(settings: Settings, shards: int | None) -> str:
    names = Topics(settings.topic_prefix)
    async with topics.admin_client(settings) as admin:
        there = set(await admin.list_topics())
        wanted = topics.topics_of(settings, shards or settings.shards or 1)
        if missing := [topic.name for topic in wanted if topic.name not in there]:
            raise topics.TopicError(f"{', '.join(missing)} are missing: run `everstep migrate`")
        if shards is not None:
            await topics.check(admin, wanted)
    queues = sorted(name for name in there if name.startswith(names.activities("")))
    return f"all there; queues: {', '.join(name.removeprefix(names.activities('')) for name in queues) or 'none yet'}"


async def _api(settings: Settings) -> str:
    from everstep._client import connected

    async with connected(settings) as transport:
        async for _ in transport.runs(None, None, 1):
            break
    return "answers"


def _show(settings: Sequence[Setting], checks: Sequence[Check], as_json: bool) -> None:
    if as_json:
        json_line(
            {
                "settings": {setting.name: setting._asdict() for setting in settings},
                "checks": [check._asdict() for check in checks],
            }
        )
        return
    table(("SETTING", "VALUE", "FROM"), settings)
    if checks:
        click.echo()
    for check in checks:
        word, colour = _verdict(check)
        click.echo(f"{click.style(word.ljust(_WORD), fg=colour)}  {check.name}: {check.text}")


def _verdict(check: Check) -> tuple[str, str]:
    if check.name == "settings" and check.code == DONE:
        return "note", "yellow"
    return {DONE: ("ok", "green"), UNREACHABLE: ("away", "red")}.get(check.code, ("wrong", "red"))
