"""EV301: state that outlives the run. Another run, or the same one on replay, finds what this one has left there."""

from __future__ import annotations

import ast
import collections
import os
from collections.abc import Iterator, MutableMapping, MutableSequence, MutableSet
from typing import Any

from everstep.checking.names import MISSING
from everstep.checking.unit import Hit, Unit, words, written

_CHANGES = words(
    "append appendleft extend extendleft insert remove pop popleft popitem clear update setdefault add discard sort"
    " reverse rotate subtract move_to_end difference_update intersection_update symmetric_difference_update"
)
_CONTAINERS = (MutableSequence, MutableMapping, MutableSet, collections.deque)


def find(unit: Unit) -> Iterator[Hit]:
    for node in unit.nodes:
        if isinstance(node, ast.Global):
            yield _hit(node, f"the global {', '.join(node.names)}")
        elif isinstance(node, ast.expr) and (changed := _changed(unit, node)) is not None:
            yield _hit(node, f"`{written(changed)}`")


def _changed(unit: Unit, node: ast.AST) -> ast.expr | None:
    """What belongs to a module, a class or a function around the workflow and is changed by the node."""
    match node:
        case ast.Call(func=ast.Attribute(attr=name, value=base)) if name in _CHANGES:
            return base if isinstance(_shared(unit, base), _CONTAINERS) else None
        case ast.Call(func=ast.Name(id="next"), args=[base, *_]):
            return base if isinstance(_shared(unit, base), Iterator) else None
        case ast.Subscript(ctx=ast.Store() | ast.Del(), value=base):
            return base if isinstance(_shared(unit, base), _CONTAINERS) else None
        case ast.Attribute(ctx=ast.Store() | ast.Del(), value=base):
            return None if _shared(unit, base) is MISSING else node
    return None


def _shared(unit: Unit, node: ast.expr) -> Any:
    """The object, if it is there before the run and after it."""
    root: ast.expr = node
    while isinstance(root, ast.Attribute | ast.Subscript):
        root = root.value
    if not isinstance(root, ast.Name) or unit.is_bound(root):
        return MISSING
    while isinstance(node, ast.Subscript):
        node = node.value
    found = unit.found(node)
    return MISSING if found is None or found.value is os.environ else found.value


def _hit(node: ast.stmt | ast.expr, what: str) -> Hit:
    return Hit("EV301", node, f"{what} is changed here and outlives the run")
