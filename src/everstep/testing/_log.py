"""`ctx.log` in a test: lines of the standard library's logging, which pytest collects and `caplog` shows."""

from __future__ import annotations

import logging

_logger = logging.getLogger("everstep.workflow")


class WorkflowLog:
    """A log with fields bound to it."""

    def __init__(self, **bound: object) -> None:
        self._bound = bound

    def bind(self, **fields: object) -> WorkflowLog:
        return WorkflowLog(**self._bound, **fields)

    def debug(self, event: str, /, **fields: object) -> None:
        self._write(logging.DEBUG, event, fields)

    def info(self, event: str, /, **fields: object) -> None:
        self._write(logging.INFO, event, fields)

    def warning(self, event: str, /, **fields: object) -> None:
        self._write(logging.WARNING, event, fields)

    def error(self, event: str, /, **fields: object) -> None:
        self._write(logging.ERROR, event, fields)

    def _write(self, level: int, event: str, fields: dict[str, object]) -> None:
        if _logger.isEnabledFor(level):
            text = " ".join(f"{name}={value!r}" for name, value in {**fields, **self._bound}.items())
            _logger.log(level, "%s %s", event, text)
