"""Hands a question on to an orchestrator that has the code it needs."""

from __future__ import annotations

from collections.abc import Iterable

import httpx
import structlog
from litestar import Response

from everstep_orchestrator.api.problems import AnyRequest

# Who receives a question with this header answers it or says that it cannot: nothing is handed on twice.
HANDED_ON = "everstep-handed-on"
_CONNECT_SECONDS = 2.0
_ANSWER_SECONDS = 60.0

logger = structlog.stdlib.get_logger(__name__)


class Peers:
    """The other orchestrators of the installation."""

    def __init__(self) -> None:
        self._http: httpx.AsyncClient | None = None

    async def close(self) -> None:
        if self._http is not None:
            await self._http.aclose()

    async def ask(self, request: AnyRequest, addresses: Iterable[str]) -> Response[bytes] | None:
        """What the first of them that answers says to the same request; None if there is nobody to ask."""
        if HANDED_ON in request.headers:
            return None
        path, query = request.scope["raw_path"].decode("ascii"), request.scope["query_string"].decode("ascii")
        for address in addresses:
            try:
                answer = await self._client().get(f"http://{address}{path}?{query}", headers={HANDED_ON: "1"})
            except httpx.HTTPError as error:
                logger.info("another orchestrator does not answer", address=address, error=str(error))
                continue
            media_type = answer.headers.get("content-type", "application/json")
            return Response(answer.content, status_code=answer.status_code, media_type=media_type)
        return None

    def _client(self) -> httpx.AsyncClient:
        if self._http is None:
            timeout = httpx.Timeout(_ANSWER_SECONDS, connect=_CONNECT_SECONDS)
            self._http = httpx.AsyncClient(timeout=timeout, trust_env=False)
        return self._http
