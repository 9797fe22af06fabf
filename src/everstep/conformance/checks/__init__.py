"""All checks, by what they look at; importing this registers them."""

from everstep.conformance.checks import answers, control, leases, limits, membership, offsets

__all__ = ["answers", "control", "leases", "limits", "membership", "offsets"]
