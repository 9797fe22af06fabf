"""Routes on the path as it was sent, so that an id is exactly one segment whatever characters it holds.

Servers hand over a path that is decoded already, where `%2F` looks like a separator. `RawPath` stands before the
router and puts the undecoded path in its place; `decoded_segments` stands behind it and decodes each parameter.
"""

from __future__ import annotations

from urllib.parse import unquote_to_bytes

from litestar.types import ASGIApp, Receive, Scope, Send

from everstep_orchestrator.api.problems import INVALID, Refused
from everstep_schemas.names import why_bad_name


class RawPath:
    """An ASGI application in front of another, which sees every path undecoded."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["raw_path"].decode("ascii", "replace")
        # The router would fold empty segments away and take `/runs//history` for the run "history".
        scope["path"] = "/-" if "//" in path else path
        await self._app(scope, receive, send)


def decoded_segments(app: ASGIApp) -> ASGIApp:
    """Middleware behind the router: path parameters as text, refused if they can be no id and no name."""

    async def decode(scope: Scope, receive: Receive, send: Send) -> None:
        # A new mapping, because the router keeps the one it found for later requests.
        scope["path_params"] = {name: _segment(name, value) for name, value in scope["path_params"].items()}
        await app(scope, receive, send)

    return decode


def _segment(name: str, text: str) -> str:
    try:
        decoded = unquote_to_bytes(text).decode()
    except UnicodeDecodeError as error:
        raise Refused(INVALID, f"{name} is not UTF-8 after percent-decoding: encode it as one segment") from error
    return valid_name(name, decoded)


def valid_name(what: str, text: str) -> str:
    """`text`, refused if it can be no id and no name."""
    if why := why_bad_name(text):
        raise Refused(INVALID, f"{what} {why}")
    return text
