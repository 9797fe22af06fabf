"""What a name or an attribute in the author's code stands for: the real object where the imported app has it."""

from __future__ import annotations

import ast
import builtins
import functools
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from types import MemberDescriptorType, ModuleType
from typing import Any, Final, get_origin

from everstep.checking.layout import Layout

MISSING: Final = object()
_DESCRIPTORS = (property, functools.cached_property, MemberDescriptorType)
# Modules that CPython keeps a class or function in, for the module that people import it from.
_PUBLIC = {"_io": "io", "pathlib._local": "pathlib", "pathlib._abc": "pathlib", "posix": "os", "nt": "os"}


@dataclass(frozen=True)
class Found:
    """An object and the dotted names it is known by; without the object if it could not be looked at."""

    names: tuple[str, ...]
    value: Any = MISSING


class Names:
    """Looks names up as the function's code would. `kind_of` tells the type of an expression, if it can."""

    def __init__(
        self,
        layout: Layout,
        namespace: Mapping[str, Any],
        closure: Mapping[str, Any],
        kind_of: Callable[[ast.AST], Any],
    ) -> None:
        self._layout = layout
        self._globals = namespace
        self._closure = closure
        self._kind_of = kind_of

    def find(self, node: ast.AST) -> Found | None:
        """What the expression stands for; None for what only exists when the code runs."""
        if node not in self._layout:
            return None
        if isinstance(node, ast.Name):
            return self._name(node)
        if isinstance(node, ast.Attribute):
            return self._attribute(node)
        return None

    def evaluated(self, annotation: ast.expr | None) -> Any:
        """The object that an annotation stands for, or None."""
        if annotation is None:
            return None
        code = compile(ast.Expression(annotation), "<annotation>", "eval")
        try:
            found = eval(code, dict(self._globals), dict(self._closure))  # noqa: S307  # the author's annotation, as typing does
            return eval(found, dict(self._globals), dict(self._closure)) if isinstance(found, str) else found  # noqa: S307  # the same
        except Exception:  # it names what only exists for type checkers, or in the function
            return None

    def _name(self, node: ast.Name) -> Found | None:
        bound = self._layout.scope(node).find(node.id)
        if bound is not None:
            imported = [binding.dotted for binding in bound[1] if binding.how == "imported"]
            return self._imported(imported[0]) if len(imported) == len(bound[1]) == 1 else None
        for names in (self._closure, self._globals, vars(builtins)):
            if node.id in names:
                value = names[node.id]
                return Found((*self._spelled(names, node.id), *names_of(value)), value)
        return None

    def _spelled(self, names: Mapping[str, Any], name: str) -> tuple[str, ...]:
        return (f"builtins.{name}",) if names is vars(builtins) else ()

    def _imported(self, dotted: str) -> Found:
        if dotted.startswith("."):
            dotted = importlib.util.resolve_name(dotted, str(self._globals.get("__package__") or "?"))
        value = _imported_value(dotted)
        return Found((dotted,) if value is MISSING else (dotted, *names_of(value)), value)

    def _attribute(self, node: ast.Attribute) -> Found | None:
        base = self.find(node.value)
        if base is None or base.value is MISSING or isinstance(base.value, _DESCRIPTORS):
            kind = self._kind_of(node.value)
            cls = get_origin(kind) or kind
            if isinstance(cls, type):
                return _of_class(cls, node.attr)
            return Found(tuple(f"{name}.{node.attr}" for name in base.names)) if base else None
        if isinstance(base.value, ModuleType):
            value = _member(base.value, node.attr)
            dotted = f"{base.value.__name__}.{node.attr}"
            return Found((dotted,) if value is MISSING else (dotted, *names_of(value)), value)
        if isinstance(base.value, type):
            return _of_class(base.value, node.attr)
        return _of_instance(base.value, node.attr)


def _imported_value(dotted: str) -> Any:
    """The module or the member of a module, if its module has been imported."""
    if dotted in sys.modules:
        return sys.modules[dotted]
    module, _, member = dotted.rpartition(".")
    return _member(sys.modules.get(module), member)


def _member(module: ModuleType | None, name: str) -> Any:
    try:
        return getattr(module, name, MISSING)
    except Exception:  # a module that imports its members late, and cannot
        return MISSING


def _of_class(cls: type, attribute: str) -> Found:
    names = tuple(f"{name}.{attribute}" for one in cls.__mro__ for name in names_of(one))
    return Found(names, inspect.getattr_static(cls, attribute, MISSING))


def _of_instance(value: object, attribute: str) -> Found:
    found = _of_class(type(value), attribute)
    own = getattr(value, "__dict__", {}) if found.value is MISSING else {}
    return Found(found.names, own[attribute]) if attribute in own else found


def names_of(value: object) -> tuple[str, ...]:
    """The names that an object is known by: those of its definition, and the public one if that differs."""
    if isinstance(value, ModuleType):
        return (value.__name__,)
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    owner = getattr(value, "__self__", None)
    if isinstance(owner, type):  # a class method, of which a builtin does not know the module
        return tuple(f"{one}.{getattr(value, '__name__', '?')}" for one in names_of(owner))
    if not (isinstance(module, str) and isinstance(name, str)):
        return ()
    return (f"{_PUBLIC.get(module, module)}.{name}",)


def functions_in(value: object) -> Iterator[Any]:
    """The plain functions behind what can be called: a method, a property, something decorated."""
    if isinstance(value, functools.partial | functools.partialmethod):
        value = value.func
    elif isinstance(value, staticmethod | classmethod):
        value = value.__func__
    elif isinstance(value, property):
        value = value.fget
    elif isinstance(value, functools.cached_property):
        value = value.func
    if inspect.ismethod(value):
        value = value.__func__
    if callable(value) and not isinstance(value, type):
        with suppress(ValueError):  # wrapped in a ring
            value = inspect.unwrap(value)
    if inspect.isfunction(value):
        yield value
