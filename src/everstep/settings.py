"""Every setting, read once from the environment by whatever starts a process.

Each field of `Settings` is the variable `EVERSTEP_<FIELD>`; `EVERSTEP_<FIELD>_FILE` names a file that holds the value
instead, for mounted secrets. An empty value counts as not set. All mistakes are collected and reported in one message.
"""

from __future__ import annotations

import difflib
import functools
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args, get_type_hints

PREFIX = "EVERSTEP_"

SecurityProtocol = Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]
SaslMechanism = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]
LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["auto", "json", "console"]
StackKind = Literal["embedded", "docker", "system"]


class SettingsError(Exception):
    """One or more settings are wrong; the message names each, says why, and what to do."""

    def __init__(self, mistakes: Sequence[str]) -> None:
        self.mistakes = tuple(mistakes)
        super().__init__("; ".join(self.mistakes))


# `://user:` or `?password=`, before what must not be seen.
_URL_PASSWORD = re.compile(r"(://[^/@:\s]*:|[?&]password=)[^@&\s\"]+(?=[@&\s\"]|$)")


def variable(name: str) -> str:
    """The environment variable of a field."""
    return PREFIX + name.upper()


# ---- parsers: each raises ValueError with the end of a sentence that begins with the variable's name


def _pattern(pattern: str, hint: str, *, show: bool = True) -> Callable[[str], str]:
    def parse(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise ValueError(f"is {value!r}: {hint}" if show else f"is malformed: {hint}")
        return value

    return parse


def _one_of(choices: Any, change: Callable[[str], str] = str.lower) -> Callable[[str], Any]:
    allowed = get_args(choices)

    def parse(value: str) -> str:
        if change(value) not in allowed:
            raise ValueError(f"is {value!r}: use one of {', '.join(allowed)}")
        return change(value)

    return parse


def _number(least: float, most: float, kind: type[float] = int) -> Callable[[str], Any]:
    def parse(value: str) -> float:
        try:
            number = kind(value)
        except ValueError:
            number = kind(least) - 1
        if not least <= number <= most:
            raise ValueError(f"is {value!r}: use a number from {least} to {most}")
        return number

    return parse


_BYTES = {"": 1, "B": 1, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30}


def _size(least: int, most: int) -> Callable[[str], int]:
    def parse(value: str) -> int:
        match = re.fullmatch(r"(\d{1,18})\s*([A-Za-z]*)", value)
        unit = _BYTES.get(match[2].upper()) if match else None
        if match is None or unit is None or not least <= int(match[1]) * unit <= most:
            raise ValueError(f"is {value!r}: use {least} to {most} bytes, as in 1048576, 512KiB or 1MiB")
        return int(match[1]) * unit

    return parse


_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def _duration(value: str) -> timedelta:
    match = re.fullmatch(r"(\d{1,9})\s*([smhd])", value)
    if not match or int(match[1]) == 0:
        raise ValueError(f"is {value!r}: use a whole number with a unit, as in 90s, 30m, 24h or 7d")
    return timedelta(seconds=int(match[1]) * _SECONDS[match[2]])


def _flag(value: str) -> bool:
    word = value.lower()
    if word not in ("true", "false", "1", "0", "yes", "no"):
        raise ValueError(f"is {value!r}: use true or false")
    return word in ("true", "1", "yes")


def _brokers(value: str) -> str:
    for broker in value.split(","):
        if not re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[^\s:/,]+):\d{1,5}", broker.strip()):
            raise ValueError(f"holds {broker.strip()!r}: use host:port, several with commas between")
    return ",".join(broker.strip() for broker in value.split(","))


def _file(value: str) -> str:
    if not Path(value).is_file():
        raise ValueError(f"names {value!r}, which is not a file here")
    return value


@dataclass(frozen=True, slots=True)
class _About:
    """What is known of a setting beside its type and default."""

    help: str
    parse: Callable[[str], Any] = str
    shown: str = ""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All EVERSTEP_ settings. Text that is not set is empty; secrets do not appear in the repr."""

    kafka_bootstrap: Annotated[str, _About("Kafka brokers, `host:port`, several with commas between.", _brokers)] = ""
    kafka_security_protocol: Annotated[
        SecurityProtocol,
        _About(
            "How to talk to Kafka: `PLAINTEXT`, `SSL`, `SASL_PLAINTEXT` or `SASL_SSL`.",
            _one_of(SecurityProtocol, str.upper),
        ),
    ] = "PLAINTEXT"
    kafka_sasl_mechanism: Annotated[
        SaslMechanism,
        _About(
            "How to log in to Kafka: `PLAIN`, `SCRAM-SHA-256` or `SCRAM-SHA-512`.", _one_of(SaslMechanism, str.upper)
        ),
    ] = "PLAIN"
    kafka_sasl_username: Annotated[str, _About("The name to log in to Kafka with.")] = ""
    kafka_sasl_password: Annotated[str, _About("The password to log in to Kafka with.")] = field(default="", repr=False)
    kafka_ssl_cafile: Annotated[str, _About("The authority that signed the brokers' certificates (PEM).", _file)] = ""
    kafka_ssl_certfile: Annotated[str, _About("The client's certificate (PEM).", _file)] = ""
    kafka_ssl_keyfile: Annotated[str, _About("The key of the client's certificate (PEM).", _file)] = ""
    postgres_dsn: Annotated[
        str,
        _About(
            "PostgreSQL as a URL, `postgresql://user:password@host:5432/database`.",
            _pattern(r"postgres(ql)?://\S*", "use a URL that begins with postgresql://", show=False),
        ),
    ] = field(default="", repr=False)
    postgres_schema: Annotated[
        str,
        _About(
            "The database schema that holds everything.",
            _pattern(
                r"(?!pg_)[a-z_][a-z0-9_]{0,62}", "use a-z, 0-9 and _, 63 at most, not beginning with pg_ or a digit"
            ),
        ),
    ] = "everstep"
    shards: Annotated[
        int | None,
        _About("Into how many shards the ids are divided; fixed at the first migration.", _number(1, 1024), "8"),
    ] = None
    topic_prefix: Annotated[
        str,
        _About(
            "What the names of all topics and consumer groups begin with.",
            _pattern(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,36}", "use letters, digits, '.', '_' and '-', 37 at most"),
        ),
    ] = "everstep"
    topic_replication: Annotated[
        int, _About("Copies of each topic that `everstep migrate` creates.", _number(1, 32))
    ] = 1
    queue_partitions: Annotated[
        int, _About("Partitions of a queue's topic: the most workers per queue.", _number(1, 4096))
    ] = 16
    create_topics: Annotated[bool, _About("Whether the topic of a new queue is created when needed.", _flag)] = True
    input_retention: Annotated[
        timedelta,
        _About(
            "How long consumed records stay in Kafka: the oldest backup that can be recovered from.", _duration, "24h"
        ),
    ] = timedelta(hours=24)
    early_signals: Annotated[
        timedelta,
        _About("How long a signal is kept for a run that has not been started yet, then rejected.", _duration, "1m"),
    ] = timedelta(minutes=1)
    max_payload_bytes: Annotated[
        int, _About("The largest argument, result or signal as JSON.", _size(1 << 10, 1 << 28), "1MiB")
    ] = 1 << 20
    cache_runs: Annotated[
        int, _About("The most runs that an orchestrator keeps in memory.", _number(1, 100_000_000))
    ] = 50_000
    cache_bytes: Annotated[
        int, _About("The most memory that runs in memory may take, estimated.", _size(1 << 20, 1 << 40), "512MiB")
    ] = 512 << 20
    concurrency: Annotated[int, _About("The most activities that a worker runs at once.", _number(1, 100_000))] = 100
    worker_id: Annotated[
        str,
        _About(
            "A fixed name of this worker (a StatefulSet's pod name): one that comes back has its work again at once.",
            _pattern(r"[A-Za-z0-9._-]{1,200}", "use letters, digits, '.', '_' and '-', 200 at most"),
        ),
    ] = ""
    grace_seconds: Annotated[
        float, _About("How long a stopping process may finish what it has begun.", _number(0, 86_400, float), "25")
    ] = 25.0
    http_host: Annotated[str, _About("The address that HTTP listens on.")] = "127.0.0.1"
    http_port: Annotated[
        int | None,
        _About(
            "The port that HTTP listens on.", _number(1, 65_535), "8080 orchestrator, 8081 worker, or the next free one"
        ),
    ] = None
    http_advertise: Annotated[
        str,
        _About("Where other orchestrators reach this one's HTTP, `host:port`.", _brokers, "where it listens"),
    ] = ""
    api_url: Annotated[
        str,
        _About(
            "An orchestrator's HTTP, `http://host:8080`, for the client and the command line.",
            _pattern(r"https?://\S+", "use a URL that begins with http:// or https://"),
        ),
    ] = ""
    log_level: Annotated[LogLevel, _About("`debug`, `info`, `warning` or `error`.", _one_of(LogLevel))] = "info"
    log_format: Annotated[
        LogFormat, _About("`json`, `console`, or `auto`: console on a terminal, else JSON.", _one_of(LogFormat))
    ] = "auto"
    stack: Annotated[
        StackKind,
        _About("What `everstep stack` and `everstep dev` start: `embedded`, `docker` or `system`.", _one_of(StackKind)),
    ] = "embedded"
    unknown: tuple[str, ...] = ()

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None, *, needs: Sequence[str] = ()) -> Self:
        """The settings in `environ` (of the process by default), of which `needs` must be set.

        Raises `SettingsError` with every mistake at once.
        """
        environ = os.environ if environ is None else environ
        values: dict[str, Any] = {}
        mistakes: list[str] = []
        for spec in specs():
            try:
                raw = _read(spec.variable, environ)
                if raw:
                    values[spec.name] = spec.parse(raw)
            except ValueError as error:
                mistakes.append(f"{spec.variable} {error}")
        settings = cls(**values, unknown=tuple(_unknown(environ)))
        wrong = {mistake.split(" ", 1)[0] for mistake in mistakes}
        mistakes += [m for m in (*settings._missing(needs), *settings._clashes()) if m.split(" ", 1)[0] not in wrong]
        if mistakes:
            raise SettingsError(mistakes)
        return settings

    def require(self, *names: str) -> Self:
        """These settings, or `SettingsError` if one of `names` is not set."""
        if missing := list(self._missing(names)):
            raise SettingsError(missing)
        return self

    def mask(self, text: str) -> str:
        """`text` without the Kafka password and without the password of any URL."""
        if self.kafka_sasl_password:
            text = text.replace(self.kafka_sasl_password, "***")
        return _URL_PASSWORD.sub(r"\1***", text)

    def shown(self, name: str) -> str:
        """A setting's value as text that may be shown to anybody."""
        value = getattr(self, name)
        return "" if value is None else self.mask(str(value))

    def _missing(self, names: Sequence[str]) -> Iterator[str]:
        for name in names:
            if getattr(self, name) in ("", None):
                yield f"{variable(name)} is not set: {_HOW_TO_SET.get(name, 'set it')}"

    def _clashes(self) -> Iterator[str]:
        if self.kafka_security_protocol.startswith("SASL"):
            for name in ("kafka_sasl_username", "kafka_sasl_password"):
                if not getattr(self, name):
                    yield f"{variable(name)} is not set: {self.kafka_security_protocol} needs it"
        if bool(self.kafka_ssl_certfile) != bool(self.kafka_ssl_keyfile):
            yield f"{variable('kafka_ssl_certfile')} and {variable('kafka_ssl_keyfile')} must be set together"


_LOCAL = "or start a local one with `everstep stack up` and export what it prints"
_HOW_TO_SET = {
    "kafka_bootstrap": f"set it to the brokers, as in kafka:9092, {_LOCAL}",
    "postgres_dsn": f"set it to a URL, as in postgresql://user:password@host:5432/database, {_LOCAL}",
    "api_url": "set it to an orchestrator's address, as in http://127.0.0.1:8080",
}


@dataclass(frozen=True, slots=True)
class Spec:
    """What is known of one setting: the source of parsing, of docs/settings.md and of `everstep check-config`."""

    name: str
    help: str
    default: str
    secret: bool
    parse: Callable[[str], Any]

    @property
    def variable(self) -> str:
        return variable(self.name)


@functools.cache
def specs() -> tuple[Spec, ...]:
    """All settings in the order in which they are documented."""
    hints = get_type_hints(Settings, include_extras=True)
    return tuple(
        Spec(f.name, about.help, about.shown or _default(f.default), not f.repr, about.parse)
        for f in fields(Settings)
        for about in getattr(hints[f.name], "__metadata__", ())
    )


def _default(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _read(name: str, environ: Mapping[str, str]) -> str:
    value, path = environ.get(name, "").strip(), environ.get(name + "_FILE", "").strip()
    if not path:
        return value
    if value:
        raise ValueError(f"and {name}_FILE are both set: remove one of them")
    try:
        return Path(path).read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot be read from {path!r}, which {name}_FILE names: {error}") from error


# Kubernetes injects these for every service in the namespace, and the local stack's own begin with EVERSTEP_STACK_.
_NOT_OURS = re.compile(r"EVERSTEP_(STACK_\w+|\w*(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP)(_\w+)?)))")


def _unknown(environ: Mapping[str, str]) -> Iterator[str]:
    """A warning for each variable that begins like ours and is none."""
    known = [name for spec in specs() for name in (spec.variable, spec.variable + "_FILE")]
    for name in sorted(environ):
        if name.startswith(PREFIX) and name not in known and not _NOT_OURS.fullmatch(name):
            near = difflib.get_close_matches(name, known, 1)
            yield f"{name} is not a setting of Everstep{f': did you mean {near[0]}?' if near else ''}"
