"""The HTTP API of an orchestrator; any of them answers for all runs."""

from everstep_orchestrator.api.application import openapi_document
from everstep_orchestrator.api.dependencies import ApiDependencies
from everstep_orchestrator.api.server import HttpServer, PortTaken

__all__ = ["ApiDependencies", "HttpServer", "PortTaken", "openapi_document"]
