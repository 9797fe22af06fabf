"""Drives one run through the engine by hand, and replays its history after every activation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Raw

from everstep import App, Workflow, _doors
from everstep._core.engine import Activation, Engine, HistoryRow, Identity, LiveRun, Refusal
from everstep._core.ports import Guard, LogSink
from everstep_schemas import events, names, wire
from everstep_schemas.errors import ErrorInfo
from everstep_schemas.events import AnyEvent, InputEvent, decode_events
from everstep_schemas.names import Topics
from everstep_schemas.wire import Outgoing

_doors.install()  # as the services do

NOW = 1_700_000_000_000_000
SECOND = 1_000_000
NONCE = "8c5a1e"


def identity_of(workflow: Workflow[..., Any], nonce: str = NONCE, number: int = 7) -> Identity:
    return Identity(names.run_key(3, number), "order-17", 1, workflow.name, workflow.version, nonce)


class Case:
    """A run that is fed by hand. With `check`, a replay after each activation must reach the same state."""

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
    ) -> None:
        self.engine = Engine(app, Topics(), max_payload_bytes=limit, guard=guard, log=log)
        self.identity = identity_of(workflow, nonce)
        self.now = NOW
        self.rows: list[HistoryRow] = []
        self.messages: list[Outgoing] = []
        self.refusals: list[str] = []
        self._check = check
        self._signals = 0
        positional, named = workflow.encode_args(args, {})
        assert named is None
        started = events.Started(
            workflow=workflow.name,
            version=workflow.version,
            nonce=nonce,
            source="submission-1",
            python="3.11.7",
            args=Raw(positional),
        )
        self.run, activation = self.engine.start(self.identity, started, NOW)
        self._keep(activation)

    # ---- inputs

    def apply(self, event: InputEvent) -> Activation:
        activation = self.run.apply(event, self.now)
        self._keep(activation)
        return activation

    def send(self, message: Any) -> Activation | None:
        self.now += 1000
        event = self.run.accept(message, self.now)
        if isinstance(event, Refusal):
            self.refusals.append(event.reason)
            return None
        return None if event is None else self.apply(event)

    def token(self, seq: int, attempt: int = 1) -> str:
        run = self.identity
        return str(names.Token(run.shard, run.run_key, seq, attempt, run.nonce))

    def complete(self, seq: int, value: Any = None, attempt: int = 1) -> Activation:
        activation = self.send(self.completion(seq, value, attempt))
        assert activation is not None
        return activation

    def completion(self, seq: int, value: Any = None, attempt: int = 1) -> wire.ActivityCompleted:
        return wire.ActivityCompleted(
            workflow_id=self.identity.workflow_id,
            run=1,
            seq=seq,
            attempt=attempt,
            token=self.token(seq, attempt),
            value=Raw(msgspec.json.encode(value)),
        )

    def failure(self, seq: int, error: ErrorInfo, attempt: int = 1) -> wire.ActivityFailed:
        return wire.ActivityFailed(
            workflow_id=self.identity.workflow_id,
            run=1,
            seq=seq,
            attempt=attempt,
            token=self.token(seq, attempt),
            error=error,
        )

    def fail(
        self, seq: int, type: str = "ValueError", message: str = "no", attempt: int = 1, **more: Any
    ) -> Activation:
        activation = self.send(self.failure(seq, ErrorInfo(type=type, message=message, **more), attempt))
        assert activation is not None
        return activation

    def signal(self, name: str, value: Any = None, id: str | None = None) -> Activation | None:
        self._signals += 1
        return self.send(
            wire.Signal(
                workflow_id=self.identity.workflow_id,
                name=name,
                value=Raw(msgspec.json.encode(value)),
                signal_id=id or f"signal-{self._signals}",
            )
        )

    def cancel(self, reason: str = "") -> Activation | None:
        return self.send(wire.Cancel(workflow_id=self.identity.workflow_id, reason=reason))

    def terminate(self, reason: str = "") -> Activation | None:
        return self.send(wire.Terminate(workflow_id=self.identity.workflow_id, reason=reason))

    def wake(self) -> Activation:
        """Let time pass until the next thing is due."""
        at = self.run.wakeup_at()
        assert at is not None
        self.now = max(self.now, at)
        event = self.run.due(self.now)
        assert event is not None
        return self.apply(event)

    # ---- outcomes

    @property
    def history(self) -> list[AnyEvent]:
        return [event for row in self.rows for event in decode_events(row.data)]

    @property
    def last(self) -> list[AnyEvent]:
        """The commands of the last activation."""
        first = self._last_rows[0].seq
        return self.history[first:]

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

    def replayed(self) -> LiveRun:
        return replay(self.engine, self.identity, self.rows)

    def _keep(self, activation: Activation) -> None:
        self.rows += activation.rows
        self.messages += activation.messages
        self._last_rows = activation.rows
        if self._check:
            again = self.replayed()
            assert state(again) == state(self.run)
            assert again.argument_differences == 0
            again.evict()


def replay(engine: Engine, identity: Identity, rows: Sequence[HistoryRow]) -> LiveRun:
    feeding = engine.replay(identity)
    for row in rows:
        feeding.feed(row)
    return feeding.finish()


def state(run: LiveRun) -> dict[str, Any]:
    """All that decides what a run does next."""
    program = run._program
    scope = program.scope
    wakeups = program.wakeups
    wakeups.first()
    return {
        "next_seq": run.next_seq,
        "closed": run.closed,
        "status": run.custom_status,
        "at": run._at,
        "state": program.state,
        "activities": {
            seq: (one.scheduled.name, one.scheduled.queue, one.attempt, one.state, bytes(one.scheduled.args))
            for seq, one in scope.activities._pending.items()
        },
        "timers": list(scope.timers._pending),
        "waits": {seq: handle.name for seq, handle in scope.mailbox._waits.items()},
        "buffers": {
            name: [(number, bytes(value), signal_id) for number, value, signal_id in buffer]
            for name, buffer in scope.mailbox._buffers.items()
        },
        "signals": scope.mailbox.ids(),
        "children": {seq: child.started.workflow_id for seq, child in scope.children._pending.items()},
        "requests": list(scope.children.requests),
        "callbacks": list(scope.callbacks),
        "conditions": list(scope.conditions),
        "updates": list(scope.updates),
        "attributes": scope.attributes.snapshot(),
        "wakeups": sorted(wakeups._at.items()),
        "tasks": len(program.loop.open_tasks()),
    }


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
