"""What the check looks for. `docs/determinism.md` is written from this table, and a test checks every example in it.

The first digit groups the rules: 1 what leads out of the run, 2 order and identity, 3 state, 4 asyncio, 5 activities
and `ctx`, 9 the check itself. Numbers are never used again.
"""

from __future__ import annotations

from everstep.checking.rules import _asyncio, _everstep, _outside, _state
from everstep.checking.rules._rule import PRELUDE, Rule

__all__ = ["PRELUDE", "RULES", "Rule"]

_PARTS: list[tuple[Rule, ...]] = [_outside.TABLE, _state.TABLE, _asyncio.TABLE, _everstep.TABLE]
RULES: dict[str, Rule] = {rule.number: rule for part in _PARTS for rule in part}
