"""Finds the functions that workflows reach: what they call or refer to, as far as it is the author's own code.

Activities are not followed, since workers run them, nor is code of Python or of installed libraries.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from types import CodeType, FunctionType, ModuleType
from typing import Any

from everstep.checking.names import MISSING, functions_in
from everstep.checking.source import Sources
from everstep.checking.unit import Reached, Unit
from everstep.definitions import Activity
from everstep.workflows import Workflow

_INSTALLED = ("/site-packages/", "/dist-packages/")
# What creating an instance calls, and what statements call on one without naming it.
_IMPLICIT = (
    *("__new__", "__init__", "__post_init__", "__call__", "__await__"),
    *("__enter__", "__exit__", "__aenter__", "__aexit__", "__iter__", "__next__", "__aiter__", "__anext__"),
)
Code = tuple[str, CodeType]  # equal code of two files is not the same code


@dataclass
class Reach:
    """What was reached, and the names of functions whose source could not be read."""

    units: list[Unit] = field(default_factory=list)
    by_code: dict[Code, Unit] = field(default_factory=dict)
    unread: list[str] = field(default_factory=list)
    sources: Sources = field(default_factory=Sources)


def reach(workflows: Iterable[Workflow[..., Any]]) -> Reach:
    """All that these workflows reach, each function once."""
    return _Search(list(workflows)).run()


class _Search:
    def __init__(self, workflows: list[Workflow[..., Any]]) -> None:
        self._workflows = workflows
        self._owns = owner_of(workflows)
        self._seen: set[object] = set()
        self._queue: deque[tuple[FunctionType, Reached]] = deque()
        self._reach = Reach()

    def run(self) -> Reach:
        for workflow in self._workflows:
            for function in functions_in(workflow.fn):
                self._add(function, Reached(workflow.name))
        while self._queue:
            for unit in self._units(*self._queue.popleft()):
                self._reach.units.append(unit)
                for node in unit.nodes:
                    for target in self._targets(unit, node):
                        self._add(target, unit.reached.then(target.__qualname__.rpartition("<locals>.")[2]))
        return self._reach

    def _add(self, function: FunctionType, reached: Reached) -> None:
        if code_of(function) not in self._seen:
            self._seen.add(code_of(function))
            self._queue.append((function, reached))

    def _units(self, function: FunctionType, reached: Reached) -> Iterator[Unit]:
        module = sys.modules.get(function.__module__)
        source = self._reach.sources.of(module) if module else None
        nodes = source.functions(function.__code__) if source else []
        if not nodes and not function.__name__.startswith("__"):  # methods that dataclasses write have no source
            self._reach.unread.append(f"{function.__module__}.{function.__qualname__}")
        for node in nodes:
            if source and node not in self._seen:
                self._seen.add(node)
                unit = Unit(source, node, function.__globals__, _closure(function), _owner(function), reached)
                self._reach.by_code[code_of(function)] = unit
                yield unit

    def _targets(self, unit: Unit, node: ast.AST) -> Iterator[FunctionType]:
        if not isinstance(node, ast.Name | ast.Attribute) or not isinstance(node.ctx, ast.Load):
            return
        found = unit.found(node)
        if found is None or found.value is MISSING or isinstance(found.value, Activity | Workflow):
            return
        parent = unit.layout.parent(node)
        is_called = isinstance(parent, ast.Call) and parent.func is node
        values = _implicit(found.value) if isinstance(found.value, type) and is_called else [found.value]
        for value in values:
            yield from (function for function in functions_in(value) if self._owns(function.__module__))


def owner_of(workflows: Iterable[Workflow[..., Any]]) -> Callable[[str], bool]:
    """Tells of a dotted name whether its module is the author's own: of a workflow's package, or not installed."""
    own = {_top_level(workflow.fn.__module__) for workflow in workflows}

    def owns(dotted: str) -> bool:
        top = _top_level(dotted)
        if top in own:
            return True
        foreign = top == "everstep" or top in sys.stdlib_module_names
        return not foreign and _is_here(sys.modules.get(top))

    return owns


def _is_here(module: ModuleType | None) -> bool:
    """Whether the module lies elsewhere than among what is installed."""
    paths = [getattr(module, "__file__", None) or "", *getattr(module, "__path__", ())]
    return any(paths) and not any(part in path for path in paths for part in _INSTALLED)


def code_of(function: Any) -> Code:
    """What identifies a function's source."""
    return function.__code__.co_filename, function.__code__


def _implicit(cls: type) -> list[object]:
    """What is called of a class that the code makes an instance of."""
    own: list[object] = [vars(one)[name] for one in cls.__mro__ for name in _IMPLICIT if name in vars(one)]
    fields = dataclasses.fields(cls) if dataclasses.is_dataclass(cls) else ()
    return own + [one.default_factory for one in fields if one.default_factory is not dataclasses.MISSING]


def _top_level(dotted: str) -> str:
    return dotted.partition(".")[0]


def _closure(function: FunctionType) -> dict[str, Any]:
    closure = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        with suppress(ValueError):  # a variable that has no value yet
            closure[name] = cell.cell_contents
    return closure


def _owner(function: FunctionType) -> type | None:
    """The class whose method the function is, if it can be found by name."""
    value: Any = sys.modules.get(function.__module__)
    for name in function.__qualname__.split(".")[:-1]:
        value = inspect.getattr_static(value, name, None)
    return value if isinstance(value, type) else None
