"""Checks a worker, in whatever language it is written, against the rules of docs/worker.md."""

from everstep.conformance._registry import CHECKS, Check
from everstep.conformance._running import Outcome, Status, run

__all__ = ["CHECKS", "Check", "Outcome", "Status", "run"]
