"""The systems that can be measured, and their environments: each peer has its own, made when first needed."""

import subprocess
import sys
import venv
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.harness.peer import BENCHMARKS

ALL = ("W1", "W2", "W3", "W3x10", "W4", "W5", "W6")


@dataclass(frozen=True)
class System:
    """A directory with `run.py`, and the environment variables of one way to run it."""

    name: str
    directory: Path
    environment: dict[str, str] = field(default_factory=dict)
    workloads: tuple[str, ...] = ALL

    @property
    def python(self) -> str:
        """That of its own environment, else the one that runs now."""
        own = self.directory / ".venv" / "bin" / "python"
        return str(own) if own.exists() else sys.executable


def _peer(name: str, engine: str, mode: str = "", workloads: tuple[str, ...] = ALL) -> System:
    return System(name, BENCHMARKS / "peers" / engine, {"PEER_MODE": mode}, workloads)


SYSTEMS = {
    system.name: system
    for system in (
        System("everstep", BENCHMARKS / "everstep"),
        _peer("restate-tuned", "restate", "tuned"),
        _peer("restate", "restate"),
        _peer("dbos-tuned", "dbos", "tuned"),
        _peer("dbos", "dbos"),
        _peer("dbos-queue", "dbos", "queue", ("W1", "W2")),
    )
}
RAW = System("raw", BENCHMARKS / "peers" / "raw")


def prepare(system: System) -> None:
    """Makes the environment that a peer's requirements describe, unless it is there; nothing for our own system."""
    requirements = system.directory / "requirements.txt"
    made_from = system.directory / ".venv" / "made-from.txt"
    if not requirements.exists() or (made_from.exists() and made_from.read_text() == requirements.read_text()):
        return
    print(f"Setting up {system.directory.name} …", file=sys.stderr, flush=True)
    venv.create(system.directory / ".venv", with_pip=True, clear=True)
    subprocess.run([system.python, "-m", "pip", "install", "-q", "-r", requirements], check=True)
    if (system.directory / "package.json").exists():
        command = ["npm", "install", "--silent", "--no-audit", "--no-fund", "--ignore-scripts", "--no-package-lock"]
        subprocess.run(command, cwd=system.directory, check=True)
    made_from.write_text(requirements.read_text())
