"""Servers that are processes of this machine: how they are launched, found again, asked and ended.

A server is known by its pid *and* by a word on its command line that holds its data directory, so a pid that went to
someone else after a crash or a restart of the machine is never taken for the server, let alone killed.

Two launchers decide what a server's life hangs on: `Detached` on nothing (it survives the command that started it),
`Guardian` on this process, however that ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, ParamSpec, Protocol, TypeVar

from everstep.stack import _guardian
from everstep.stack._port import StackError

P = ParamSpec("P")
T = TypeVar("T")

START_SECONDS = 90.0
STOP_SECONDS = 60.0
POLL_SECONDS = 0.03
LOG_TAIL_BYTES = 3000

PROC = Path("/proc")
HAS_PROC = (PROC / "self" / "stat").exists()  # Linux; elsewhere `ps` tells


@dataclass(frozen=True)
class Account:
    """The user that a server runs as when root starts it."""

    user: int
    group: int


@dataclass(frozen=True)
class Program:
    """A command line to run as a server."""

    argv: tuple[str, ...]
    log: Path
    death_signal: signal.Signals
    account: Account | None = None
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))


class Launcher(Protocol):
    """Starts programs and says what their life hangs on."""

    def launch(self, program: Program) -> int:
        """Start `program`, return its pid."""
        ...

    def close(self) -> None:
        """End what hangs on this launcher."""
        ...


class Detached:
    """Launches servers that outlive this process."""

    def launch(self, program: Program) -> int:
        return _guardian.launch(_order(program))

    def close(self) -> None:
        """Nothing hangs on it."""


class Guardian:
    """Launches servers that end when this process does; `remove` is deleted after them."""

    def __init__(self, remove: Path | None = None) -> None:
        argv = [sys.executable, "-I", "-S", _guardian.__file__, *([str(remove)] if remove else [])]
        self._process = subprocess.Popen(  # noqa: S603 - our own script
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True, cwd="/"
        )
        self._requests: IO[str] = _pipe(self._process.stdin)
        self._answers: IO[str] = _pipe(self._process.stdout)

    def launch(self, program: Program) -> int:
        print(json.dumps(_order(program)), file=self._requests, flush=True)
        answer: dict[str, object] = json.loads(self._answers.readline())
        if "error" in answer:
            raise StackError(f"could not run {program.argv[0]}: {answer['error']}")
        return int(str(answer["pid"]))

    def close(self) -> None:
        self._requests.close()
        self._process.wait()
        self._answers.close()


def _pipe(stream: IO[str] | None) -> IO[str]:
    assert stream is not None  # noqa: S101 - Popen was given PIPE
    return stream


def _order(program: Program) -> dict[str, object]:
    return {
        "argv": program.argv,
        "log": str(program.log),
        "environment": dict(program.environment),
        "user": program.account.user if program.account else None,
        "group": program.account.group if program.account else None,
        "death_signal": program.death_signal,
    }


class Recipe(Protocol):
    """What differs between the servers: how to lay out data, which command to run, how to ask whether it answers."""

    name: str
    directory: Path  # holds the data, the file `log` and what the recipe keeps
    mark: str  # a word of the program's command line that no other process has
    stop_signal: signal.Signals

    @property
    def address(self) -> str: ...

    async def prepare(self) -> None:
        """Find the programs; lay out settings and data unless they are there."""
        ...

    def program(self) -> Program: ...

    async def answers(self) -> bool:
        """Whether the server does its work for a client that asks now."""
        ...


class ProcessServer:
    """A `Server` that runs a recipe's program."""

    def __init__(self, recipe: Recipe, launcher: Launcher) -> None:
        self._recipe = recipe
        self._launcher = launcher
        self._pid_file = recipe.directory / "pid"

    @property
    def address(self) -> str:
        return self._recipe.address

    async def start(self) -> None:
        if await self.running():
            return
        await self._recipe.prepare()
        pid = self._launcher.launch(self._recipe.program())
        self._pid_file.write_text(str(pid))
        async for _ in self._polls(START_SECONDS, "did not answer"):
            if gone(pid):
                raise StackError(f"{self._recipe.name} ended while starting.{self._log_tail()}")
            if await self._recipe.answers():
                return

    async def stop(self) -> None:
        await self._end(self._recipe.stop_signal)

    async def kill(self) -> None:
        await self._end(signal.SIGKILL)

    async def running(self) -> bool:
        pid = self._pid()
        return pid is not None and self._recipe.mark in command_line(pid)

    async def _end(self, how: signal.Signals) -> None:
        pid = self._pid()
        if pid is None or not await self.running():
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, how)
        async for _ in self._polls(STOP_SECONDS, f"did not heed {how.name}"):
            if gone(pid):
                break
        self._pid_file.unlink(missing_ok=True)

    async def _polls(self, limit_seconds: float, failure: str) -> AsyncIterator[None]:
        """Turns of a wait for a condition of another process, which only asking can tell."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + limit_seconds
        while loop.time() < deadline:
            yield
            await asyncio.sleep(POLL_SECONDS)
        raise StackError(f"{self._recipe.name} {failure} within {limit_seconds:.0f} s.{self._log_tail()}")

    def _pid(self) -> int | None:
        try:
            return int(self._pid_file.read_text())
        except (FileNotFoundError, ValueError):
            return None

    def _log_tail(self) -> str:
        log = self._recipe.directory / "log"
        tail = log.read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace").strip() if log.exists() else ""
        return f" The end of {log}:\n{tail}"


async def in_thread(function: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
    """Like `asyncio.to_thread`, but over only when `function` is, even if cancelled: nothing appears on disk later."""
    work = asyncio.ensure_future(asyncio.to_thread(function, *arguments, **named))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        await asyncio.wait((work,))
        raise


def command_line(pid: int) -> str:
    """The words of a process's command line, empty for one that ended or is ending."""
    if not HAS_PROC:
        return _ps(pid, "command=")
    try:
        return (PROC / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""


def gone(pid: int) -> bool:
    """Whether a process holds nothing any more: no port, no file. Reaps it if it is a child of this one."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
    if not HAS_PROC:
        return _ps(pid, "stat=")[:1] in ("", "Z")
    try:
        # The name in parentheses may hold anything. A dead leader's other threads may still hold its files.
        fields = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return True
    state, threads = fields[0], int(fields[17])
    return state in "ZX" and threads <= 1


def _ps(pid: int, column: str) -> str:
    asked = ["/bin/ps", "-ww", "-o", column, "-p", str(pid)]
    return subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()  # noqa: S603 - ours
