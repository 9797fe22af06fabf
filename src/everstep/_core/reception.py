"""What a submission does, and what a message of another run does: the rules, apart from where runs are kept.

A *desk* keeps the runs: an orchestrator's in a shard's draft, the test kit's in memory. It finds runs, creates them,
gives them messages and passes on what is owed. Which of these happens is decided here, once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import msgspec
from msgspec import UNSET, Raw

from everstep._core import starting
from everstep._core.notices import Notices, Outline
from everstep._core.run import Message
from everstep._core.starting import Birth
from everstep._error_infos import declared_name
from everstep.errors import Rejected, RunAlreadyExists, RunNotFound
from everstep_schemas import events, wire
from everstep_schemas.errors import ErrorInfo
from everstep_schemas.events import Parent
from everstep_schemas.names import why_bad_name
from everstep_schemas.wire import Outgoing

R = TypeVar("R", bound=Outline)


@dataclass(frozen=True, slots=True)
class Request:
    """A submission. `source` is its identity, the same however often it arrives.

    A run that made it waits at `reply_to` to hear whether it reached the other.
    """

    submission: wire.RunSubmission
    source: str
    traceparent: str | None = None
    reply_to: Parent | None = None


class Desk(Protocol[R]):
    """Where the runs of a shard are kept."""

    def latest(self, workflow_id: str) -> R | None:
        """The newest run of an id."""
        ...

    def started_by(self, workflow_id: str, source: str) -> R | None:
        """The run of an id, of whatever number, that this identity has started."""
        ...

    def birth(self, workflow: str, version: int | None, now: int) -> Birth:
        """What a new run is given."""
        ...

    def create(self, started: events.Started, workflow_id: str, run: int, now: int) -> R:
        """A new run, with its first step."""
        ...

    def give(self, run: R, message: Message, now: int) -> None:
        """Apply a message to an open run, or keep it for one that cannot run now."""
        ...

    def owe(self, message: Outgoing) -> None:
        """Pass on a message that belongs to no activation."""
        ...

    def reject(self, workflow_id: str, asked: wire.Submission, source: str, reason: str, now: int) -> None:
        """Say to everyone that what was asked of an id has no effect."""
        ...

    def keep_early(self, signal: wire.Signal, now: int) -> None:
        """Keep a signal whose run is not there yet."""
        ...

    def take_early(self, workflow_id: str) -> list[wire.Signal]:
        """The signals that were kept for an id, and are kept no longer."""
        ...


class Reception(Generic[R]):
    """Receives what comes for the runs of one desk."""

    def __init__(self, desk: Desk[R], notices: Notices) -> None:
        self._desk = desk
        self._notices = notices

    # ---- submissions

    def request(self, request: Request, now: int) -> None:
        """Apply a submission of which `why_impossible` finds nothing."""
        submission = request.submission
        if isinstance(submission, wire.Start):
            self._start(submission, request, now)
            return
        run = self._desk.latest(submission.workflow_id)
        if run is None and isinstance(submission, wire.Signal) and request.reply_to is None:
            self._desk.keep_early(identified(submission, request.source), now)
        elif run is None:
            self.refuse(request, no_run(submission.workflow_id), now, declared_name(RunNotFound))
        elif not run.open:
            self.refuse(request, ended(run), now)
        else:
            self._desk.give(run, identified(submission, request.source), now)
            if request.reply_to is not None:
                self._desk.owe(self._notices.answered(request.reply_to, None))

    def refuse(self, request: Request, reason: str, now: int, kind: str = declared_name(Rejected)) -> None:
        """The submission has no effect; a run that made it is told, anybody else reads it in the lifecycle."""
        if request.reply_to is not None:
            self._desk.owe(self._notices.answered(request.reply_to, ErrorInfo(type=kind, message=reason)))
        else:
            submission = request.submission
            self._desk.reject(submission.workflow_id, submission, request.source, reason, now)

    def expired(self, signal: wire.Signal, now: int) -> None:
        """The run of a signal that was kept has not come."""
        self._reject_signal(signal, no_run(signal.workflow_id), now)

    def _reject_signal(self, signal: wire.Signal, reason: str, now: int) -> None:
        self._desk.reject(signal.workflow_id, signal, signal.signal_id or "", reason, now)

    # ---- starts

    def _start(self, start: wire.Start, request: Request, now: int) -> None:
        latest = self._desk.latest(start.workflow_id)
        same = None if latest is None else self._desk.started_by(start.workflow_id, request.source)
        if same is not None:
            self._answer_existing(start, request, same, now)
            return
        match starting.admission(start, exists=latest is not None, is_open=latest is not None and latest.open):
            case "existing" if latest is not None:
                self._answer_existing(start, request, latest, now)
            case "reject" if latest is not None:
                self.refuse(request, f"duplicate: {_exists(latest)}", now)
            case "replace" if latest is not None:
                ending = wire.Terminate(workflow_id=start.workflow_id, reason="replaced by a new run")
                self._desk.give(latest, ending, now)
                self._create(start, request, latest.run + 1, now)
            case _:
                self._create(start, request, 1 if latest is None else latest.run + 1, now)

    def _answer_existing(self, start: wire.Start, request: Request, run: R, now: int) -> None:
        self._desk.owe(self._notices.existing(run, request.source))
        self._signal_first(start, request.source, run, now)

    def _create(self, start: wire.Start, request: Request, number: int, now: int) -> None:
        birth = self._desk.birth(start.workflow, start.version, now)
        started = starting.of_submission(start, request.source, request.traceparent, birth)
        run = self._desk.create(started, start.workflow_id, number, now)
        self._signal_first(start, request.source, run, now)
        self._deliver_early(run, now)

    def _signal_first(self, start: wire.Start, source: str, run: R, now: int) -> None:
        """The signal that comes with a start goes to the run that answers it, or goes on for it, once."""
        signal = starting.first_signal(start, source)
        if signal is not None:
            latest = self._desk.latest(start.workflow_id) or run
            self._signal(latest, signal, ended(latest), now)

    def _deliver_early(self, run: R, now: int) -> None:
        for signal in self._desk.take_early(run.workflow_id):
            latest = self._desk.latest(run.workflow_id) or run
            self._signal(latest, signal, "the run ended before its signal was applied", now)

    def _signal(self, run: R, signal: wire.Signal, if_closed: str, now: int) -> None:
        if run.open:
            self._desk.give(run, signal, now)
        else:
            self._reject_signal(signal, if_closed, now)

    # ---- what other runs ask

    def child(self, message: wire.ChildStart | wire.ChildEnd, now: int) -> None:
        """Start a run for another one, or end it."""
        if isinstance(message, wire.ChildStart):
            self._start_child(message, now)
        else:
            self._end_child(message, now)

    def _start_child(self, start: wire.ChildStart, now: int) -> None:
        """Meeting the run that this very start has created is success: nothing is to be done."""
        latest = self._desk.latest(start.workflow_id)
        if latest is not None:
            if self._desk.started_by(start.workflow_id, start.parent.token) is None:
                message = f"{_exists(latest)}; choose another id"
                self._refuse_child(start, ErrorInfo(type=declared_name(RunAlreadyExists), message=message))
        elif start.parent.depth > starting.MOST_ANCESTORS:
            message = f"{start.parent.depth} runs have started each other in a row; is it a circle?"
            self._refuse_child(start, ErrorInfo(type="NestedTooDeeply", message=message))
        else:
            birth = self._desk.birth(start.workflow, start.version, now)
            run = self._desk.create(starting.of_child(start, birth), start.workflow_id, 1, now)
            self._deliver_early(run, now)

    def _refuse_child(self, start: wire.ChildStart, error: ErrorInfo) -> None:
        self._desk.owe(self._notices.child_refused(start.parent, error))

    def _end_child(self, end: wire.ChildEnd, now: int) -> None:
        """Ends the run that goes on for this parent, which may be a later one of the id than it started."""
        latest = self._desk.latest(end.workflow_id)
        if latest is None or not latest.open or latest.parent is None or latest.parent.token != end.token:
            return
        if end.how == "terminate":
            self._desk.give(latest, wire.Terminate(workflow_id=end.workflow_id, reason=end.reason), now)
        else:
            self._desk.give(latest, wire.Cancel(workflow_id=end.workflow_id, reason=end.reason), now)

    # ---- callbacks

    def callback(self, run: R, message: wire.CompleteCallback | wire.FailCallback, source: str, now: int) -> None:
        """What an outside system says about a callback of the run that its token names."""
        if run.open:
            self._desk.give(run, _identified_callback(message, source), now)
        else:
            self._desk.reject(run.workflow_id, message, source, ended(run), now)


def no_run(workflow_id: str) -> str:
    """The words for an id that nobody has started."""
    return f"no run has the id {workflow_id!r}"


def ended(run: Outline) -> str:
    """The words for a run that takes nothing more."""
    return f"run {run.run} of {run.workflow_id!r} has ended ({run.status})"


def _exists(run: Outline) -> str:
    return f"run {run.run} of {run.workflow_id!r} exists ({run.status})"


# ---- identities


def identity_of(submission: wire.AnySubmission) -> str | None:
    """The identity that the sender of a submission has chosen for it."""
    match submission:
        case wire.Start() | wire.CompleteCallback() | wire.FailCallback():
            return submission.submission_id
        case wire.Signal():
            return submission.signal_id
        case wire.Update():
            return submission.update_id
        case _:
            return None


M = TypeVar("M", bound="wire.Signal | wire.Update | wire.Cancel | wire.Terminate")


def identified(submission: M, source: str) -> M:
    """The submission with its identity filled in."""
    if isinstance(submission, wire.Signal) and submission.signal_id is None:
        return msgspec.structs.replace(submission, signal_id=source)
    if isinstance(submission, wire.Update) and submission.update_id is None:
        return msgspec.structs.replace(submission, update_id=source)
    return submission


def _identified_callback(
    message: wire.CompleteCallback | wire.FailCallback, source: str
) -> wire.CompleteCallback | wire.FailCallback:
    return msgspec.structs.replace(message, submission_id=source) if message.submission_id is None else message


def asked_by(message: Message) -> str:
    """The identity under which somebody waits to hear what became of a message."""
    match message:
        case wire.Update():
            return message.update_id or ""
        case wire.CompleteCallback() | wire.FailCallback():
            return message.submission_id or ""
        case _:
            return ""


# ---- what a submission may not ask


def why_impossible(submission: wire.RunSubmission, source: str, max_payload_bytes: int) -> str | None:
    """Why a submission cannot be done, whatever run it meets, in words about the field."""
    match submission:
        case wire.Start():
            why = _why_bad_start(submission, max_payload_bytes)
        case wire.Signal() | wire.Update():
            why = _why("name", submission.name) or _why_too_large("value", max_payload_bytes, submission.value)
        case _:
            why = None
    return why or _why("its identity", source)


def _why_bad_start(start: wire.Start, max_payload_bytes: int) -> str | None:
    if not bytes(start.args).lstrip().startswith(b"["):
        return "args must be a JSON array"
    if start.kwargs is not UNSET and not bytes(start.kwargs).lstrip().startswith(b"{"):
        return "kwargs must be a JSON object"
    if start.version is not None and not 1 <= start.version < 1 << 31:
        return f"version is {start.version}; versions count from 1"
    return (
        _why("workflow", start.workflow)
        or _why_too_large("args, kwargs, memo and with_signal", max_payload_bytes, *_payloads(start))
        or starting.why_impossible(start)
    )


def why_too_large(submission: wire.CallbackSubmission, max_payload_bytes: int) -> str | None:
    """Why what is said about a callback cannot be taken."""
    match submission:
        case wire.CompleteCallback():
            return _why_too_large("value", max_payload_bytes, submission.value)
        case wire.HeartbeatCallback():
            return _why_too_large("details", max_payload_bytes, submission.details)
        case wire.FailCallback():
            return _why_too_large("error", max_payload_bytes, submission.error.message.encode())


def _payloads(start: wire.Start) -> Iterator[bytes | Raw]:
    yield start.args
    if start.kwargs is not UNSET:
        yield start.kwargs
    yield from start.memo.values()
    if start.with_signal is not None:
        yield start.with_signal.value


def _why_too_large(what: str, most: int, *parts: bytes | Raw) -> str | None:
    size = sum(len(bytes(part)) for part in parts)
    if size <= most:
        return None
    return f"{what} have {size} bytes; {most} are allowed (EVERSTEP_MAX_PAYLOAD_BYTES)"


def _why(field: str, name: str) -> str | None:
    why = why_bad_name(name)
    return f"{field} {why}" if why else None
