"""`python -m everstep_orchestrator MODULE:app` runs an orchestrator."""

from __future__ import annotations

import sys

from everstep_orchestrator.service import main

sys.exit(main(sys.argv[1:]))
