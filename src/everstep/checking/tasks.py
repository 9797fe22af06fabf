"""EV401–EV405: uses of asyncio that replay or eviction cannot follow."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Any

from everstep.checking.unit import Hit, Unit, awaits, inside, written

# Functions of asyncio that Everstep has its own versions of, behind dispatchers in asyncio's modules.
_REPLACED = ("wait_for", "gather", "as_completed", "all_tasks")
_STARTERS = {"asyncio.create_task", "asyncio.ensure_future", "asyncio.tasks.create_task", "asyncio.tasks.ensure_future"}
_LOOPS = {"asyncio.get_running_loop", "asyncio.get_event_loop"}
_FUTURES = {"asyncio.Future", "asyncio.futures.Future", "_asyncio.Future"}
_ENDS = ast.Await | ast.AsyncFor | ast.AsyncWith | ast.Yield | ast.YieldFrom | ast.Return | ast.Raise


def find(unit: Unit) -> Iterator[Hit]:
    for node in unit.nodes:
        match node:
            case ast.Name(ctx=ast.Load()):
                yield from _early_bound(unit, node)
            case ast.Call():
                yield from _made_by_hand(unit, node)
            case ast.Expr(value=ast.Call() as call):
                yield from _dropped(unit, call)
            case ast.Try() | ast.TryStar():
                yield from _swallowed(unit, node)
            case ast.With() if awaits(node):
                yield from _suppressed(unit, node)
            case ast.While() if not any(isinstance(one, ast.Try | ast.With) for one in unit.layout.around(node)):
                yield from _endless(node)


# ---- EV401


def _early_bound(unit: Unit, node: ast.Name) -> Iterator[Hit]:
    """A function that the module has taken out of asyncio. The import is where it is mended."""
    found = unit.found(node)
    name = None if found is None or unit.is_bound(node) else getattr(found.value, "__name__", None)
    if name not in _REPLACED or getattr(found and found.value, "__module__", None) != "asyncio.tasks":
        return
    taken = f"from asyncio import {name}"
    says = f"`{taken}` takes asyncio's own {name}, if nothing has imported everstep before"
    yield Hit("EV401", _import_of(unit, node.id) or node, says, f"import asyncio and call asyncio.{name}")


def _import_of(unit: Unit, name: str) -> ast.stmt | None:
    for statement in ast.walk(unit.source.tree):
        if isinstance(statement, ast.ImportFrom) and any((one.asname or one.name) == name for one in statement.names):
            return statement
    return None


# ---- EV402 and EV403


def _made_by_hand(unit: Unit, node: ast.Call) -> Iterator[Hit]:
    found = unit.called(node)
    if found is not None and not _FUTURES.isdisjoint(found.names):
        yield Hit("EV402", node, f"{written(node.func)}() hashes by its address")


def _dropped(unit: Unit, node: ast.Call) -> Iterator[Hit]:
    found = unit.called(node)
    by_name = found is not None and not _STARTERS.isdisjoint(found.names)
    if by_name or (isinstance(node.func, ast.Attribute) and node.func.attr == "create_task" and _is_loop(unit, node)):
        yield Hit("EV403", node, f"nobody keeps the task of {written(node)}")


def _is_loop(unit: Unit, node: ast.Call) -> bool:
    base: Any = node.func.value if isinstance(node.func, ast.Attribute) else None
    found = unit.called(base)
    return found is not None and not _LOOPS.isdisjoint(found.names)


# ---- EV404


def _swallowed(unit: Unit, node: ast.Try | ast.TryStar) -> Iterator[Hit]:
    if not any(awaits(statement) for statement in node.body):
        return
    for handler in node.handlers:
        if _catches_all(unit, handler.type) and not any(isinstance(one, ast.Raise) for one in inside(handler)):
            what = f"except {written(handler.type)}" if handler.type else "a bare except"
            yield Hit("EV404", handler, f"{what} swallows cancellation and eviction")
    for statement in node.finalbody:
        for one in (statement, *inside(statement)):
            if isinstance(one, ast.Return):
                yield Hit("EV404", one, "return in finally swallows cancellation and eviction")


def _catches_all(unit: Unit, caught: ast.expr | None) -> bool:
    if isinstance(caught, ast.Tuple):
        return any(_catches_all(unit, one) for one in caught.elts)
    found = unit.found(caught) if caught is not None else None
    return caught is None or (found is not None and found.value is BaseException)


def _suppressed(unit: Unit, node: ast.With) -> Iterator[Hit]:
    for item in node.items:
        call = item.context_expr
        found = unit.called(call)
        arguments = call.args if isinstance(call, ast.Call) and found and "contextlib.suppress" in found.names else []
        if any(_catches_all(unit, one) for one in arguments):
            yield Hit("EV404", call, f"{written(call)} swallows cancellation and eviction")


# ---- EV405


def _endless(node: ast.While) -> Iterator[Hit]:
    """For loops that no `try` or `with` surrounds: there an exception may end it, as when a queue is emptied."""
    if not (isinstance(node.test, ast.Constant) and node.test.value):
        return
    below = [one for statement in node.body for one in (statement, *inside(statement))]
    if not any(isinstance(one, _ENDS) for one in below) and not awaits(node) and not _breaks(node.body):
        yield Hit("EV405", node, "this loop never awaits and never ends")


def _breaks(body: list[ast.stmt]) -> bool:
    """Whether a `break` ends the loop that has this body, and not one within it."""
    for statement in body:
        if isinstance(statement, ast.Break):
            return True
        if isinstance(statement, ast.For | ast.While | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        blocks = [statement, *ast.walk(statement)] if isinstance(statement, ast.Match) else []
        nested = [getattr(statement, part, []) for part in ("body", "orelse", "finalbody", "handlers")]
        inner = [one for block in nested for one in block] + [
            case for case in blocks if isinstance(case, ast.match_case)
        ]
        if _breaks([*(one for one in inner if isinstance(one, ast.stmt))]) or any(
            _breaks(one.body) for one in inner if isinstance(one, ast.ExceptHandler | ast.match_case)
        ):
            return True
    return False
