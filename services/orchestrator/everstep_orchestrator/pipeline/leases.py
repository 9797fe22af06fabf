"""When workers last renewed their holds on attempts of a shard's runs.

This is in memory alone, and outlives the runs there: a run that leaves memory and comes back has not been renewed by
that. Whoever opens the shard anew treats every hold as renewed at that moment.
"""

from __future__ import annotations

# Whatever was renewed longer ago than this has ended: leases are of seconds.
FORGET_AFTER_US = 3_600_000_000


class Leases:
    """The instants of renewals, by token."""

    def __init__(self, opened_at: int) -> None:
        self._opened_at = opened_at
        self._at: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._at)

    def renew(self, token: str, at: int) -> None:
        self._at[token] = at

    def renewed_at(self, token: str) -> int:
        """When the attempt was renewed last, as far as is known here."""
        return self._at.get(token, self._opened_at)

    def forget_old(self, now: int) -> None:
        """Drop what nobody will ask for any more."""
        old = [token for token, at in self._at.items() if at < now - FORGET_AFTER_US]
        for token in old:
            del self._at[token]
