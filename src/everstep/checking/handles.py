"""EV501–EV503: calls of activities and of `ctx` that do not do what they seem to do."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator, Mapping

from everstep.checking.names import functions_in
from everstep.checking.reaching import Code, code_of
from everstep.checking.source import FunctionNode
from everstep.checking.unit import Hit, Unit, words, written
from everstep.definitions import Activity
from everstep.workflows import Workflow

# Methods of `ctx` that give a handle.
_WAITS = words(
    "sleep sleep_until wait_for_signal wait_until handlers_done activity child callback poll map map_batches first "
    "retry"
)
# Those that change the run or its history besides.
_COMMANDS = words(
    "set_status milestone continue_as_new side_effect on_signal on_unreadable_signal on_query on_update expose external"
    " patched retire_patch saga uuid4"
)
_GATHERS = {"asyncio.gather", "asyncio.tasks.gather", "asyncio.shield", "asyncio.tasks.shield"}
_AWAITS = (ast.Await, ast.AsyncFor, ast.AsyncWith)


class Handles:
    """`units` are those of all functions that were reached."""

    def __init__(self, units: Mapping[Code, Unit]) -> None:
        self._units = units

    def find(self, unit: Unit) -> Iterator[Hit]:
        for node in unit.nodes:
            match node:
                case ast.Expr(value=ast.Call() as call):
                    yield from _dropped(unit, call)
                case ast.Attribute(attr="fn", ctx=ast.Load(), value=base) if _is_activity(unit, base):
                    yield Hit("EV502", node, f"{written(node)} runs the activity here, in the orchestrator")
                case ast.Call():
                    for role, handler in _handlers(unit, node):
                        yield from self._acting(unit, role, handler)

    # ---- EV503

    def _acting(self, unit: Unit, role: str, handler: ast.AST) -> Iterator[Hit]:
        function = handler if isinstance(handler, ast.FunctionDef | ast.AsyncFunctionDef) else unit.definition(handler)
        if function is not None:
            yield from _acts(unit, function, role)
            return
        found = unit.found(handler)
        for plain in functions_in(found.value) if found is not None else ():
            if (other := self._units.get(code_of(plain))) is not None:
                yield from _acts(other, other.layout.function, role)


def _acts(unit: Unit, function: FunctionNode, role: str) -> Iterator[Hit]:
    if isinstance(function, ast.AsyncFunctionDef):
        yield Hit("EV503", function, f"{role} is asynchronous", "make it a plain function")
    for node in unit.layout.below(function):
        if isinstance(node, _AWAITS):
            yield Hit("EV503", node, f"{role} awaits")
        elif isinstance(node, ast.Call) and (_schedules(unit, node) or unit.context_call(node) in _WAITS | _COMMANDS):
            yield Hit("EV503", node, f"{role} calls {written(node.func)}()")


def _handlers(unit: Unit, call: ast.Call) -> Iterator[tuple[str, ast.AST]]:
    """The functions that the call registers and that may only look, each with its role."""
    method = unit.context_call(call)
    decorated = unit.layout.parent(call)
    if method == "on_query":
        if isinstance(decorated, ast.FunctionDef | ast.AsyncFunctionDef):
            yield "the handler of a query", decorated
        yield from (("the handler of a query", one) for one in call.args[1:])
    elif method == "on_update":
        yield from (("a validator", keyword.value) for keyword in call.keywords if keyword.arg == "validate")
    elif method == "expose":
        yield from (("what answers a query", keyword.value) for keyword in call.keywords)
    elif method == "wait_until":
        yield from (("the condition of a wait", one) for one in call.args[:1])


# ---- EV501


def _dropped(unit: Unit, call: ast.Call) -> Iterator[Hit]:
    if _schedules(unit, call) or unit.context_call(call) in _WAITS or _gathers(unit, call):
        yield Hit("EV501", call, f"nothing awaits {written(call)}: what is under way when the run ends is cancelled")
    elif _is_coroutine_function(unit, call.func):
        yield Hit("EV501", call, f"nothing awaits {written(call)}, so it never runs", "await it")


def _schedules(unit: Unit, call: ast.Call) -> bool:
    """Whether the call schedules an activity or a child run."""
    func = call.func
    if isinstance(func, ast.Call) and isinstance(func.func, ast.Attribute) and func.func.attr == "options":
        func = func.func.value
    found = unit.found(func)
    return found is not None and isinstance(found.value, Activity | Workflow)


def _gathers(unit: Unit, call: ast.Call) -> bool:
    found = unit.called(call)
    return found is not None and not _GATHERS.isdisjoint(found.names)


def _is_activity(unit: Unit, node: ast.expr) -> bool:
    found = unit.found(node)
    return found is not None and isinstance(found.value, Activity)


def _is_coroutine_function(unit: Unit, func: ast.expr) -> bool:
    if isinstance(unit.definition(func), ast.AsyncFunctionDef):
        return True
    found = unit.found(func)
    return found is not None and any(inspect.iscoroutinefunction(one) for one in functions_in(found.value))
