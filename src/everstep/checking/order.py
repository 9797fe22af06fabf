"""EV201 and EV202: what follows from addresses and from the seed of string hashes, which differ between processes."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from typing import Any, get_origin

from everstep.checking.kinds import element, has_fixed_order, is_set
from everstep.checking.unit import Hit, Unit, written

# Whatever the order of what they are given, these give the same.
_ORDERLESS = {"sorted", "len", "min", "max", "sum", "any", "all", "set", "frozenset", "Counter", "bool"}
_ORDERED = {"list", "tuple", "iter", "enumerate", "zip", "map", "filter", "reversed", "next", "str", "repr"}
_ORDERED_METHODS = {"join", "fromkeys", "extend", "writelines"}
_ORDERED_WAITS = {"map", "map_batches"}


def find(unit: Unit) -> Iterator[Hit]:
    for node in unit.nodes:
        waited = node.args[1:2] if isinstance(node, ast.Call) and unit.context_call(node) in _ORDERED_WAITS else []
        for taken in (*_taken_in_order(node), *waited):
            kind = unit.kind(taken)
            if is_set(kind) and not _is_harmless(unit, taken, kind) and not _is_orderless(unit, node):
                yield Hit("EV201", taken, f"the order of the set `{written(taken)}` differs between processes")
        yield from _identities(unit, node)


def _taken_in_order(node: ast.AST) -> Iterator[ast.expr]:
    """The expressions that the node takes element by element."""
    match node:
        case ast.For(iter=iterated) | ast.AsyncFor(iter=iterated) | ast.YieldFrom(value=iterated):
            yield iterated
        case ast.ListComp() | ast.GeneratorExp() | ast.DictComp():
            yield node.generators[0].iter
        case ast.Starred(value=value, ctx=ast.Load()) | ast.FormattedValue(value=value):
            yield value
        case ast.Call(func=ast.Name(id=name), args=arguments) if name in _ORDERED:
            yield from arguments
        case ast.Call(func=ast.Attribute(attr="pop", value=value), args=[], keywords=[]):
            yield value
        case ast.Call(func=ast.Attribute(attr=name), args=arguments) if name in _ORDERED_METHODS:
            yield from arguments
        case ast.Assign(targets=[ast.Tuple(elts=[_, _, *_])], value=value):
            yield value


def _is_orderless(unit: Unit, node: ast.AST) -> bool:
    """Whether what takes the elements is itself taken by something to which their order is all the same."""
    parent = unit.layout.parent(node)
    if not isinstance(parent, ast.Call) or isinstance(node, ast.For):
        return False
    name = parent.func.id if isinstance(parent.func, ast.Name) else getattr(parent.func, "attr", "")
    return name in _ORDERLESS or (name == "update" and is_set(unit.kind(getattr(parent.func, "value", parent))))


def _is_harmless(unit: Unit, taken: ast.expr, kind: Any) -> bool:
    if has_fixed_order(element(kind)):
        return True
    if not isinstance(taken, ast.Name) or element(kind) is not None:
        return False
    added = [argument for node in unit.nodes for argument in _added(node, taken.id)]
    return bool(added) and all(has_fixed_order(unit.kind(one)) for one in added)


def _added(node: ast.AST, name: str) -> list[ast.expr]:
    match node:
        case ast.Call(func=ast.Attribute(value=ast.Name(id=found), attr="add"), args=arguments) if found == name:
            return arguments
    return []


def _identities(unit: Unit, node: ast.AST) -> Iterator[Hit]:
    if isinstance(node, ast.FormattedValue) and _shows_address(unit.kind(node.value)):
        yield Hit("EV202", node.value, f"`{written(node.value)}` shows as an address, which differs between processes")
    if not isinstance(node, ast.Call) or not node.args:
        return
    kind = unit.kind(node.args[0])
    match unit.builtin(node.func):
        case "id":
            yield Hit("EV202", node, f"{written(node)} is an address, which differs between processes")
        case "hash" if not has_fixed_order(kind):
            yield Hit("EV202", node, f"{written(node)} differs between processes")
        case "str" | "repr" if _shows_address(kind):
            yield Hit("EV202", node, f"{written(node)} shows an address, which differs between processes")


def _shows_address(kind: Any) -> bool:
    """Whether values of the type have no text of their own; unknown of a type that others derive from."""
    cls = get_origin(kind) or kind
    if not isinstance(cls, type) or cls is object or inspect.isabstract(cls) or cls.__subclasses__():
        return False
    if getattr(cls, "_is_protocol", False):
        return False
    return all(getattr(cls, name) is getattr(object, name) for name in ("__repr__", "__str__", "__format__"))
