"""An installation in memory: runs, and the messages between them, activities and clients.

It decides nothing itself. The engine steps runs and says what that causes; `_core.reception` says what submissions and
messages of other runs do. Here is what is left: keeping runs, and handing on every message, encoded and decoded as it
would be by way of Kafka.
"""

from __future__ import annotations

import platform
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import blake2b

import msgspec

from everstep._core import starting
from everstep._core.callbacks import token_of
from everstep._core.ending import OpenEnds, terminated
from everstep._core.engine import Activation, CannotRun, Engine, Identity, Refusal, StallReason, Successor
from everstep._core.notices import Notices
from everstep._core.reception import Reception, Request, asked_by, identity_of, why_impossible
from everstep._core.run import Message
from everstep._core.starting import Birth
from everstep.app import App
from everstep.testing._clock import Alarm, Clock
from everstep.testing._log import WorkflowLog
from everstep.testing._problems import stalled
from everstep.testing._runs import StoredRun
from everstep_schemas import cloudevents, events, names, wire
from everstep_schemas.names import Token, Topics
from everstep_schemas.wire import LifecycleType, Outgoing

TOPICS = Topics()
SHARD = 0
API_URL = "https://everstep.test"
MAX_PAYLOAD_BYTES = 1 << 20
EARLY_SIGNALS_US = 60_000_000
# As in production: a run that goes on as new without ever waiting is held up a little after so many times at once.
CONTINUED_AT_ONCE = 10
BREATH_US = 10_000
NOT_CHOSEN = 0

CLOSING = {
    LifecycleType.COMPLETED: "completed",
    LifecycleType.FAILED: "failed",
    LifecycleType.CANCELLED: "cancelled",
    LifecycleType.TERMINATED: "terminated",
    LifecycleType.TIMED_OUT: "timed_out",
    LifecycleType.CONTINUED: "continued",
}


@dataclass(frozen=True)
class Exits:
    """Where messages go that leave the installation, and what is wrong with the test."""

    command: Callable[[wire.ActivityCommand], None]
    control: Callable[[wire.Control], None]
    fact: Callable[[str, wire.Lifecycle], None]
    problem: Callable[[BaseException], None]


class Installation:
    """The runs of one environment. `put` has something done in its turn; nothing here is called within a task."""

    def __init__(
        self, app: App, clock: Clock, put: Callable[[Callable[[], None]], None], exits: Exits, *, check: bool
    ) -> None:
        self.clock = clock
        self.engine = Engine(
            app, TOPICS, max_payload_bytes=MAX_PAYLOAD_BYTES, log=WorkflowLog(), api_url=lambda: API_URL
        )
        self.by_id: dict[str, list[StoredRun]] = {}
        self.by_key: dict[int, StoredRun] = {}
        self._put = put
        self._exits = exits
        self.checks = check
        self._notices = Notices(TOPICS, SHARD)
        self._reception: Reception[StoredRun] = Reception(self, self._notices)
        self._early: dict[str, deque[tuple[wire.Signal, Alarm]]] = {}
        self._submissions = 0
        self._continued: Counter[tuple[str, int]] = Counter()

    def runs(self) -> Iterator[StoredRun]:
        """All runs, in the order in which they were created."""
        return iter(self.by_key.values())

    # ---- what comes in

    def submit(self, data: bytes) -> str:
        """Apply a submission as it lies in Kafka; its identity."""
        submission = wire.submission_decoder.decode(data)
        source = identity_of(submission) or f"{TOPICS.submissions}/{SHARD}/{self._submissions}"
        self._submissions += 1
        if isinstance(submission, wire.CallbackSubmission):
            self._callback(submission, source)
        else:
            self._request(Request(submission, source))
        return source

    def receive(self, data: bytes) -> None:
        """Apply a record of the inbox."""
        message = wire.inbox_decoder.decode(data)
        match message:
            case wire.Forwarded():
                self._forwarded(message)
            case wire.ChildStart() | wire.ChildEnd():
                self._reception.child(message, self.clock.now)
            case wire.ActivitiesRenewed():
                for heartbeat in message.heartbeats:
                    self._renew(heartbeat)
            case _:
                run = self._of_token(message.token)
                if run is not None and run.open:
                    self.give(run, message, self.clock.now)

    def _forwarded(self, message: wire.Forwarded) -> None:
        submission = wire.submission_decoder.decode(message.submission)
        if isinstance(submission, wire.CallbackSubmission):
            self._callback(submission, message.source)
        else:
            self._request(Request(submission, message.source, message.traceparent, message.reply_to))

    def _request(self, request: Request) -> None:
        why = why_impossible(request.submission, request.source, MAX_PAYLOAD_BYTES)
        if why is None:
            self._reception.request(request, self.clock.now)
        else:
            self._reception.refuse(request, why, self.clock.now)

    def _callback(self, submission: wire.CallbackSubmission, source: str) -> None:
        run = self._of_token(submission.token)
        if run is None or not _is_genuine(submission.token, run.identity):
            self.reject("", submission, source, "no such callback", self.clock.now)
        elif isinstance(submission, wire.HeartbeatCallback):
            if run.live is not None and run.live.beat(submission.token, self.clock.now):
                self._renewed(run, submission.token, submission.details)
        else:
            self._reception.callback(run, submission, source, self.clock.now)

    def _renew(self, heartbeat: wire.Heartbeat) -> None:
        run, token = self._of_token(heartbeat.token), Token.parse(heartbeat.token)
        if run is None or run.live is None or token is None:
            return
        if run.live.renew(token.seq, heartbeat.token, self.clock.now, heartbeat.details):
            self._renewed(run, heartbeat.token, heartbeat.details)

    def _renewed(self, run: StoredRun, text: str, details: msgspec.Raw) -> None:
        token = Token.parse(text)
        if token is not None:
            run.renewed[token.seq] = (self.clock.now, details)
            self._set_alarm(run)

    def _of_token(self, text: str) -> StoredRun | None:
        token = Token.parse(text)
        return None if token is None else self.by_key.get(token.run_key)

    def has_settled(self, text: str, source: str) -> bool:
        """Whether the submission `source` has completed, or failed, the callback with this token."""
        run, token = self._of_token(text), Token.parse(text)
        if run is None or token is None:
            return False
        firsts = (events.decode_events(row.data)[0] for row in run.rows)
        return any(isinstance(one, _SETTLED) and (one.ref, one.source) == (token.seq, source) for one in firsts)

    # ---- what goes out, each message in its turn and by way of its encoding

    def owe(self, message: Outgoing) -> None:
        """Hand a message on."""
        self._put(lambda: self._deliver(message))

    def reject(self, workflow_id: str, asked: Message | wire.Submission, source: str, reason: str, now: int) -> None:
        """Say that what was asked has no effect."""
        self.owe(self._notices.rejected(workflow_id, source, reason, now))

    def _deliver(self, message: Outgoing) -> None:
        if message.topic == TOPICS.inbox:
            self.receive(message.value)
        elif message.topic == TOPICS.lifecycle:
            type = cloudevents.header(message.headers, "ce_type") or ""
            self._fact(type, wire.lifecycle_decoder.decode(message.value))
        elif message.topic == TOPICS.control:
            self._exits.control(wire.control_decoder.decode(message.value))
        else:
            self._exits.command(wire.command_decoder.decode(message.value))

    def _fact(self, type: str, fact: wire.Lifecycle) -> None:
        if type in CLOSING:
            self.by_id[fact.workflow_id][fact.run - 1].end = (type, fact)
        self._exits.fact(type, fact)

    # ---- where the rules find and leave what they need: `_core.reception.Desk`

    def latest(self, workflow_id: str) -> StoredRun | None:
        """The newest run of an id."""
        runs = self.by_id.get(workflow_id)
        return runs[-1] if runs else None

    def started_by(self, workflow_id: str, source: str) -> StoredRun | None:
        """The run of an id that an identity has started."""
        return next((run for run in self.by_id.get(workflow_id, ()) if run.source == source), None)

    def birth(self, workflow: str, version: int | None, now: int) -> Birth:
        """What a new run is given; its nonce follows once its id is known."""
        chosen = version or self.engine.newest(workflow) or NOT_CHOSEN
        return Birth(chosen, "", platform.python_version(), now, self.engine.code(workflow, chosen))

    def create(self, started: events.Started, workflow_id: str, run: int, now: int) -> StoredRun:
        """A new run, with its first step. Its nonce follows from its id: each time, a test sees the same chance."""
        nonce = blake2b(f"everstep.testing/{workflow_id}/{run}".encode(), digest_size=16).hexdigest()
        started = msgspec.structs.replace(started, nonce=nonce)
        identity = Identity(
            run_key=names.run_key(SHARD, len(self.by_key) + 1),
            workflow_id=workflow_id,
            run=run,
            workflow=started.workflow,
            version=started.version,
            nonce=nonce,
            parent=started.parent,
        )
        attributes = msgspec.json.encode(started.attributes) if started.attributes else None
        created = StoredRun(identity, started.source, now, attributes=attributes)
        self.by_key[identity.run_key] = created
        self.by_id.setdefault(workflow_id, []).append(created)
        try:
            created.live, activation = self.engine.start(identity, started, now)
        except CannotRun as error:
            self._stall(created, error.reason)
        else:
            self._record(created, activation)
        return created

    def give(self, run: StoredRun, message: Message, now: int) -> None:
        """Apply a message to an open run; one that is stalled can only be terminated."""
        if run.live is None:
            if isinstance(message, wire.Terminate):
                self._terminate(run, message.reason)
            return
        try:
            event = run.live.accept(message, now)
            if isinstance(event, Refusal):
                self.reject(run.workflow_id, message, asked_by(message), event.reason, now)
            elif event is None:
                self._repeated(run, message)
            else:
                self._record(run, run.live.apply(event, now))
        except CannotRun as error:
            self._stall(run, error.reason)

    def keep_early(self, signal: wire.Signal, now: int) -> None:
        """Keep a signal whose run is not there yet, for a while."""
        alarm = self.clock.set(now + EARLY_SIGNALS_US, lambda: self._put(lambda: self._expire(signal.workflow_id)))
        self._early.setdefault(signal.workflow_id, deque()).append((signal, alarm))

    def take_early(self, workflow_id: str) -> list[wire.Signal]:
        """The signals that were kept for an id."""
        taken = self._early.pop(workflow_id, ())
        for _, alarm in taken:
            alarm.cancel()
        return [signal for signal, _ in taken]

    def _expire(self, workflow_id: str) -> None:
        """The time of the oldest signal for an id is over."""
        if kept := self._early.get(workflow_id):
            signal, _ = kept.popleft()
            self._reception.expired(signal, self.clock.now)

    # ---- steps

    def _record(self, run: StoredRun, activation: Activation) -> None:
        run.record(activation)
        for message in activation.messages:
            self.owe(message)
        if self.checks:
            self._checked(run, lambda: run.follow(self.engine, activation.rows))
        self._set_alarm(run)
        if not run.open:
            run.live = None
        if activation.successor is not None:
            self._go_on(run, activation.successor)

    def check(self, run: StoredRun) -> None:
        """Replay a run from its beginning."""
        if self.checks:
            self._checked(run, lambda: run.check(self.engine))

    def _checked(self, run: StoredRun, check: Callable[[], None]) -> None:
        """A run that does not do the same again is as stuck as it would be in production."""
        try:
            check()
        except Exception as error:
            run.forget()
            run.problem = error
            self._exits.problem(error)

    def _go_on(self, run: StoredRun, successor: Successor) -> None:
        """The next run of the id goes on with the work of one that has closed."""
        now, moment = self.clock.now, (run.workflow_id, self.clock.now)
        self._continued[moment] += 1
        if self._continued[moment] > CONTINUED_AT_ONCE:
            breath = max(now + BREATH_US, successor.start_at or 0)
            successor = msgspec.structs.replace(successor, start_at=breath)
        birth = self.birth(successor.workflow, successor.version, now)
        self.create(starting.of_successor(successor, run.parent, birth), run.workflow_id, run.run + 1, now)

    def _repeated(self, run: StoredRun, message: Message) -> None:
        """Nothing happens; an update that was answered is answered again."""
        if run.live is None or not isinstance(message, wire.Update) or message.update_id is None:
            return
        if (answer := run.live.answer_to(message.update_id)) is not None:
            self.owe(self._notices.answered_before(run, *answer, self.clock.now))

    def _stall(self, run: StoredRun, reason: StallReason) -> None:
        seq = 1 if run.live is None else run.live.next_seq
        run.forget()
        run.stalled = reason
        run.problem = stalled(run.identity, reason)
        self._set_alarm(run)
        self.owe(self._notices.stalled(run, seq, reason.message, self.clock.now))
        self._exits.problem(run.problem)

    def _terminate(self, run: StoredRun, reason: str) -> None:
        ends = OpenEnds()
        for row in run.rows:
            ends.feed(row)
        run.stalled = run.problem = None
        self._record(run, terminated(run.identity, TOPICS, ends, reason, self.clock.now))

    # ---- time

    def _set_alarm(self, run: StoredRun) -> None:
        at = None if run.live is None else run.live.wakeup_at()
        if run.alarm is not None and (at is None or run.alarm.at != at or run.alarm.fire is None):
            run.alarm.cancel()
            run.alarm = None
        if at is not None and run.alarm is None:
            run.alarm = self.clock.set(at, lambda: self._put(lambda: self._wake(run)))

    def _wake(self, run: StoredRun) -> None:
        """Fire what is due in a run."""
        try:
            while run.live is not None and (event := run.live.due(self.clock.now)) is not None:
                self._record(run, run.live.apply(event, self.clock.now))
        except CannotRun as error:
            self._stall(run, error.reason)
        self._set_alarm(run)


_SETTLED = (events.CallbackCompleted, events.CallbackFailed)


def _is_genuine(text: str, identity: Identity) -> bool:
    token = Token.parse(text)
    return token is not None and text == token_of(identity.run_key, identity.nonce, token.seq)
