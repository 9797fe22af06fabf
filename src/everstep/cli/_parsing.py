"""What stands in commands: names, JSON, instants, tokens. A mistake is told with the option that it was made in."""

from __future__ import annotations

from datetime import UTC, datetime

import click
import msgspec
from msgspec import Raw

from everstep._named import all_named, attributes, named
from everstep.settings import Settings
from everstep_schemas import wire
from everstep_schemas.events import AttributeValue
from everstep_schemas.names import Token, why_bad_name


def name(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """An id or a name."""
    if value is not None and (why := why_bad_name(value)):
        raise click.BadParameter(f"{value[:100]!r} {why}")
    return value


def json(ctx: click.Context, param: click.Parameter, value: str) -> Raw:
    """A value in JSON, as it came."""
    try:
        msgspec.json.decode(value)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError) as error:
        hint = "text needs its quotes: '\"like this\"'"
        raise click.BadParameter(f"{value[:100]!r} is not JSON ({error}); {hint}") from error
    return Raw(value.encode())


def jsons(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> tuple[Raw, ...]:
    """Several values in JSON."""
    return tuple(json(ctx, param, value) for value in values)


def named_jsons(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, Raw]:
    """Several `name=JSON`."""
    try:
        return all_named(values)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


def attribute_values(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, AttributeValue]:
    """Several `name=JSON` with values that attributes can have."""
    try:
        return attributes(values)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


def first_signal(ctx: click.Context, param: click.Parameter, value: str | None) -> wire.FirstSignal | None:
    """A signal as `NAME=JSON`."""
    if value is None:
        return None
    try:
        signal, content = named(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error
    return wire.FirstSignal(name=signal, value=content)


def instant(ctx: click.Context, param: click.Parameter, value: str | None) -> datetime | None:
    """An instant, which has a time zone, in UTC."""
    if value is None:
        return None
    try:
        at = datetime.fromisoformat(value)
    except ValueError:
        at = None
    if at is None or at.tzinfo is None:
        raise click.BadParameter(f"{value[:100]!r} is no instant with a time zone, as in 2026-01-31T18:00:00Z")
    return at.astimezone(UTC)


def callback_token(ctx: click.Context, param: click.Parameter, value: str) -> str:
    """A token as callbacks have it."""
    if Token.parse(value) is None:
        raise click.BadParameter(f"{value[:100]!r} is no token of a callback: use it as it was given out")
    return value


def settings() -> Settings:
    """The settings of a command that goes over HTTP if there is an address for it, else over Kafka."""
    found = Settings.from_environment()
    return found if found.api_url else found.require("kafka_bootstrap")
