"""A check of the source of workflows for what replay could not repeat. `everstep check MODULE:app` runs it.

It reads the code of all workflows of an app and of everything of the author's that they reach, with the app imported,
so that names mean what they mean there. Nothing is run. `rules` lists what it looks for.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator

from everstep.app import App
from everstep.checking import order, state, tasks
from everstep.checking.excuses import Spanning, apply
from everstep.checking.findings import Finding, Report
from everstep.checking.handles import Handles
from everstep.checking.reaching import Reach, owner_of, reach
from everstep.checking.rules import RULES
from everstep.checking.unit import Hit, Unit
from everstep.checking.world import World

__all__ = ["RULES", "Finding", "Report", "check"]


def check(app: App, rules: Iterable[str] = RULES) -> Report:
    """Check all workflows of `app`, against these rules only if they are given."""
    workflows = [workflow for versions in app.workflows.values() for workflow in versions.values()]
    reached = reach(workflows)
    wanted = set(rules)
    kept = [one for one in apply(_findings(reached, World(owner_of(workflows))), reached.sources) if one.rule in wanted]
    return Report(tuple(sorted(kept)), len(workflows), len(reached.units), tuple(reached.unread))


def _findings(reached: Reach, world: World) -> Iterator[Spanning]:
    """Each rule once on a line, where workflows come by first."""
    finders = (world.find, order.find, state.find, tasks.find, Handles(reached.by_code).find)
    seen = set()
    for unit in reached.units:
        for finder in finders:
            for hit in finder(unit):
                finding, end_line = _finding(unit, hit)
                if (key := (finding.path, finding.line, finding.rule)) not in seen:
                    seen.add(key)
                    yield finding, end_line


def _finding(unit: Unit, hit: Hit) -> Spanning:
    node = hit.node
    finding = Finding(
        unit.source.path,
        node.lineno,
        node.col_offset + 1,
        hit.rule,
        hit.message,
        hit.fix or RULES[hit.rule].fix,
        unit.reached.workflow,
        unit.reached.through,
    )
    has_body = isinstance(node, ast.stmt | ast.ExceptHandler) and hasattr(node, "body")
    return finding, node.lineno if has_body else node.end_lineno or node.lineno
