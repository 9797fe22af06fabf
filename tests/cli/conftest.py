"""The command line as its users run it: a process with an environment."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Ran:
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def json_lines(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]


class Everstep:
    """Runs `everstep` with the settings of a test and no others."""

    def __init__(self) -> None:
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("EVERSTEP_")}

    def set(self, variables: Mapping[str, str]) -> None:
        self.environment.update(variables)

    async def begin(self, *arguments: str, cwd: Path = ROOT, stdin: int | None = None) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "everstep.cli", *arguments),
            env=self.environment,
            cwd=cwd,
            stdin=stdin,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )

    async def __call__(self, *arguments: str) -> Ran:
        process = await self.begin(*arguments)
        out, err = await process.communicate()
        assert process.returncode is not None
        return Ran(process.returncode, out.decode(), err.decode())


@pytest.fixture
def everstep() -> Everstep:
    return Everstep()
