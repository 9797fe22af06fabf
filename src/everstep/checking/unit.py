"""One function of the author's that workflows reach, with all that rules ask about it."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from everstep.checking.kinds import Kinds
from everstep.checking.layout import Layout, Scope
from everstep.checking.names import Found, Names
from everstep.checking.source import FUNCTIONS, FunctionNode, Source
from everstep.context import Context


class Hit(NamedTuple):
    """A rule has found something at this node; `fix` is what to do here, if the rule's own words are too general."""

    rule: str
    node: ast.expr | ast.stmt | ast.ExceptHandler
    message: str
    fix: str = ""


@dataclass(frozen=True)
class Reached:
    """How workflow code gets here: from which workflow, through which functions, this one last."""

    workflow: str
    through: tuple[str, ...] = ()

    def then(self, name: str) -> Reached:
        return Reached(self.workflow, (*self.through, name))


class Unit:
    """A function, the functions and lambdas in it included."""

    def __init__(
        self,
        source: Source,
        function: FunctionNode,
        namespace: Mapping[str, Any],
        closure: Mapping[str, Any],
        owner: type | None,
        reached: Reached,
    ) -> None:
        self.source = source
        self.reached = reached
        self.layout = Layout(function)
        self._kinds = Kinds(self.layout, owner)
        self.names = self._kinds.names = Names(self.layout, namespace, closure, self._kinds.of)

    @property
    def nodes(self) -> list[ast.AST]:
        return self.layout.nodes

    def found(self, node: ast.AST) -> Found | None:
        """What a name or attribute stands for."""
        return self.names.find(node)

    def called(self, node: ast.AST) -> Found | None:
        """What a call calls; None if it is no call or cannot be told."""
        return self.found(node.func) if isinstance(node, ast.Call) else None

    def builtin(self, node: ast.AST) -> str:
        """The name of the builtin function or class that the expression is, or an empty string."""
        if not isinstance(node, ast.Name) or (found := self.found(node)) is None:
            return ""
        return node.id if f"builtins.{node.id}" in found.names else ""

    def kind(self, node: ast.AST) -> Any:
        """The type of an expression, or None."""
        return self._kinds.of(node)

    def is_context(self, node: ast.AST) -> bool:
        return self.kind(node) is Context

    def context_call(self, node: ast.AST) -> str:
        """The name of the method of `ctx` that a call calls, or an empty string."""
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and self.is_context(node.func.value):
            return node.func.attr
        return ""

    def is_bound(self, name: ast.Name) -> bool:
        """Whether the name is this function's own, or that of a function in it, but for what it imports."""
        bound = self.scope(name).find(name.id)
        return bound is not None and not any(binding.how == "imported" for binding in bound[1])

    def scope(self, node: ast.AST) -> Scope:
        return self.layout.scope(node)

    def definition(self, node: ast.AST) -> FunctionNode | None:
        """The lambda, or the function defined in this one, that an expression is."""
        if isinstance(node, ast.Lambda):
            return node
        bound = self.scope(node).find(node.id) if isinstance(node, ast.Name) else None
        defined = [one.value for one in bound[1] if one.how == "defined"] if bound else []
        return defined[-1] if defined and isinstance(defined[-1], FUNCTIONS) else None


def inside(node: ast.AST) -> list[ast.AST]:
    """The nodes below, but for those of functions that are only defined there."""
    below: list[ast.AST] = []
    for child in ast.iter_child_nodes(node):
        below.append(child)
        if not isinstance(child, (*FUNCTIONS, ast.ClassDef)):
            below += inside(child)
    return below


def awaits(node: ast.AST) -> bool:
    """Whether the node awaits anything, in functions that it defines not counted."""
    return any(
        isinstance(one, ast.Await | ast.AsyncFor | ast.AsyncWith)
        or (isinstance(one, ast.comprehension) and one.is_async)
        for one in (node, *inside(node))
    )


def written(node: ast.AST) -> str:
    """The expression as its author wrote it, on one line and not too long."""
    text = " ".join(ast.unparse(node).split())
    return text if len(text) <= 60 else f"{text[:57]}…"


def words(text: str) -> frozenset[str]:
    """The words of a text as a set, for long lists of names."""
    return frozenset(text.split())
