"""What type an expression has, as far as annotations, constructors and literals tell; else None, never a guess."""

from __future__ import annotations

import ast
import asyncio
import collections.abc
import inspect
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from everstep._core.handles import Handle
from everstep.checking.layout import Binding, Layout
from everstep.checking.names import MISSING, Names, functions_in
from everstep.definitions import Activity

_SETS = (set, frozenset, collections.abc.Set, collections.abc.MutableSet)
_SET_METHODS = {"union", "intersection", "difference", "symmetric_difference", "copy"}
_SET_OPERATORS = (ast.BitOr, ast.BitAnd, ast.BitXor, ast.Sub)
_TASKS = {"asyncio.create_task", "asyncio.ensure_future"}


class Kinds:
    """The types of one function's expressions. `owner` is the class whose method it is."""

    def __init__(self, layout: Layout, owner: type | None) -> None:
        self._layout = layout
        self._owner = owner
        self._busy: set[ast.AST] = set()
        self.names: Names

    def of(self, node: ast.AST) -> Any:
        """The type or generic alias of the expression's value, or None."""
        if node in self._busy or node not in self._layout:
            return None
        self._busy.add(node)
        try:
            return plain(self._of(node))
        finally:
            self._busy.discard(node)

    def _of(self, node: ast.AST) -> Any:
        match node:
            case ast.Constant(value=value):
                return type(value)
            case ast.Set(elts=elements):
                return _alias(set, self._common(elements))
            case ast.SetComp(elt=element):
                return _alias(set, self._common([element]))
            case ast.Name():
                return self._name(node)
            case ast.Attribute():
                return self._attribute(node)
            case ast.Call():
                return self._call(node)
            case ast.Await(value=ast.Call() as call):
                return self._awaited(call)
            case ast.NamedExpr(value=value):
                return self.of(value)
            case ast.BinOp():
                return self._operation(node)
            case ast.IfExp(body=one, orelse=other):
                return self._same([one, other])
        return None

    def _name(self, node: ast.Name) -> Any:
        bound = self._layout.scope(node).find(node.id)
        if bound is None:
            found = self.names.find(node)
            return None if found is None or found.value is MISSING else _of_value(found.value)
        scope, bindings = bound
        if all(binding.how == "parameter" for binding in bindings) and scope.outer is None and self._is_self(node.id):
            return self._owner
        kinds = [plain(self._bound(binding)) for binding in bindings]
        return kinds[0] if kinds and all(kind == kinds[0] for kind in kinds) else None

    def _is_self(self, name: str) -> bool:
        arguments = self._layout.function.args
        first = [*arguments.posonlyargs, *arguments.args][:1]
        return self._owner is not None and [one.arg for one in first] == [name] and first[0].annotation is None

    def _bound(self, binding: Binding) -> Any:
        if binding.annotation is not None:
            return self.names.evaluated(binding.annotation)
        if binding.how == "assigned" and binding.value is not None:
            return self.of(binding.value)
        if binding.how == "iterated" and binding.value is not None:
            return element(self.of(binding.value))
        return None

    def _attribute(self, node: ast.Attribute) -> Any:
        found = self.names.find(node)
        if found is not None and isinstance(found.value, property):
            return _returned(found.value.fget)
        base = self.of(node.value)
        cls = get_origin(base) or base
        hint = _hints(cls).get(node.attr) if isinstance(cls, type) else None
        if hint is None and found is not None and found.value is not MISSING and not callable(found.value):
            return _of_value(found.value)
        return hint

    def _call(self, node: ast.Call) -> Any:
        found = self.names.find(node.func)
        value = MISSING if found is None else found.value
        if any(value is one for one in (set, frozenset, list, sorted)):
            return self._collected(node, list if value is sorted else value)
        if isinstance(value, type):
            return value
        if isinstance(value, Activity):
            return Handle
        if found is not None and not _TASKS.isdisjoint(found.names):
            return asyncio.Task
        if isinstance(node.func, ast.Attribute) and node.func.attr in _SET_METHODS:
            base = self.of(node.func.value)
            if is_set(base):
                return base
        functions = list(functions_in(value))
        return _returned(functions[0]) if functions and not inspect.iscoroutinefunction(functions[0]) else None

    def _collected(self, node: ast.Call, origin: Any) -> Any:
        inner = element(self.of(node.args[0])) if node.args else None
        return _alias(origin, inner or Any)

    def _awaited(self, call: ast.Call) -> Any:
        found = self.names.find(call.func)
        if found is None:
            return None
        if isinstance(found.value, Activity):
            return _returned(found.value.fn)
        return next((_returned(one) for one in functions_in(found.value) if inspect.iscoroutinefunction(one)), None)

    def _operation(self, node: ast.BinOp) -> Any:
        left, right = self.of(node.left), self.of(node.right)
        if isinstance(node.op, _SET_OPERATORS) and (is_set(left) or is_set(right)):
            return left if is_set(left) and (left == right or isinstance(node.op, ast.Sub | ast.BitAnd)) else set[Any]
        if isinstance(node.op, _SET_OPERATORS) and (_is_view(node.left) or _is_view(node.right)):
            return set[Any]
        return left if isinstance(node.op, ast.Div) and isinstance(left, type) else None

    def _common(self, elements: list[ast.expr]) -> Any:
        kinds = [self.of(one) for one in elements]
        return kinds[0] if kinds and kinds[0] is not None and all(kind == kinds[0] for kind in kinds) else Any

    def _same(self, nodes: list[ast.expr]) -> Any:
        kinds = [self.of(node) for node in nodes]
        return kinds[0] if all(kind == kinds[0] for kind in kinds) else None


def plain(kind: Any) -> Any:
    """The type without `Annotated`, and without a None that it may also be."""
    if get_origin(kind) is Annotated:
        return plain(get_args(kind)[0])
    if get_origin(kind) in (Union, UnionType):
        others = [one for one in get_args(kind) if one is not type(None)]
        return plain(others[0]) if len(others) == 1 else None
    return kind


def is_set(kind: Any) -> bool:
    """Whether values of the type are sets."""
    return kind in _SETS or get_origin(kind) in _SETS


def element(kind: Any) -> Any:
    """What iterating over a value of the type gives, or None."""
    arguments = get_args(kind)
    iterable = (*_SETS, list, tuple, collections.abc.Sequence, collections.abc.Iterable, collections.abc.Collection)
    return arguments[0] if arguments and get_origin(kind) in iterable and arguments[0] is not Any else None


def has_fixed_order(kind: Any) -> bool:
    """Whether elements of the type hash alike in every process: numbers, and the handles and tasks of a run."""
    cls = get_origin(kind) or kind
    return isinstance(cls, type) and issubclass(cls, int | float | complex | type(None) | asyncio.Future)


def _alias(origin: Any, inner: Any) -> Any:
    return origin[inner]


def _of_value(value: object) -> Any:
    if isinstance(value, set | frozenset):
        kinds = {type(one) for one in value}
        return _alias(set, kinds.pop() if len(kinds) == 1 else Any)
    return type(value)


def _is_view(node: ast.expr) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ("keys", "items")


def _returned(function: Any) -> Any:
    return _hints(function).get("return")


def _hints(annotated: Any) -> dict[str, Any]:
    try:
        return get_type_hints(annotated)
    except Exception:  # an annotation for type checkers alone
        return {}
