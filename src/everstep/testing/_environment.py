"""`WorkflowEnvironment`: an installation in memory, whose time a test moves."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar, overload

from everstep import _doors
from everstep._core.timers import instant, micros
from everstep.app import App
from everstep.client import Client, Run
from everstep.definitions import Activity
from everstep.histories import HistoryEvent, events_of
from everstep.providers import Provider
from everstep.testing import _collecting
from everstep.testing._attempts import microseconds
from everstep.testing._clock import Clock
from everstep.testing._fakes import NOT_GIVEN, Calls, Replacement
from everstep.testing._installation import MAX_PAYLOAD_BYTES, Exits, Installation
from everstep.testing._pacing import Pacer
from everstep.testing._post import Post
from everstep.testing._problems import Problems
from everstep.testing._runs import StoredRun
from everstep.testing._states import state_of
from everstep.testing._transport import MemoryTransport
from everstep.testing._worker import Worker
from everstep_schemas.wire import encoder

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

# Closed in tests as in production. Now, so that modules which are imported after this one get no way around them.
_doors.install()

START = datetime(2026, 1, 1, tzinfo=UTC)


class WorkflowEnvironment:
    """Everstep in memory, for a test: `async with WorkflowEnvironment(app) as env`.

    The engine, the messages and the client are those of production; there are no servers. Activities run in this
    process: `async` ones on the test's loop, plain ones in threads (also those of `executor="process"`), unless they
    are replaced.

    Time begins at `start` and stands still while anything can happen without it. While somebody waits for a result, it
    then jumps to the next thing that is due; with `auto_skip=False` only `skip` moves it. With `replay_every_event`
    every run is replayed from its history after every event, and must do the same again.
    """

    def __init__(
        self, app: App, *, start: datetime = START, auto_skip: bool = True, replay_every_event: bool = True
    ) -> None:
        if not isinstance(app, App):
            raise TypeError(f"WorkflowEnvironment takes an App, not {app!r}")
        if start.tzinfo is None:
            raise ValueError("start needs a time zone: datetime(…, tzinfo=UTC)")
        self._app = app
        self._clock = Clock(micros(start))
        self._auto_skip = auto_skip
        self._replay_every_event = replay_every_event
        self._replacements: dict[str, Replacement] = {}
        self._opened: _Opened | None = None

    async def __aenter__(self) -> Self:
        if self._opened is not None:
            raise RuntimeError("this environment was opened before: make a new one")
        self._opened = _Opened(self._app, self._clock, self._replacements, self._auto_skip, self._replay_every_event)
        return self

    async def __aexit__(
        self, type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        """Ends what runs, closes what was opened, and raises what is wrong and was not raised yet."""
        opened = self._open
        try:
            await opened.close()
            opened.problems.raise_unseen()
        except BaseException as problem:
            if error is None:
                raise
            error.add_note(f"and in the environment: {problem}")
        finally:
            opened.problems.close()

    @property
    def _open(self) -> _Opened:
        if self._opened is None:
            raise RuntimeError("the environment is not open: use it as `async with WorkflowEnvironment(app) as env`")
        return self._opened

    @property
    def is_open(self) -> bool:
        """Whether it was opened and not closed yet."""
        return self._opened is not None and not self._opened.closed

    @property
    def client(self) -> Client:
        """A client of this environment. What it asks is applied when the call returns."""
        return self._open.client

    # ---- time

    def now(self) -> datetime:
        """The present instant of the environment, in UTC."""
        return instant(self._clock.now)

    async def skip(self, by: timedelta, /) -> None:
        """Lets time pass, and with it all that is due until then, in order. Waits for what runs now, first."""
        if not isinstance(by, timedelta):
            raise TypeError(f"skip() takes a duration such as days(7), not {by!r}")
        if by < timedelta():
            raise ValueError(f"time cannot be turned back by {by}")
        self._open.problems.raise_unseen()
        await self._open.pacer.skip(microseconds(by))

    async def settle(self) -> None:
        """Returns when nothing is left to do without time passing: no message is under way, no activity runs."""
        self._open.problems.raise_unseen()
        await self._open.pacer.settle()

    async def sleep(self, by: timedelta, /) -> None:
        """Within the fake of an activity: takes time of the environment. What bounds the attempt counts it."""
        await self._open.worker.sleep(microseconds(by))

    # ---- activities

    @overload
    def replace(self, activity: Activity[P, R], fake: Callable[P, Awaitable[R]], /) -> Calls[P, R]: ...
    @overload
    def replace(self, activity: Activity[P, R], fake: Callable[P, R], /) -> Calls[P, R]: ...
    @overload
    def replace(self, activity: Activity[P, R], fake: Callable[..., Awaitable[R]], /) -> Calls[P, R]: ...
    @overload
    def replace(self, activity: Activity[P, R], fake: Callable[..., R], /) -> Calls[P, R]: ...
    @overload
    def replace(self, activity: Activity[P, R], /, *, returns: R) -> Calls[P, R]: ...
    @overload
    def replace(self, activity: str, fake: Callable[..., Any], /) -> Calls[..., Any]: ...
    @overload
    def replace(self, activity: str, /, *, returns: Any) -> Calls[..., Any]: ...
    def replace(
        self, activity: Activity[..., Any] | str, fake: Any = NOT_GIVEN, /, *, returns: Any = NOT_GIVEN
    ) -> Calls[Any, Any]:
        """From now on calls of the activity go to `fake`, a function, `async` or not; or give what it `returns`.

        A fake is called on the test's loop, so it must not block; provided parameters it may leave out. Arguments and
        results pass the activity's annotations, as always: `PayloadError` for what does not fit. An activity whose
        code is elsewhere is replaced by name, too. An assertion in a fake that does not hold fails the test.
        """
        if (fake is NOT_GIVEN) == (returns is NOT_GIVEN):
            raise TypeError("replace() takes a fake or returns=…, one of them")
        return self._replace(activity, fake, returns)

    def spy(self, activity: Activity[P, R], /) -> Calls[P, R]:
        """From now on calls of the activity are noted; its own code runs."""
        return self._replace(activity, NOT_GIVEN, NOT_GIVEN)

    def _replace(self, activity: Activity[..., Any] | str, fake: Any, returns: Any) -> Calls[Any, Any]:
        if not isinstance(activity, str | Activity):
            raise TypeError(f"an activity is what @app.activity made of a function, or its name, not {activity!r}")
        name = activity if isinstance(activity, str) else activity.name
        known = self._app.activities.get(name)
        if not isinstance(activity, str) and known is None:
            raise LookupError(f"{self._app!r} has no activity {name!r}: is it registered with another app?")
        replacement = self._replacements[name] = Replacement(name, known, fake, returns)
        return replacement.calls

    def provide(self, provider: Provider[T], value: T, /) -> None:
        """Activities get `value` in the place of what the provider opens."""
        if not isinstance(provider, Provider):
            raise TypeError(f"a provider is what @app.provide made of a function, not {provider!r}")
        self._open.worker.resources.give(provider, value)

    # ---- what happened

    def history(self, run: Run[Any] | str, /, number: int | None = None) -> list[HistoryEvent]:
        """The events of a run so far: of the newest run of the id, or of the one with that number."""
        workflow_id = run if isinstance(run, str) else run.id
        return list(events_of(self._open.transport.find(workflow_id, number).rows))


class _Opened:
    """The parts of an open environment, and what connects them."""

    def __init__(
        self, app: App, clock: Clock, replacements: dict[str, Replacement], auto_skip: bool, check: bool
    ) -> None:
        self.pacer = Pacer(clock, auto_skip=auto_skip, busy=self._busy, state=self._state)
        self.problems = Problems(self.pacer.fail)
        self.post = Post(self.problems.add, self.pacer.look)
        self.worker = Worker(
            app,
            clock,
            replacements,
            max_payload_bytes=MAX_PAYLOAD_BYTES,
            answer=self._answer,
            idle=self.pacer.look,
            failed=self.problems.add,
        )
        exits = Exits(self.worker.command, self.worker.control, self._heard, self.problems.add)
        self.installation = Installation(app, clock, self.post.put, exits, check=check)
        self.transport = MemoryTransport(self.installation, self.post, self.pacer, self.problems)
        self.client = Client(transport=self.transport)
        self.closed = False

    def _busy(self) -> bool:
        return self.post.busy or bool(self.worker.running)

    def _state(self) -> str:
        return state_of(self.installation.runs())

    def _heard(self, type: str, fact: Any) -> None:
        self.transport.heard(type, fact)

    def _answer(self, answer: Any) -> None:
        """What the worker says, by way of its encoding."""
        self.post.put(partial(self.installation.receive, encoder.encode(answer)))

    async def close(self) -> None:
        """Break off what runs, check and forget the runs, close what was opened."""
        try:
            await self.worker.close()
        finally:
            await self.post.ask(self._forget)
            self.closed = True

    def _forget(self) -> None:
        for run in self.installation.runs():
            self._forget_one(run)
        _collecting.collect(self.installation.runs(), self.installation.engine)

    def _forget_one(self, run: StoredRun) -> None:
        self.installation.check(run)
        run.forget()
