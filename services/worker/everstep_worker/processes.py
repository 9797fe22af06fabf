"""Processes for activities that keep a processor busy, or may take their process with them.

Each runs one attempt at a time and is used again. They are started when needed, freshly and never by forking, since a
process with threads cannot be forked safely; as many as ever run at once, which is no more than the worker's slots.
One that dies, of whatever cause, takes its attempt with it and nothing else. A cancelled or timed out attempt costs its
process: it is asked to end, and after a moment killed, together with all that it had started.

None of `concurrent.futures`, loky, pebble and `anyio.to_process` lets the code that runs in a process say something on
its way, as heartbeats do; with that, there is little left that they would do: a pair of sockets and a new program.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Callable

import msgspec
import structlog

from everstep.app import App, LoadError
from everstep.settings import Settings
from everstep_schemas.errors import ErrorInfo
from everstep_worker.frames import (
    HEAD,
    Beat,
    Began,
    Broken,
    Cancel,
    Completed,
    Failed,
    Frame,
    Setup,
    ToWorker,
    Work,
    packed,
    to_worker,
)

log = structlog.stdlib.get_logger(__name__)

START_SECONDS = 60.0
DRAIN_SECONDS = 0.5  # for what a process said before it died
END_SECONDS = 5.0  # for what runs at an idle process's exit

_error: msgspec.json.Decoder[ErrorInfo] = msgspec.json.Decoder(ErrorInfo)


class NotStarted(Exception):
    """There is no process for the attempt; the message says why."""


class Died(Exception):
    """The process ended under its attempt; the message says how."""


class Child:
    """One process. `on_end` is called once, when it has ended."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        terminate_seconds: float,
        on_end: Callable[[Child], None],
    ) -> None:
        self._process = process
        self._reader = reader
        self._writer = writer
        self._terminate_seconds = terminate_seconds
        self._on_end = on_end
        self._said: asyncio.Queue[ToWorker | None] = asyncio.Queue()
        self._killing: asyncio.TimerHandle | None = None
        self.cancelled = False
        self.ended = asyncio.create_task(self._watch(), name=f"everstep-child-{process.pid}")

    @property
    def pid(self) -> int:
        return self._process.pid

    # ---- talking to it

    def say(self, frame: Frame) -> None:
        """Never raises: if it is dead, what comes next says so."""
        if not self._writer.is_closing():
            self._writer.write(packed(frame))

    async def next(self) -> ToWorker:
        """What it says next; `Died` if it has nothing more to say."""
        said = await self._said.get()
        if said is None:
            self._said.put_nowait(None)
            raise Died(_how(self._process.returncode))
        return said

    async def run(
        self, command: bytes, began: Callable[[], None], beat: Callable[[bytes | None], None]
    ) -> bytes | ErrorInfo:
        """The result's JSON or the error of the command's activity. `Died` if the process did."""
        self.say(Work(command))
        while True:
            match await self.next():
                case Began():
                    began()
                case Beat(details):
                    beat(details)
                case Completed(value):
                    return value
                case Failed(error):
                    return _error.decode(error)

    # ---- ending it

    def cancel(self) -> None:
        """Asks it to end, and sees to it that it does."""
        self.cancelled = True
        self.say(Cancel())
        self._kill_after(self._terminate_seconds)

    def dismiss(self) -> None:
        """It has nothing to do and may end in peace."""
        self._writer.close()
        self._kill_after(END_SECONDS)

    def kill(self) -> None:
        """Ends it at once, and what it has started: the session is its own."""
        with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS says the latter of zombies
            os.killpg(self.pid, signal.SIGKILL)

    def _kill_after(self, seconds: float) -> None:
        if self._killing is None and not self.ended.done():
            self._killing = asyncio.get_running_loop().call_later(seconds, self.kill)

    async def _watch(self) -> None:
        """Until it has ended. One that only closes its connection is of no use either."""
        reading = asyncio.create_task(self._read())
        exiting = asyncio.create_task(self._process.wait())
        await asyncio.wait([reading, exiting], return_when=asyncio.FIRST_COMPLETED)
        if not exiting.done():
            self._kill_after(END_SECONDS)
            await exiting
        await asyncio.wait([reading], timeout=DRAIN_SECONDS)
        reading.cancel()
        if self._killing is not None:
            self._killing.cancel()
        self._writer.close()
        self.kill()
        self._said.put_nowait(None)
        self._on_end(self)

    async def _read(self) -> None:
        with contextlib.suppress(OSError, EOFError, msgspec.DecodeError):
            while True:
                size = HEAD.unpack(await self._reader.readexactly(HEAD.size))[0]
                self._said.put_nowait(to_worker.decode(await self._reader.readexactly(size)))


class Processes:
    """The processes of one worker, which load the app from `target`."""

    def __init__(self, target: str, settings: Settings, terminate_seconds: float) -> None:
        self._target = target
        self._settings = settings
        self._terminate_seconds = terminate_seconds
        self._idle: list[Child] = []
        self._children: set[Child] = set()
        self._closed = False
        self._starting = asyncio.Semaphore(os.cpu_count() or 1)  # more at once would only take longer

    def __len__(self) -> int:
        return len(self._children)

    async def take(self) -> Child:
        """One that is ready and belongs to the caller until it is given back. Raises `NotStarted`."""
        while self._idle:
            child = self._idle.pop()
            if not child.ended.done():
                return child
        async with self._starting:
            return await self._ready()

    def give(self, child: Child) -> None:
        """Takes back one that has nothing to do, or that is no longer of use."""
        if self._closed or child.cancelled:
            child.dismiss()
        elif not child.ended.done():
            self._idle.append(child)

    async def close(self) -> None:
        """Returns when none is left."""
        self._closed = True
        for child in self._idle:
            child.dismiss()
        for child in self._children.difference(self._idle):
            child.kill()
        if self._children:
            await asyncio.wait([child.ended for child in self._children])

    async def _ready(self) -> Child:
        child = await self._start()
        try:
            async with asyncio.timeout(START_SECONDS):
                said = await child.next()
        except (Died, TimeoutError) as error:
            child.kill()
            raise NotStarted(str(error) or f"it was not ready after {START_SECONDS:g} s") from None
        if isinstance(said, Broken):
            child.dismiss()
            raise NotStarted(said.reason)
        return child

    async def _start(self) -> Child:
        if self._closed:
            raise NotStarted("the worker is stopping")
        ours, theirs = socket.socketpair()
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "everstep_worker.child",
                self._target,
                str(theirs.fileno()),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        except OSError as error:
            ours.close()
            raise NotStarted(f"the system has none to give ({error})") from error
        finally:
            theirs.close()
        reader, writer = await asyncio.open_connection(sock=ours)
        child = Child(process, reader, writer, self._terminate_seconds, self._ended)
        self._children.add(child)
        child.say(Setup(self._target, [str(place) for place in sys.path], self._settings))
        if self._closed:
            child.kill()
        return child

    def _ended(self, child: Child) -> None:
        self._children.discard(child)
        if child in self._idle:
            self._idle.remove(child)


def _how(code: int | None) -> str:
    if code is None:
        return "it closed its connection to the worker"
    if code >= 0:
        return f"it ended with exit code {code}"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    hint = ", as the system does with one when memory is short" if -code == signal.SIGKILL else ""
    return f"{name} ended it{hint}"


def target_of(app: App) -> str:
    """`MODULE:app` of an app that was not loaded by its name. `LoadError` if no module holds it."""
    for module_name, module in list(sys.modules.items()):
        for name, value in list(getattr(module, "__dict__", {}).items()):
            if value is app and module_name != "__main__":
                return f"{module_name}:{name}"
    raise LoadError(
        f"activities of {app!r} run in processes of their own, which have to import it, and it is no variable of any"
        " module: make it one, or start the worker with MODULE:app"
    )
