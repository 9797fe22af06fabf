"""EV101–EV108: what leads out of the run."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import sys
from collections.abc import Callable, Iterator
from typing import Any

from everstep.checking.known import CONCURRENCY, ENOUGH, NAMES, OUTPUT, PACKAGES, Known
from everstep.checking.names import Found, names_of
from everstep.checking.unit import Hit, Unit, written


class World:
    """Made once the app is imported, so that it knows the functions of those modules that are there.

    `owns` tells whether the module of a dotted name is the author's own: it may be called like some library.
    """

    def __init__(self, owns: Callable[[str], bool]) -> None:
        self._owns = owns
        self._public = {id(value): name for name in (*NAMES, *ENOUGH) for value in _values(name)}

    def find(self, unit: Unit) -> Iterator[Hit]:
        """What leads out of the run in this function."""
        for node in unit.nodes:
            if isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Load):
                call = _call_of(unit, node)
                known = self._known(unit, node, call)
                if known is not None:
                    yield _hit(known, node, call)
            elif isinstance(node, ast.Call):
                yield from self._drawn_defaults(unit, node)

    def _known(self, unit: Unit, node: ast.Name | ast.Attribute, call: ast.Call | None) -> Known | None:
        if call is not None and isinstance(node, ast.Attribute) and node.attr == "run_in_executor":
            return CONCURRENCY
        found = unit.found(node)
        if found is None:
            return None
        names = self._names(found)
        known = next((NAMES[name] for name in names if name in NAMES), None)
        if known is OUTPUT and call is not None and _has_file(call):
            return None  # into a buffer, or into a file that is found where it is opened
        if known is None and call is not None:
            known = _unseeded(names, call)
        if known is None and (call is not None or inspect.isroutine(found.value)):
            known = self._by_package(found, names)
        return known

    def _names(self, found: Found) -> tuple[str, ...]:
        public = self._public.get(id(found.value))
        return found.names if public is None else (public, *found.names)

    def _by_package(self, found: Found, names: tuple[str, ...]) -> Known | None:
        if isinstance(found.value, type) and issubclass(found.value, BaseException):
            return None
        for name in names:
            parts = name.split(".")
            packages = (".".join(parts[:count]) for count in range(len(parts) - 1, 0, -1))
            known = next((PACKAGES[package] for package in packages if package in PACKAGES), None)
            if known is not None and name not in ENOUGH and not self._owns(name):
                return known
        return None

    def _drawn_defaults(self, unit: Unit, call: ast.Call) -> Iterator[Hit]:
        """A dataclass that draws the default of a field which the call leaves out."""
        found = unit.called(call)
        if found is None or not isinstance(found.value, type) or not dataclasses.is_dataclass(found.value):
            return
        if any(isinstance(one, ast.Starred) for one in call.args) or any(one.arg is None for one in call.keywords):
            return
        given = {keyword.arg for keyword in call.keywords}
        fields = [one for one in dataclasses.fields(found.value) if one.init]
        for number, one in enumerate(fields):
            factory: Any = one.default_factory
            if number >= len(call.args) and one.name not in given and factory is not dataclasses.MISSING:
                for name in self._names(Found(names_of(factory), factory)):
                    if known := NAMES.get(name):
                        says = f"{written(call.func)}() fills in `{one.name}` with {name}(), which {known.does}"
                        yield Hit(known.rule, call, says, f"pass `{one.name}`: {known.fix}")
                        break


def _values(name: str) -> Iterator[object]:
    module, _, member = name.rpartition(".")
    value = getattr(sys.modules.get(module), member, None)
    if value is not None:
        yield value
        yield from (original for original in [getattr(value, "__everstep_original__", None)] if original is not None)


def _call_of(unit: Unit, node: ast.AST) -> ast.Call | None:
    parent = unit.layout.parent(node)
    return parent if isinstance(parent, ast.Call) and parent.func is node else None


def _has_file(call: ast.Call) -> bool:
    return any(keyword.arg in ("file", "stream") for keyword in call.keywords)


def _unseeded(names: tuple[str, ...], call: ast.Call) -> Known | None:
    for name in names:
        if name in ENOUGH:
            enough, known = ENOUGH[name]
            given = (*call.args, *(keyword.value for keyword in call.keywords))
            there = [one for one in given if not (isinstance(one, ast.Constant) and one.value is None)]
            return known if len(there) < enough else None
    return None


def _hit(known: Known, node: ast.expr, call: ast.Call | None) -> Hit:
    return Hit(known.rule, node, f"{written(node)}{'()' if call is not None else ''} {known.does}", known.fix)
