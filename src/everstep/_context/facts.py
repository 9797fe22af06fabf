"""What a run knows of itself: ids, time, randomness, and decisions that are taken once."""

from __future__ import annotations

import random
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol, TypeVar, get_type_hints
from uuid import UUID

from everstep._core.attributes import AttributeValue
from everstep._core.payloads import codec_for
from everstep._core.ports import WorkflowCode
from everstep._core.scope import Scope, current
from everstep._core.timers import LAST_INSTANT, instant
from everstep.durations import Duration
from everstep.errors import NondeterminismError

T = TypeVar("T")

SUGGESTED_EVENTS = 10_000
SUGGESTED_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class RunInfo:
    """Which run this is. `history_events` counts its events so far; `parent_id` is the run that started it.

    `attempt` counts the runs that the workflow's `retry` has made of one start. `continue_as_new_suggested` says that
    the history has 10,000 events or 8 MiB, so that a replay begins to take long.
    """

    workflow: str
    workflow_id: str
    run: int
    version: int
    parent_id: str | None
    started_at: datetime
    attempt: int
    history_events: int
    continue_as_new_suggested: bool


class Log(Protocol):
    """A log whose lines carry the run's id and are written once, not again on replay."""

    def debug(self, event: str, /, **fields: object) -> None: ...
    def info(self, event: str, /, **fields: object) -> None: ...
    def warning(self, event: str, /, **fields: object) -> None: ...
    def error(self, event: str, /, **fields: object) -> None: ...


class _RunLog:
    __slots__ = ("_scope",)

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    def debug(self, event: str, /, **fields: object) -> None:
        self._scope.log("debug", event, fields)

    def info(self, event: str, /, **fields: object) -> None:
        self._scope.log("info", event, fields)

    def warning(self, event: str, /, **fields: object) -> None:
        self._scope.log("warning", event, fields)

    def error(self, event: str, /, **fields: object) -> None:
        self._scope.log("error", event, fields)


class Facts:
    """The run that the code belongs to. Usable only by that code, while it is being run."""

    __slots__ = ("_code", "_scope")

    def __init__(self, scope: Scope, code: WorkflowCode) -> None:
        self._scope = scope
        self._code = code

    def _here(self, use: str) -> Scope:
        scope = self._scope
        if current() is not scope:
            raise NondeterminismError(
                f"ctx.{use} was used outside of the run it belongs to ({scope.identity.workflow_id!r}): "
                "a context is only for the code of its own workflow function"
            )
        return scope

    def _acting(self, use: str) -> Scope:
        scope = self._here(use)
        if scope.looked_at:
            raise NondeterminismError(
                f"ctx.{use} was used in a query or a validator: it leaves no event, so it may only look at the run"
            )
        return scope

    def _after(self, use: str, duration: Duration) -> int:
        """The instant after `duration`, on the calendar in any case; now for none or less."""
        if not isinstance(duration, timedelta):
            raise TypeError(f"ctx.{use} needs a duration such as seconds(30), not {duration!r}")
        now = self._here(use).loop.now
        return min(now + max(0, duration // timedelta(microseconds=1)), LAST_INSTANT)

    @property
    def info(self) -> RunInfo:
        """Which run this is."""
        scope = self._here("info")
        run, journal, parent = scope.identity, scope.journal, scope.started.parent
        count = journal.next_seq - 1
        return RunInfo(
            workflow=run.workflow,
            workflow_id=run.workflow_id,
            run=run.run,
            version=run.version,
            parent_id=None if parent is None else parent.workflow_id,
            started_at=instant(scope.started_at),
            attempt=scope.started.attempt,
            history_events=count,
            continue_as_new_suggested=count >= SUGGESTED_EVENTS or journal.history_bytes >= SUGGESTED_BYTES,
        )

    @property
    def log(self) -> Log:
        """A log that is silent on replay. A line may be written again if a process dies before its step is stored."""
        return _RunLog(self._here("log"))

    @property
    def attributes(self) -> MutableMapping[str, AttributeValue]:
        """Named values that runs can be searched by: text, numbers, true or false, instants, lists of text.

        16 KiB of JSON together at most. Instants come back as text: RFC 3339 in UTC.
        """
        return self._here("attributes").attributes

    @property
    def random(self) -> random.Random:
        """Random numbers that are the same on every replay, and others in every run."""
        return self._here("random").chance.random

    def now(self) -> datetime:
        """The instant, in UTC, of the event that the code is reacting to."""
        return instant(self._here("now").loop.now)

    def uuid4(self) -> UUID:
        """A random UUID that is the same on every replay."""
        return self._here("uuid4").chance.uuid4()

    def side_effect(self, fn: Callable[[], T], /) -> T:
        """What `fn` returns, called once and recorded: for what is quick and harmless to lose, such as an environment
        variable. It may be called again if a process dies before the step is stored; what has effects is an activity.
        What it raises is recorded as well, and is a `RemoteError` here, now and on every replay.
        """
        scope = self._acting("side_effect")
        value: T = scope.side_effect(fn, codec_for(_returned(fn)))
        return value

    def patched(self, change_id: str, /) -> bool:
        """Whether the run takes the new way: `if ctx.patched("fraud-check"): … else: …` around a change of the code.

        Runs that come here for the first time do; one that passed here before the change keeps to the old way, now and
        in every replay.
        """
        return self._acting("patched").patched(change_id)

    def retire_patch(self, change_id: str, /) -> None:
        """In the place of `patched`, once no open run takes the old way, which can then be deleted.

        Runs that were marked still replay. When none of those is open either, this line can go as well.
        """
        self._acting("retire_patch").retire_patch(change_id)


def _returned(fn: Callable[[], Any]) -> Any:
    try:
        return get_type_hints(fn).get("return", Any)
    except Exception:  # lambdas and partials have none; annotations may not be readable from here
        return Any
