"""The event loop that a workflow's code runs on: a queue of callbacks and nothing else.

There is one small loop per run. It has no selector, no thread, no clock: `time()` is the instant of the event that is
being applied, and a timer is a durable command, so everything asyncio builds from futures, tasks, `call_soon` and
`call_at` works and survives the process. What needs the outside world raises an error that says where to put it.

No order comes from an address. asyncio keeps tasks and futures in sets, which iterate by hash, and the default hash of
an object is its address: aborting one TaskGroup would cancel in another order at each replay. So ours hash by a number
that counts up within the run. It starts at a base drawn from the run's nonce, because asyncio also keeps the tasks of
all runs of the process in one set, and there a hundred thousand tasks with the number 1 would be one long collision.
"""

from __future__ import annotations

import asyncio
import contextvars
import math
import zlib
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, TypeVar, TypeVarTuple, cast
from weakref import ref as weak

from everstep._core.places import refusal
from everstep._core.timers import LAST_INSTANT
from everstep.errors import NondeterminismError, RunEvicted

if TYPE_CHECKING:
    from everstep._core.scope import Scope
    from everstep._core.timers import Timers

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
MICROSECONDS = 1_000_000


class ErrorReport(Protocol):
    """Told of an exception that nobody retrieved, in asyncio's words."""

    def __call__(self, context: dict[str, Any], /) -> None: ...


class Callback:
    """A callback in the ready queue; asyncio's own handles cost three times as much."""

    __slots__ = ("args", "context", "fn")

    def __init__(self, fn: Callable[..., object], args: tuple[Any, ...], context: contextvars.Context) -> None:
        self.fn: Callable[..., object] | None = fn
        self.args = args
        self.context = context

    def cancel(self) -> None:
        self.fn = None
        self.args = ()

    def cancelled(self) -> bool:
        return self.fn is None

    def get_context(self) -> contextvars.Context:
        return self.context


class TimerCallback(Callback):
    """A callback behind a durable timer; cancelling it before it fires is a command."""

    __slots__ = ("_timers", "_when", "seq")

    def __init__(
        self, when: float, timers: Timers, fn: Callable[..., object], args: Any, context: contextvars.Context
    ) -> None:
        super().__init__(fn, args, context)
        self._when = when
        self._timers = timers
        self.seq = 0

    def when(self) -> float:
        return self._when

    def cancel(self) -> None:
        if self.fn is not None:
            super().cancel()
            self._timers.cancel(self.seq)


class Future(asyncio.Future[T]):
    """A future whose place in a set follows from the order of creation, not from its address."""

    __slots__ = ("_number",)

    def __init__(self, *, loop: RunLoop) -> None:
        self._number = loop.next_number()
        super().__init__(loop=loop)

    def __hash__(self) -> int:
        return self._number


class Named(Future[T]):
    """A future that can stand where asyncio expects a task: it has a name."""

    __slots__ = ("_name",)

    def get_name(self) -> str:
        return getattr(self, "_name", "") or f"Handle-{self._number & 0xFFFF}"

    def set_name(self, name: object) -> None:
        self._name = str(name)


class Task(asyncio.Task[T]):
    """A task that hashes like `Future`, and knows its context so that eviction can close its code in it."""

    __slots__ = ("_number", "run_context")

    def __init__(
        self, coro: Coroutine[Any, Any, T], *, loop: RunLoop, name: str | None, context: contextvars.Context
    ) -> None:
        # Before asyncio's own __init__, which already puts the task into a set.
        self._number = number = loop.next_number()
        self.run_context = context
        super().__init__(coro, loop=loop, name=name or f"Task-{number & 0xFFFF}", context=context)

    def __hash__(self) -> int:
        return self._number


class RunLoop(asyncio.AbstractEventLoop):
    """The loop of one run. `scope` and `timers` are what its code may reach; `now` is in microseconds."""

    __slots__ = (
        "_ended",
        "_generators",
        "_number",
        "_on_error",
        "_ready",
        "_report",
        "_sweep_generators_at",
        "_sweep_tasks_at",
        "_tasks",
        "now",
        "scope",
        "timers",
    )

    scope: Scope
    timers: Timers

    def __init__(self, nonce: str, report: ErrorReport) -> None:
        self.now = 0
        self._number = zlib.crc32(nonce.encode()) << 6
        self._ready: list[Callback] = []
        self._ended = False
        # Strong references: what the author lets go of is closed at eviction, not whenever it is collected.
        self._tasks: list[Task[Any]] = []
        self._sweep_tasks_at = 16
        self._generators: list[weak[AsyncGenerator[Any, Any]] | AsyncGenerator[Any, Any]] = []
        self._sweep_generators_at = 16
        self._report = report
        self._on_error: Callable[[asyncio.AbstractEventLoop, dict[str, Any]], object] | None = None

    # ---- the queue

    def call_soon(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: contextvars.Context | None = None
    ) -> Any:
        handle = Callback(callback, args, contextvars.copy_context() if context is None else context)
        self._ready.append(handle)
        return handle

    def run_ready(self) -> None:
        """Run callbacks until none is ready, and none becomes so by what is true now, or the run has ended."""
        self._run_ready()
        while self.scope.conditions and not self._ended:
            self.scope.conditions.check()
            if not self._ready:
                return
            self._run_ready()

    def take_ready(self) -> bool:
        """Drop what is ready; whether there was anything."""
        dropped, self._ready = bool(self._ready), []
        return dropped

    def _run_ready(self) -> None:
        while self._ready and not self._ended:
            batch, self._ready = self._ready, []
            for handle in batch:
                fn = handle.fn
                if fn is not None:
                    try:
                        handle.context.run(fn, *handle.args)
                    except BaseException as error:
                        # A task has already kept its own exception; SystemExit and the like only pass through here.
                        self.call_exception_handler({"message": f"Exception in callback {fn!r}", "exception": error})
                    if self._ended:
                        break

    def end(self) -> None:
        """Run nothing more: the workflow's function has returned."""
        self._ended = True

    # ---- time

    def time(self) -> float:
        return self.now / MICROSECONDS

    def call_later(
        self,
        delay: float,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: contextvars.Context | None = None,
    ) -> Any:
        return self.call_at(self.time() + delay, callback, *args, context=context)

    def call_at(
        self,
        when: float,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: contextvars.Context | None = None,
    ) -> Any:
        if math.isnan(when):
            raise ValueError("a timer needs an instant, and this is not a number")
        handle = TimerCallback(
            when, self.timers, callback, args, contextvars.copy_context() if context is None else context
        )
        fire_at = LAST_INSTANT if when * MICROSECONDS > LAST_INSTANT else round(when * MICROSECONDS)
        if fire_at <= self.now:
            self._ready.append(handle)
        else:
            handle.seq = self.timers.start(fire_at, lambda: self._ready.append(handle))
        return handle

    # ---- futures and tasks

    def next_number(self) -> int:
        self._number += 1
        return self._number

    def create_future(self) -> asyncio.Future[Any]:
        return Future(loop=self)

    def create_task(
        self,
        coro: Generator[Any, None, T] | Coroutine[Any, Any, T],
        *,
        name: str | None = None,
        context: contextvars.Context | None = None,
        eager_start: bool | None = None,
    ) -> Any:
        """A task for `coro`; an awaitable that is a future already, such as a handle, is returned as it is."""
        if isinstance(coro, asyncio.Future):
            if name is not None and isinstance(coro, Named):
                coro.set_name(name)
            return coro
        if eager_start:
            coro.close()
            self.refuse("a task that starts eagerly", "leave out eager_start")
        task = Task(
            cast("Coroutine[Any, Any, T]", coro),
            loop=self,
            name=name,
            context=contextvars.copy_context() if context is None else context,
        )
        self._tasks.append(task)
        if len(self._tasks) >= self._sweep_tasks_at:
            self._tasks = [task for task in self._tasks if not task.done()]
            self._sweep_tasks_at = 2 * len(self._tasks) + 16
        return task

    def open_tasks(self) -> list[Task[Any]]:
        """The tasks that are not done, oldest first."""
        return [task for task in self._tasks if not task.done()]

    def get_task_factory(self) -> None:
        return None

    # ---- asynchronous generators

    def generator_started(self, generator: AsyncGenerator[Any, Any]) -> None:
        self._generators.append(weak(generator))
        if len(self._generators) >= self._sweep_generators_at:
            self._generators = [one for one in self._generators if not isinstance(one, weak) or one() is not None]
            self._sweep_generators_at = 2 * len(self._generators) + 16

    def generator_dropped(self, generator: AsyncGenerator[Any, Any]) -> None:
        """Close an open generator that nobody refers to: in a step of its own run; else it waits for the eviction."""
        if asyncio._get_running_loop() is self and type(self) is RunLoop:
            self.create_task(generator.aclose())
        else:
            self._generators.append(generator)

    def take_generators(self) -> list[AsyncGenerator[Any, Any]]:
        """The open generators, oldest first; from now on they are the caller's to close."""
        taken, self._generators = self._generators, []
        alive = (one() if isinstance(one, weak) else one for one in taken)
        return [generator for generator in alive if generator is not None]

    # ---- exceptions that nobody retrieved

    def set_exception_handler(
        self, handler: Callable[[asyncio.AbstractEventLoop, dict[str, Any]], object] | None
    ) -> None:
        self._on_error = handler

    def get_exception_handler(self) -> Any:
        return self._on_error

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        self._report(context)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        # Also called by finalizers at any moment; the author's own handler may only run within a step of its run.
        if self._on_error is not None and asyncio._get_running_loop() is self:
            self._on_error(self, context)
        else:
            self._report(context)

    # ---- what asyncio asks of any loop

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return asyncio._get_running_loop() is self

    def is_closed(self) -> bool:
        return False

    def refuse(self, what: str, instead: str) -> NoReturn:
        """Raise `NondeterminismError`; if code of the run has done it, the run is stalled besides."""
        message = refusal(what, instead)
        if self.is_running():
            self.scope.violate(message)
        raise NondeterminismError(message)

    def die(self) -> None:
        """Become a loop whose every use raises `RunEvicted`; futures and tasks keep pointing at it."""
        self.__class__ = DeadLoop  # type: ignore[type-abstract]  # see the end of this module

    def let_go(self) -> None:
        """Drop all references to the author's objects."""
        self._ready = []
        self._tasks = []
        self._generators = []
        self._on_error = None


class DeadLoop(RunLoop):
    """What a run's loop becomes at eviction: every use raises `RunEvicted`."""

    __slots__ = ()

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Nobody retrieves anything any more."""

    def is_closed(self) -> bool:
        return True


def new_loop(nonce: str, report: ErrorReport) -> RunLoop:
    return RunLoop(nonce, report)  # type: ignore[abstract]  # the methods below are installed by name


_ACTIVITY = "do it in an activity; within a workflow only waiting, time and tasks are possible"
_THREAD = "call an activity; one that is a plain function runs in a thread of its worker"
_ENDS = "the loop belongs to the run, which ends when its function returns"
_INSTEAD = dict.fromkeys(("run_in_executor", "set_default_executor", "shutdown_default_executor"), _THREAD)
_INSTEAD |= dict.fromkeys(("stop", "close", "run_forever", "run_until_complete", "shutdown_asyncgens"), _ENDS)


def _refuse(name: str) -> Callable[..., NoReturn]:
    def refused(self: RunLoop, *args: Any, **kwargs: Any) -> NoReturn:
        self.refuse(f"loop.{name}()", _INSTEAD.get(name, _ACTIVITY))

    refused.__name__ = name
    return refused


def _evicted(self: RunLoop, *args: Any, **kwargs: Any) -> NoReturn:
    raise RunEvicted("the run has left this process's memory: its code can only let go now")


for _name in dir(asyncio.AbstractEventLoop):
    if not _name.startswith("_") and _name not in vars(RunLoop):
        setattr(RunLoop, _name, _refuse(_name))
for _name in ("call_soon", "call_later", "call_at", "create_future", "create_task", "time", "get_debug", "next_number"):
    setattr(DeadLoop, _name, _evicted)
