"""Structured logs on standard error: JSON off a terminal, readable text on one.

What libraries log through the standard module takes the same path, so that every line has the same form. Whatever a
line holds, the texts of secret settings are masked in it at the very end.
"""

from __future__ import annotations

import logging
import sys
import traceback
from typing import TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from everstep.settings import Settings

# Chatty at "info" about what concerns only themselves.
_QUIET = ("aiokafka", "asyncio", "httpx", "httpcore", "uvicorn", "uvicorn.access", "watchfiles")


def configure(settings: Settings, service: str, to: TextIO | None = None) -> None:
    """Sends all logs of the process to `to` (standard error by default), each line marked with `service`.

    Warns of settings that nobody knows. Doing it again replaces what was configured before.
    """
    stream = to or sys.stderr
    level = logging.getLevelName(settings.log_level.upper())
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_formatter(settings, service, stream))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.captureWarnings(True)
    for name in _QUIET:
        logging.getLogger(name).setLevel(level if level <= logging.DEBUG else logging.WARNING)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *_shared(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    for warning in settings.unknown:
        structlog.stdlib.get_logger("everstep").warning("unknown setting", hint=warning)


def _shared() -> list[Processor]:
    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]


def _formatter(settings: Settings, service: str, stream: TextIO) -> logging.Formatter:
    def mark(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        first = {name: event.pop(name) for name in ("timestamp", "level", "event") if name in event}
        return {**first, "service": service, **event}

    as_json = settings.log_format == "json" or (settings.log_format == "auto" and not stream.isatty())
    rendering: list[Processor] = (
        [_error_fields, structlog.processors.JSONRenderer()]
        if as_json
        else [structlog.dev.ConsoleRenderer(colors=stream.isatty(), exception_formatter=structlog.dev.plain_traceback)]
    )
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[*_shared(), structlog.stdlib.ExtraAdder()],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, mark, *rendering, _masking(settings)],
    )


def _error_fields(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """Turns `exc_info` into the fields `error_type`, `error` and `traceback`, so that a line stays one line."""
    info = event.pop("exc_info", None)
    error = info[1] if isinstance(info, tuple) else sys.exc_info()[1] if info is True else info
    if isinstance(error, BaseException):
        event["error_type"] = type(error).__qualname__
        event["error"] = str(error)
        event["traceback"] = "".join(traceback.format_exception(error))
    return event


def _masking(settings: Settings) -> Processor:
    def mask(logger: WrappedLogger, method: str, line: EventDict | str) -> str:
        return settings.mask(str(line))

    return mask
