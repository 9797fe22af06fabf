"""Whether an attempt that has a slot may begin.

Most may at once. While the group rebalances nobody knows whose a command is, so it waits; when that is known and the
command has gone elsewhere, it does not begin here. One that another worker may have begun before is checked out first,
and begins once Kafka has that: so the run counts those that end every worker that tries them.
"""

from __future__ import annotations

import asyncio

from everstep_worker.attempts import Attempt
from everstep_worker.leases import Leases


async def admitted(attempt: Attempt, leases: Leases) -> bool:
    """Whether it may begin, for one that is not certain; False also if it is stopped meanwhile."""
    if attempt.is_over:
        return False
    asking = asyncio.ensure_future(_may_begin(attempt, leases))
    attempt.halts_by(asking.cancel)
    await asyncio.wait([asking])
    attempt.halts_by(None)
    return not (attempt.is_over or asking.cancelled()) and asking.result()


async def _may_begin(attempt: Attempt, leases: Leases) -> bool:
    if attempt.lease is None:
        await attempt.line.certain()
    if attempt.lease is None and not attempt.is_here:
        return False
    if attempt.suspect or attempt.lease is not None:
        await asyncio.wait([leases.check_out(attempt)])
    return True
