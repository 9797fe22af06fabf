"""`python -m everstep_orchestrator.api` prints the OpenAPI document."""

import sys

from everstep_orchestrator.api import openapi_document

sys.stdout.buffer.write(openapi_document())
