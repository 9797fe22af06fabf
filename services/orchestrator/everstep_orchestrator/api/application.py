"""The HTTP application: its routes, what stands before them, and how errors leave."""

from __future__ import annotations

from functools import cache

from litestar import Litestar, Response, Router, get
from litestar.datastructures import State
from litestar.di import Provide
from litestar.types import ControllerRouterHandler

from everstep_orchestrator.api import openapi
from everstep_orchestrator.api.bodies import require_json
from everstep_orchestrator.api.callbacks import CALLBACKS
from everstep_orchestrator.api.dependencies import Api
from everstep_orchestrator.api.operating import healthz, metrics, readyz
from everstep_orchestrator.api.problems import EXCEPTION_HANDLERS, INVALID, AnyRequest, Refused
from everstep_orchestrator.api.queries import QUERIES
from everstep_orchestrator.api.runs import READING
from everstep_orchestrator.api.segments import RawPath, decoded_segments
from everstep_orchestrator.api.steering import STEERING
from everstep_orchestrator.api.updates import UPDATES


def create(api: Api, *, max_body_bytes: int) -> RawPath:
    """The ASGI application that answers with what `api` gives it."""
    return RawPath(
        Litestar(
            route_handlers=[*_routes(), openapi_json],
            exception_handlers=EXCEPTION_HANDLERS,
            middleware=[decoded_segments],
            openapi_config=None,
            logging_config=None,
            request_max_body_size=max_body_bytes,
            state=State({"api": api}),
        )
    )


@cache
def openapi_document() -> bytes:
    """The OpenAPI document of this API, as it is served and checked in."""
    return openapi.document(_routes())


def _routes() -> list[ControllerRouterHandler]:
    handlers = [*READING, *QUERIES, *STEERING, *UPDATES, *CALLBACKS]
    runs = Router("/api/v1", route_handlers=handlers, before_request=_check)
    return [Router("/", route_handlers=[healthz, readyz, metrics, runs], dependencies={"api": Provide(_api)})]


@get("/openapi.json")
async def openapi_json() -> Response[bytes]:
    return Response(openapi_document(), media_type="application/json")


async def _api(state: State) -> Api:
    api: Api = state["api"]
    return api


async def _check(request: AnyRequest) -> None:
    if request.method == "POST":
        await require_json(request)
    known = request.route_handler.parsed_fn_signature.parameters
    if unknown := sorted(set(request.query_params) - set(known)):
        name = unknown[0][:100]
        raise Refused(INVALID, f"the parameter {name!r} is not known here: /openapi.json lists those that are")
