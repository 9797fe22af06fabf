"""How an error crosses the wire and is stored."""

from __future__ import annotations

import msgspec


class ErrorInfo(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An exception as type, message, traceback and cause chain.

    `fields` holds what a declared error is rebuilt from: a JSON array of its `args`, or an object of its named fields.
    `retry_after_seconds` is a delay that the failing code itself chose for the next attempt.
    """

    type: str
    message: str = ""
    traceback: str = ""
    cause: ErrorInfo | None = None
    retryable: bool = True
    fields: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    retry_after_seconds: float | None = None
