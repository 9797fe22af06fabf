"""Drives one run through the engine by hand, and beside it what another process would have.

With `check`, a Case keeps a *twin*: the run as a process would have it that has just replayed its history. Every input
goes to both, so each test that feeds a Case also runs with an eviction before every input. What both decide must be the
same, byte for byte; and what a run leaves behind when it is ended must follow from its history alone.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import msgspec
from msgspec import UNSET, Raw
from tests.engine.seen import replay, restore, state

from everstep import App, Workflow, _doors
from everstep._core import starting
from everstep._core.callbacks import token_of
from everstep._core.ending import OpenEnds, terminated
from everstep._core.engine import Activation, Engine, HistoryRow, Identity, LiveRun, Refusal
from everstep._core.messages import SHOWN_OF_NONCE, messages_of
from everstep._core.ports import Guard, LogSink
from everstep._core.starting import Birth
from everstep_schemas import events, names, wire
from everstep_schemas.errors import ErrorInfo
from everstep_schemas.events import AnyEvent, InputEvent, decode_events
from everstep_schemas.names import Topics
from everstep_schemas.wire import Outgoing

__all__ = ["NONCE", "NOW", "SECOND", "Case", "Recorder", "begin", "identity_of", "raw", "replay", "state"]

_doors.install()  # as the services do

NOW = 1_700_000_000_000_000
SECOND = 1_000_000
NONCE = "8c5a1e"
TOPICS = Topics()
URL = "http://here"
made: list[LiveRun] = []


def identity_of(workflow: Workflow[..., Any], nonce: str = NONCE, number: int = 7) -> Identity:
    return Identity(names.run_key(3, number), "order-17", 1, workflow.name, workflow.version, nonce)


def raw(value: Any) -> Raw:
    return Raw(msgspec.json.encode(value))


def begin(fn: Callable[..., Coroutine[Any, Any, Any]], *args: Any, **options: Any) -> Case:
    """A run of a workflow that is only for this test."""
    app = App("test")
    return Case(app, app.workflow(fn), *args, **options)


class Case:
    """A run that is fed by hand. `begin` holds more fields of its first event."""

    def __init__(
        self,
        app: App,
        workflow: Workflow[..., Any],
        *args: Any,
        nonce: str = NONCE,
        limit: int = 1 << 20,
        guard: Guard | None = None,
        log: LogSink | None = None,
        check: bool = True,
        parent: events.Parent | None = None,
        begin: dict[str, Any] | None = None,
    ) -> None:
        engine = Engine(app, TOPICS, max_payload_bytes=limit, guard=guard, log=log, api_url=lambda: URL)
        self._elsewhere = Engine(app, TOPICS, max_payload_bytes=limit, guard=guard, api_url=lambda: URL)
        positional, named = workflow.encode_args(args, {})
        assert named is None
        started = events.Started(
            workflow=workflow.name,
            version=workflow.version,
            nonce=nonce,
            source="submission-1",
            python="3.11.7",
            args=Raw(positional),
            parent=parent,
            **(begin or {}),
        )
        started = starting.limited(started, Birth(workflow.version, nonce, "3.11.7", NOW, workflow))
        identity = msgspec.structs.replace(identity_of(workflow, nonce), parent=parent)
        self._begin(engine, identity, started, NOW, check)

    def _begin(self, engine: Engine, identity: Identity, started: events.Started, now: int, check: bool) -> None:
        self.engine = engine
        self.identity = identity
        self.now = now
        self.rows: list[HistoryRow] = []
        self.messages: list[Outgoing] = []
        self.last_activation: Activation
        self._scheduled: dict[int, events.ActivityScheduled] = {}
        self._ends = OpenEnds()
        self._check = check
        self._twin: LiveRun | None = None
        self._ids = 0
        self.refused: str | None = None
        self.run, activation = engine.start(identity, started, now)
        made.append(self.run)
        self._keep(activation)

    def next_run(self) -> Case:
        """The run that goes on with the work of this one."""
        successor = self.last_activation.successor
        assert successor is not None
        following = Case.__new__(Case)
        following._elsewhere = self._elsewhere
        version = successor.version or self.engine.newest(successor.workflow)
        assert version is not None
        nonce = f"{self.identity.nonce}+"[-32:]
        birth = Birth(version, nonce, "3.11.7", self.now, self.engine.code(successor.workflow, version))
        number = self.identity.run_key + 1
        identity = Identity(
            number, "order-17", self.identity.run + 1, successor.workflow, version, nonce, self.identity.parent
        )
        started = starting.of_successor(successor, self.identity.parent, birth)
        following._begin(self.engine, identity, started, self.now, self._check)
        return following

    # ---- inputs

    def apply(self, event: InputEvent) -> Activation:
        activation = self.run.apply(event, self.now)
        if self._twin is not None:
            assert self._twin.apply(event, self.now) == activation
        self._keep(activation)
        return activation

    def send(self, message: Any) -> Activation | None:
        """What the message causes; None if it has no effect, and `refused` says why if its sender is told."""
        self.now += 1000
        event = self.run.accept(message, self.now)
        if self._twin is not None:
            assert self._twin.accept(message, self.now) == event
        self.refused = event.reason if isinstance(event, Refusal) else None
        return None if event is None or isinstance(event, Refusal) else self.apply(event)

    def _heard(self, message: Any) -> Activation:
        activation = self.send(message)
        assert activation is not None, self.refused
        return activation

    def token(self, seq: int, attempt: int = 1) -> str:
        run = self.identity
        return str(names.Token(run.shard, run.run_key, seq, attempt, run.nonce[:SHOWN_OF_NONCE]))

    def _ids_of(self, seq: int, attempt: int) -> dict[str, Any]:
        run = self.identity
        token = self.token(seq, attempt)
        ids = {"workflow_id": run.workflow_id, "run": run.run, "seq": seq, "token": token}
        return ids | {"attempt": attempt} if attempt else ids

    def completion(self, seq: int, value: Any = None, attempt: int = 1) -> wire.ActivityCompleted:
        return wire.ActivityCompleted(**self._ids_of(seq, attempt), value=raw(value))

    def complete(self, seq: int, value: Any = None, attempt: int = 1) -> Activation:
        return self._heard(self.completion(seq, value, attempt))

    def failure(self, seq: int, error: ErrorInfo, attempt: int = 1, details: Any = UNSET) -> wire.ActivityFailed:
        said = UNSET if details is UNSET else raw(details)
        return wire.ActivityFailed(**self._ids_of(seq, attempt), error=error, details=said)

    def fail(
        self, seq: int, type: str = "ValueError", message: str = "no", attempt: int = 1, **more: Any
    ) -> Activation:
        return self._heard(self.failure(seq, ErrorInfo(type=type, message=message, **more), attempt))

    def checkout(
        self, seq: int, attempt: int = 1, lease_seconds: float = 20.0, worker: str = "w1", again: bool = False
    ) -> Activation | None:
        """A worker says that it has begun, or (`again`) that it still runs what it had lost its lease of."""
        ids = self._ids_of(seq, attempt)
        return self.send(wire.ActivityStarted(**ids, lease_seconds=lease_seconds, worker=worker, again=again))

    def give_back(self, seq: int, attempt: int = 1) -> bool:
        """A worker says that it has stopped the attempt."""
        given = self.run.give_back(seq, self.token(seq, attempt), self.now)
        if self._twin is not None:
            assert self._twin.give_back(seq, self.token(seq, attempt), self.now) == given
        return given

    def renew(self, seq: int, attempt: int = 1, details: Any = UNSET) -> bool:
        """A worker says that it still works, and with `details` that the attempt's code has said so."""
        said = None if details is UNSET else raw(details)
        renewed = self.run.renew(seq, self.token(seq, attempt), self.now, said)
        if self._twin is not None:
            assert self._twin.renew(seq, self.token(seq, attempt), self.now, said) == renewed
        return renewed

    def signal(self, name: str, value: Any = None, id: str | None = None) -> Activation | None:
        return self.send(
            wire.Signal(
                workflow_id=self.identity.workflow_id,
                name=name,
                value=raw(value),
                signal_id=id or self._next_id("signal"),
            )
        )

    def update(self, name: str, value: Any = None, id: str | None = None) -> Activation | None:
        workflow_id, update_id = self.identity.workflow_id, id or self._next_id("update")
        return self.send(wire.Update(workflow_id=workflow_id, name=name, value=raw(value), update_id=update_id))

    def cancel(self, reason: str = "") -> Activation | None:
        return self.send(wire.Cancel(workflow_id=self.identity.workflow_id, reason=reason))

    def terminate(self, reason: str = "") -> Activation | None:
        return self.send(wire.Terminate(workflow_id=self.identity.workflow_id, reason=reason))

    def child_completed(self, seq: int, value: Any = None, **more: Any) -> Activation | None:
        return self.send(wire.ChildCompleted(**self._ids_of(seq, 0), value=raw(value), **more))

    def child_failed(self, seq: int, status: events.EndedStatus, **more: Any) -> Activation | None:
        return self.send(wire.ChildFailed(**self._ids_of(seq, 0), status=status, **more))

    def answered(self, seq: int, error: ErrorInfo | None = None) -> Activation | None:
        """What was sent to another run has reached it, or not."""
        return self.send(wire.RequestAnswered(**self._ids_of(seq, 0), error=error))

    def callback_token(self, seq: int) -> str:
        return token_of(self.identity.run_key, self.identity.nonce, seq)

    def called_back(
        self, seq: int, value: Any = None, id: str | None = None, token: str | None = None
    ) -> Activation | None:
        token, id = self.callback_token(seq) if token is None else token, id or self._next_id("callback")
        return self.send(wire.CompleteCallback(token=token, value=raw(value), submission_id=id))

    def callback_failed(
        self, seq: int, message: str, type: str = "CallbackFailed", id: str | None = None
    ) -> Activation | None:
        problem, id = wire.CallbackProblem(message=message, type=type), id or self._next_id("callback")
        return self.send(wire.FailCallback(token=self.callback_token(seq), error=problem, submission_id=id))

    def beat(self, seq: int, token: str | None = None) -> bool:
        """Whoever holds the callback says that it still works on it."""
        token = self.callback_token(seq) if token is None else token
        counts = self.run.beat(token, self.now)
        if self._twin is not None:
            assert self._twin.beat(token, self.now) == counts
        return counts

    def _next_id(self, kind: str) -> str:
        self._ids += 1
        return f"{kind}-{self._ids}"

    def query(self, name: str, *args: Any) -> Any:
        answer = self.run.query(name, list(args))
        if self._twin is not None:
            assert self._twin.query(name, list(args)) == answer
        return msgspec.json.decode(answer)

    def wake(self) -> Activation:
        """Let time pass until the next thing is due."""
        at = self.run.wakeup_at()
        assert at is not None
        self.now = max(self.now, at)
        event = self.run.due(self.now)
        assert event is not None
        if self._twin is not None:
            assert self._twin.due(self.now) == event
        return self.apply(event)

    # ---- outcomes

    @property
    def history(self) -> list[AnyEvent]:
        return [event for row in self.rows for event in decode_events(row.data)]

    @property
    def last(self) -> list[AnyEvent]:
        """The commands of the last activation."""
        first = self.last_activation.rows[0].seq
        return self.history[first:]

    @property
    def kinds(self) -> list[str]:
        """The kinds of the commands of the last activation."""
        return [type(event).__name__ for event in self.last]

    @property
    def result(self) -> Any:
        closing = self.history[-1]
        assert isinstance(closing, events.Completed), closing
        return msgspec.json.decode(closing.value)

    @property
    def error(self) -> ErrorInfo:
        closing = self.history[-1]
        assert isinstance(closing, events.Failed), closing
        return closing.error

    def pending(self, name: str | None = None) -> list[int]:
        """The numbers of the activities without an answer."""
        activities = state(self.run)["activities"]
        return [seq for seq, one in activities.items() if name is None or one[0] == name]

    def complete_all(self, value: Any = None) -> None:
        """Answer activities, oldest first, until none is pending."""
        while seqs := self.pending():
            self.complete(seqs[0], value)

    def sent(self, type: str) -> list[Any]:
        """The bodies of the messages of that CloudEvents type, in the last activation."""
        return [
            msgspec.json.decode(message.value)
            for message in self.last_activation.messages
            if dict(message.headers)["ce_type"] == type.encode()
        ]

    def replayed(self) -> LiveRun:
        return replay(self._elsewhere, self.identity, self.rows)

    # ---- the twin

    def _keep(self, activation: Activation) -> None:
        self.rows += activation.rows
        self.messages += activation.messages
        self.last_activation = activation
        if self._check:
            self._check_messages(activation)
            self._check_ends(activation)
            self._check_replay()

    def _check_messages(self, activation: Activation) -> None:
        """What a new owner would publish again is what was published."""
        seq = activation.rows[0].seq
        for event in self.last_events:
            if isinstance(event, events.ActivityScheduled):
                self._scheduled[seq] = event
            seq += 1
        again = messages_of(self.identity, TOPICS, activation.rows, self._scheduled.__getitem__)
        assert again == activation.messages

    @property
    def last_events(self) -> list[AnyEvent]:
        return [event for row in self.last_activation.rows for event in decode_events(row.data)]

    def _check_ends(self, activation: Activation) -> None:
        """Ended without its code, the run lets go of the same things as with it. This is the end of the old twin."""
        for row in activation.rows:
            self._ends.feed(row)
        twin = self._twin
        if twin is not None and twin.closed is None:
            assert state(twin) == state(self.run)
            with_code = twin.apply(events.Terminated(reason="?"), self.now)
            without = terminated(self.identity, TOPICS, self._ends, "?", self.now)
            assert (without.rows, without.messages, without.closed) == (
                with_code.rows,
                with_code.messages,
                "terminated",
            )

    def _check_replay(self) -> None:
        again = self.replayed()
        restore(again, self.run)
        assert state(again) == state(self.run)
        assert again.argument_differences == 0
        self._twin = again
        made.append(again)


class Recorder:
    """A log sink that keeps what is written."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str, dict[str, object]]] = []
        self._bound: dict[str, object] = {}

    def bind(self, **fields: object) -> Recorder:
        bound = Recorder()
        bound.lines = self.lines
        bound._bound = self._bound | fields
        return bound

    def debug(self, event: str, /, **fields: object) -> None:
        self.lines.append(("debug", event, self._bound | fields))

    def info(self, event: str, /, **fields: object) -> None:
        self.lines.append(("info", event, self._bound | fields))

    def warning(self, event: str, /, **fields: object) -> None:
        self.lines.append(("warning", event, self._bound | fields))

    def error(self, event: str, /, **fields: object) -> None:
        self.lines.append(("error", event, self._bound | fields))
