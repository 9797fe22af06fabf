"""What those who operate an orchestrator ask it: is it alive, is it ready, what does it measure."""

from __future__ import annotations

import msgspec
from litestar import MediaType, Response, get
from litestar.openapi import ResponseSpec
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from everstep import telemetry
from everstep_orchestrator.api.dependencies import FromProcess


class Health(msgspec.Struct, frozen=True):
    """The process answers."""

    status: str = "alive"


class Readiness(msgspec.Struct, frozen=True):
    """Whether the process does its work; if not, `reasons` says in words what it waits for."""

    ready: bool
    reasons: list[str]


@get("/healthz", tags=["operating"], summary="Is the process alive?")
async def healthz() -> Health:
    return Health()


@get(
    "/readyz",
    tags=["operating"],
    summary="Does the process do its work?",
    responses={503: ResponseSpec(Readiness, description="Not ready, and why", generate_examples=False)},
)
async def readyz(api: FromProcess) -> Response[Readiness]:
    reasons = api.readiness()
    return Response(Readiness(ready=not reasons, reasons=reasons), status_code=503 if reasons else 200)


@get("/metrics", tags=["operating"], summary="Metrics for Prometheus", media_type=MediaType.TEXT)
async def metrics() -> Response[bytes]:
    return Response(generate_latest(telemetry.ORCHESTRATOR), media_type=CONTENT_TYPE_LATEST)
