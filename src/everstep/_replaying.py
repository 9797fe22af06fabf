"""Replays histories in processes of their own, where the authors' code can neither end nor hold up who asks.

Each process has a seed for the hashes of strings (PYTHONHASHSEED): what a set of them is ordered by differs between two
processes with two seeds, as it does between the process that a run was in and the one that replays it. It is given
frames of one history each and answers each with an outcome; what the code prints is thrown away.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from types import TracebackType
from typing import BinaryIO, Self

import msgspec

from everstep._core.model import StallReason
from everstep.app import LoadError
from everstep.histories import History

_LENGTH_BYTES = 8
_MOST_SAID_BYTES = 2_000


class Outcome(msgspec.Struct, frozen=True):
    """What became of a replay: why it cannot go on, or how many commands have other arguments and the first of them."""

    problem: StallReason | None = None
    differing: int = 0
    first: StallReason | None = None


class Hello(msgspec.Struct, frozen=True):
    """What a process says first: that it has the code, or why not."""

    load_error: str | None = None


class Replayer:
    """A process that replays with the code of `app`, `MODULE:app`, under `hash_seed`; use as a context manager.

    A history that ends the process is found out by that, and the next is given to a new process.
    """

    def __init__(self, app: str, hash_seed: str) -> None:
        self._command = [sys.executable, "-m", "everstep._replayer", app]
        self._environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        self._process: asyncio.subprocess.Process | None = None
        self._said: BinaryIO

    async def __aenter__(self) -> Self:
        """Raises `LoadError` if the app cannot be loaded there."""
        await self._start()
        return self

    async def __aexit__(
        self, type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        await self._stop()

    async def replay(self, history: History) -> Outcome:
        """What becomes of this history."""
        if self._process is None:
            await self._start()
        try:
            await self._write(msgspec.msgpack.encode(history))
            return msgspec.msgpack.decode(await self._read(), type=Outcome)
        except (asyncio.IncompleteReadError, ConnectionError):
            said = await self._stop()
            message = f"replaying it ended the process{f': {said}' if said else ''}"
            return Outcome(StallReason(kind="crashed", message=message))

    async def _start(self) -> None:
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  # closed with the process
        self._process = await asyncio.create_subprocess_exec(
            *self._command,
            env=self._environment,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=self._said,
        )
        try:
            hello = msgspec.msgpack.decode(await self._read(), type=Hello)
        except asyncio.IncompleteReadError:
            raise LoadError(f"a process that replays has ended at once: {await self._stop()}") from None
        if hello.load_error is not None:
            await self._stop()
            raise LoadError(hello.load_error)

    async def _stop(self) -> str:
        """Ends the process; what it said last."""
        process, self._process = self._process, None
        if process is None:
            return ""
        if process.returncode is None:
            process.kill()
        await process.wait()
        # The pipes are closed when the loop has seen their ends.
        if process.stdout is not None:
            await process.stdout.read()
        if process.stdin is not None:
            process.stdin.close()
        size = self._said.seek(0, os.SEEK_END)
        self._said.seek(max(0, size - _MOST_SAID_BYTES))
        said = self._said.read().decode(errors="replace").strip()
        self._said.close()
        return said

    async def _write(self, frame: bytes) -> None:
        assert self._process is not None  # noqa: S101  # for the type checker
        assert self._process.stdin is not None  # noqa: S101  # for the type checker
        self._process.stdin.write(len(frame).to_bytes(_LENGTH_BYTES, "big") + frame)
        await self._process.stdin.drain()

    async def _read(self) -> bytes:
        assert self._process is not None  # noqa: S101  # for the type checker
        assert self._process.stdout is not None  # noqa: S101  # for the type checker
        length = int.from_bytes(await self._process.stdout.readexactly(_LENGTH_BYTES), "big")
        return await self._process.stdout.readexactly(length)


# ---- in the process


def read_frame(stream: BinaryIO) -> bytes | None:
    """The next frame, or None at the end."""
    head = stream.read(_LENGTH_BYTES)
    return stream.read(int.from_bytes(head, "big")) if len(head) == _LENGTH_BYTES else None


def write_frame(stream: BinaryIO, value: object) -> None:
    frame = msgspec.msgpack.encode(value)
    stream.write(len(frame).to_bytes(_LENGTH_BYTES, "big") + frame)
    stream.flush()
