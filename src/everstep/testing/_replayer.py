"""The other process of `replay_elsewhere`: imports the workflows, replays, and writes down what was different."""

from __future__ import annotations

import importlib
import importlib.util
import random
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec

from everstep import _doors
from everstep._core.engine import CannotRun, Engine
from everstep.app import App, load
from everstep.testing._elsewhere import Difference, Place, Recorded, Task
from everstep.testing._installation import API_URL, MAX_PAYLOAD_BYTES, TOPICS
from everstep.testing._problems import differs
from everstep.workflows import Workflow

# Each history so often, every time in other memory: two objects have the right order by chance half of the time.
_TIMES = 4


class Waste:
    """Between the steps of runs, allocates and frees at random what is of the size of common objects."""

    def __init__(self) -> None:
        self._random = random.Random(0)  # noqa: S311  # the same waste each time
        self._kept: list[object] = [bytes(self._random.randrange(0, 480)) for _ in range(2_000)]

    def enter(self) -> None:
        chance, kept = self._random, self._kept
        for _ in range(20):
            kept[chance.randrange(len(kept))] = bytes(chance.randrange(0, 480))

    def leave(self) -> None:
        return None


class Codes:
    """The workflows that are wanted, found where they are said to be."""

    def __init__(self, app: App | None) -> None:
        self._app = app
        self._found: dict[Place, Workflow[..., Any] | str] = {}

    def engine_for(self, recorded: Recorded, waste: Waste) -> Engine | str:
        """An engine that has the code, or why there is none."""
        code: Any = self._app
        if code is None:
            if recorded.place is None:
                return "defined within a function"
            found = self._find(recorded.place)
            if isinstance(found, str):
                return found
            code = _One({found.name: {found.version: found}})
        return Engine(code, TOPICS, max_payload_bytes=MAX_PAYLOAD_BYTES, guard=waste, api_url=lambda: API_URL)

    def _find(self, place: Place) -> Workflow[..., Any] | str:
        if place not in self._found:
            self._found[place] = _find(place)
        return self._found[place]


class _One:
    def __init__(self, workflows: Mapping[str, Mapping[int, Workflow[..., Any]]]) -> None:
        self.workflows = workflows


def _find(place: Place) -> Workflow[..., Any] | str:
    try:
        module = _module(place)
    except BaseException as error:
        return f"module {place.module!r} cannot be imported in another process: {type(error).__name__}: {error}"
    for workflow in _workflows(module):
        if (workflow.name, workflow.version) == (place.workflow, place.version):
            return workflow
    return f"module {place.module!r} has no such workflow when it is imported in another process"


def _module(place: Place) -> ModuleType:
    """By its name, if that leads to the same file; else from its file."""
    if place.module in sys.modules and place.module != "__main__":
        return sys.modules[place.module]
    spec = _spec(place.module) if place.module != "__main__" else None
    if place.file is not None and (spec is None or not _same(spec.origin, place.file)):
        spec = importlib.util.spec_from_file_location(place.module, place.file)
    if spec is None or spec.loader is None:
        raise ImportError("there is no file to import it from")
    module = importlib.util.module_from_spec(spec)
    sys.modules[place.module] = module
    spec.loader.exec_module(module)
    return module


def _spec(name: str) -> importlib.machinery.ModuleSpec | None:
    try:
        return importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None


def _same(one: str | None, other: str) -> bool:
    return one is not None and Path(one).exists() and Path(one).samefile(other)


def _workflows(module: ModuleType) -> Iterator[Workflow[..., Any]]:
    for value in list(vars(module).values()):
        if isinstance(value, Workflow):
            yield value
        elif isinstance(value, App):
            for versions in value.workflows.values():
                yield from versions.values()


def replayed(task: Task) -> tuple[list[Difference], dict[str, int]]:
    """What is different, and how many histories could not be replayed, by reason."""
    waste, skipped = Waste(), Counter[str]()
    codes = Codes(None if task.app is None else load(task.app))
    differences: list[Difference] = []
    for recorded in task.recorded:
        engine = codes.engine_for(recorded, waste)
        if isinstance(engine, str):
            skipped[engine] += 1
        elif (difference := _difference(engine, recorded)) is not None:
            differences.append(difference)
    return differences, dict(skipped)


def _difference(engine: Engine, recorded: Recorded) -> Difference | None:
    for _ in range(_TIMES):
        error = _replay(engine, recorded)
        if error is not None:
            identity = recorded.history.identity
            return Difference(
                recorded.name,
                identity.workflow_id,
                identity.run,
                identity.workflow,
                str(error),
                error.expected,
                error.got,
            )
    return None


def _replay(engine: Engine, recorded: Recorded) -> Any:
    history = recorded.history
    where = " in another process"
    try:
        replay = engine.replay(history.identity)
        for row in history.rows:
            replay.feed(row)
        run = replay.finish()
    except CannotRun as error:
        return differs(history.identity, error.reason, where)
    differing = run.differing
    run.evict()
    return None if differing is None else differs(history.identity, differing, where)


def main() -> None:
    _doors.install()
    asked, answered = map(Path, sys.argv[1:])
    task = msgspec.msgpack.decode(asked.read_bytes(), type=Task)
    answered.write_bytes(msgspec.msgpack.encode(replayed(task)))
