"""Which orchestrator owns which shards: leases, claims, fair shares."""

from everstep_orchestrator.membership.member import Membership
from everstep_orchestrator.membership.model import Claim, Listener, Timing

__all__ = ["Claim", "Listener", "Membership", "Timing"]
