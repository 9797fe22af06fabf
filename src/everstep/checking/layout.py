"""How one function is laid out: its nodes, what surrounds each, and the names that it and the functions in it bind.

Left out is what does not run as the workflow's code: annotations, decorators of the function itself, what is handed to
`ctx.side_effect` (it runs once and is recorded) or as `retry_if=` (it runs in a worker), and activities defined inside.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from everstep.checking.source import FUNCTIONS, FunctionNode

How = Literal["parameter", "assigned", "iterated", "imported", "defined", "other"]
_REGISTERS = {"activity", "remote", "provide", "workflow"}


class Binding(NamedTuple):
    """One way in which a name gets its value: `value` is the expression assigned, iterated over, or the definition."""

    how: How
    value: ast.AST | None = None
    annotation: ast.expr | None = None
    dotted: str = ""


@dataclass
class Scope:
    """The names that a function binds."""

    node: FunctionNode
    outer: Scope | None
    names: dict[str, list[Binding]] = field(default_factory=dict)
    elsewhere: set[str] = field(default_factory=set)

    def bind(self, name: str, binding: Binding) -> None:
        if name not in self.elsewhere:
            self.names.setdefault(name, []).append(binding)

    def find(self, name: str) -> tuple[Scope, list[Binding]] | None:
        """Where the name is bound, from here outwards; None if it is a global or a builtin."""
        if name in self.names:
            return self, self.names[name]
        return self.outer.find(name) if self.outer else None

    def is_in(self, function: FunctionNode) -> bool:
        """Whether it is the function's, or that of one that is defined in it."""
        return self.node is function or (self.outer is not None and self.outer.is_in(function))


class Layout:
    """All nodes of a function in order, with the parent and the scope of each."""

    def __init__(self, function: FunctionNode) -> None:
        self.function = function
        self.nodes: list[ast.AST] = []
        self._parents: dict[ast.AST, ast.AST] = {}
        self._scopes: dict[ast.AST, Scope] = {}
        self._enter(function, None)

    def __contains__(self, node: ast.AST) -> bool:
        """Whether the node belongs to the function and is not left out."""
        return node in self._scopes

    def parent(self, node: ast.AST) -> ast.AST | None:
        return self._parents.get(node)

    def scope(self, node: ast.AST) -> Scope:
        """The scope that the node's names are looked up in; of a function, the one of its body."""
        return self._scopes[node]

    def around(self, node: ast.AST) -> Iterator[ast.AST]:
        """What surrounds the node within its own function, innermost first."""
        above = self._parents.get(node)
        while above is not None and not isinstance(above, FUNCTIONS):
            yield above
            above = self._parents.get(above)

    def below(self, function: FunctionNode) -> Iterator[ast.AST]:
        """The nodes in the body of this function, or of one that is defined in it."""
        return (node for node in self.nodes if node is not function and self._scopes[node].is_in(function))

    # ---- building

    def _enter(self, function: FunctionNode, outer: Scope | None) -> None:
        scope = self._scopes[function] = Scope(function, outer)
        arguments = function.args
        for one in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs):
            scope.bind(one.arg, Binding("parameter", one, one.annotation))
        for more in (arguments.vararg, arguments.kwarg):
            if more is not None:
                scope.bind(more.arg, Binding("other"))
        body = [function.body] if isinstance(function, ast.Lambda) else function.body
        for statement in body:  # a name is the whole function's, wherever in it a statement says so
            for node in _of_this_function(statement):
                if isinstance(node, ast.Global | ast.Nonlocal):
                    scope.elsewhere.update(node.names)
        for statement in body:
            self._visit(statement, function, scope)

    def _visit(self, node: ast.AST, parent: ast.AST, scope: Scope) -> None:
        self.nodes.append(node)
        self._parents[node] = parent
        self._bind(node, scope)
        if isinstance(node, FUNCTIONS):
            for outside in _evaluated_outside(node):
                self._visit(outside, node, scope)
            if not _is_registered(node):
                self._enter(node, scope)
            else:
                self._scopes[node] = scope
            return
        self._scopes[node] = scope
        for child in _children(node):
            self._visit(child, node, scope)

    def _bind(self, node: ast.AST, scope: Scope) -> None:
        for name, binding in _bindings(node):
            scope.bind(name, binding)


def _of_this_function(node: ast.AST) -> Iterator[ast.AST]:
    yield node
    if not isinstance(node, (*FUNCTIONS, ast.ClassDef)):
        for child in ast.iter_child_nodes(node):
            yield from _of_this_function(child)


def _evaluated_outside(function: FunctionNode) -> list[ast.expr]:
    defaults = [default for default in (*function.args.defaults, *function.args.kw_defaults) if default is not None]
    return defaults if isinstance(function, ast.Lambda) else [*function.decorator_list, *defaults]


def _is_registered(function: FunctionNode) -> bool:
    decorators = [] if isinstance(function, ast.Lambda) else function.decorator_list
    called = [one.func if isinstance(one, ast.Call) else one for one in decorators]
    return any(isinstance(one, ast.Attribute) and one.attr in _REGISTERS for one in called)


def _children(node: ast.AST) -> Iterator[ast.AST]:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "side_effect":
        yield node.func
        return
    if isinstance(node, ast.AnnAssign):
        yield from (part for part in (node.target, node.value) if part is not None)
        return
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.keyword) and child.arg == "retry_if"):
            yield child


def _bindings(node: ast.AST) -> Iterator[tuple[str, Binding]]:
    match node:
        case ast.Assign(targets=targets, value=value):
            for target in targets:
                yield from _targets(target, Binding("assigned", value))
        case ast.AnnAssign(target=ast.Name(id=name), value=value, annotation=annotation):
            yield name, Binding("assigned", value, annotation)
        case ast.NamedExpr(target=target, value=value):
            yield target.id, Binding("assigned", value)
        case ast.For(target=target, iter=iterated) | ast.comprehension(target=target, iter=iterated, is_async=0):
            yield from _targets(target, Binding("iterated", iterated))
        case ast.AsyncFor(target=target) | ast.comprehension(target=target):
            yield from _targets(target, Binding("other"))
        case ast.withitem(optional_vars=ast.expr() as target):
            yield from _targets(target, Binding("other"))
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            yield name, Binding("defined", node)
        case ast.Import(names=aliases):
            for alias in aliases:
                yield alias.asname or alias.name.partition(".")[0], Binding("imported", dotted=_imported(alias))
        case ast.ImportFrom(module=module, names=aliases):
            for alias in aliases:
                yield alias.asname or alias.name, Binding("imported", dotted=f"{module or ''}.{alias.name}")
        case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
            yield name, Binding("other")
        case ast.MatchMapping(rest=str(name)):
            yield name, Binding("other")


def _imported(alias: ast.alias) -> str:
    return alias.name if alias.asname else alias.name.partition(".")[0]


def _targets(target: ast.expr, binding: Binding) -> Iterator[tuple[str, Binding]]:
    if isinstance(target, ast.Name):
        yield target.id, binding
        return
    for node in ast.walk(target):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id, Binding("other")
