"""Replays histories in another process, where what only looks the same within one is different.

There strings hash by another seed, so a set of them has another order; and objects have other addresses, so whatever
is ordered by `id()` or by a default hash has one, too: the process lays waste its own memory between the steps. It is
given nothing but the histories and where the workflows' code is: a module, or a file.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from everstep._core.ports import WorkflowCode
from everstep.errors import EverstepError
from everstep.histories import History

_MOST_SEED = 4_294_967_295
_MAIN = "from everstep.testing._replayer import main; main()"


class Place(msgspec.Struct, frozen=True):
    """Where the code of a workflow is: in a module that another process can import, by name or from its file."""

    module: str
    file: str | None
    workflow: str
    version: int


class Recorded(msgspec.Struct, frozen=True):
    """A history with a name for people, such as that of the test it comes from, and where its code is, if anywhere."""

    name: str
    history: History
    place: Place | None = None


class Difference(msgspec.Struct, frozen=True):
    """A history that was replayed differently. `expected` is what it holds, `got` what the replay gave."""

    name: str
    workflow_id: str
    run: int
    workflow: str
    message: str
    expected: str | None = None
    got: str | None = None


class Elsewhere(msgspec.Struct, frozen=True):
    """What became of replaying in another process, under `seed` as its PYTHONHASHSEED.

    `replayed` counts histories that were; `skipped` those whose code cannot be imported there, such as workflows that
    are defined within a function, by reason.
    """

    seed: int
    replayed: int
    differences: list[Difference]
    skipped: dict[str, int]


class Task(msgspec.Struct, frozen=True):
    """What the other process is asked. `app` is `MODULE:app`, in whose code everything is replayed if it is given."""

    path: list[str]
    app: str | None
    recorded: list[Recorded]


class NotReplayed(EverstepError):
    """The other process did not do its work; the message holds what it said."""


def place_of(code: WorkflowCode) -> Place | None:
    """Where another process finds the code of a workflow, or None if it is defined within a function."""
    fn = code.fn
    if "<locals>" in fn.__qualname__:
        return None
    module = sys.modules.get(fn.__module__)
    return Place(fn.__module__, getattr(module, "__file__", None), code.name, code.version)


def replay_elsewhere(
    recorded: Iterable[Recorded], *, app: str | None = None, seed: int | None = None, timeout_seconds: float = 600.0
) -> Elsewhere:
    """Replays histories in one other Python process, with another hash seed and disturbed memory.

    Their code is that of `app`, `MODULE:app`, else what each says itself. `seed` is the PYTHONHASHSEED there; without
    one it is drawn, and is not this process's. Raises `NotReplayed` if the process fails, as when it takes too long.
    """
    if seed is None:
        seed = _another_seed(os.environ.get("PYTHONHASHSEED"))
    task = Task([entry for entry in sys.path if entry], app, list(recorded))
    with tempfile.TemporaryDirectory(prefix="everstep-replay-") as directory:
        return _replayed(task, Path(directory), seed, timeout_seconds)


def _another_seed(own: str | None) -> int:
    return next(seed for seed in iter(lambda: random.randint(1, _MOST_SEED), None) if str(seed) != own)  # noqa: S311


def _replayed(task: Task, directory: Path, seed: int, timeout_seconds: float) -> Elsewhere:
    asked, answered = directory / "asked", directory / "answered"
    asked.write_bytes(msgspec.msgpack.encode(task))
    command = [sys.executable, "-P", "-c", _MAIN, str(asked), str(answered)]
    try:
        done = subprocess.run(  # noqa: S603  # this very interpreter
            command, env=_environment(task.path, seed), capture_output=True, timeout=timeout_seconds, check=False
        )
    except subprocess.TimeoutExpired:
        raise NotReplayed(f"replaying {len(task.recorded)} histories took more than {timeout_seconds:g} s") from None
    except OSError as error:
        raise NotReplayed(f"no other process could be started: {error}") from error
    if not answered.exists():
        said = (done.stderr or done.stdout).decode(errors="replace").strip()[-2000:]
        raise NotReplayed(f"the process that replays histories ended with code {done.returncode}: {said}")
    differences, skipped = msgspec.msgpack.decode(answered.read_bytes(), type=tuple[list[Difference], dict[str, int]])
    return Elsewhere(seed, len(task.recorded) - sum(skipped.values()), differences, skipped)


def _environment(path: Sequence[str], seed: int) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path), "PYTHONHASHSEED": str(seed)}
