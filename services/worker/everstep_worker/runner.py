"""Decides about attempts: which commands start, how each is answered, and what ends those that run.

An attempt is answered exactly once: with its result, its error, or, at a timeout, as timed out. From then on its code
is asked to end (cancelled on the loop, `activity.is_cancelled()` in a thread, its process terminated and then killed).
Code on the loop and in threads cannot be forced to, so its slot stays taken until it does: the number of threads never
grows beyond the slots. A worker whose slots are all held that way reports itself unhealthy, so that whatever supervises
it starts another.
"""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import structlog
from msgspec import UNSET

from everstep._outcomes import attempt_timed_out, bad_arguments, too_late, went_silent
from everstep.definitions import Activity
from everstep.errors import Which
from everstep_schemas import cloudevents
from everstep_schemas.errors import ErrorInfo
from everstep_schemas.wire import ActivityCommand, Outgoing, command_decoder
from everstep_worker import answers
from everstep_worker.answers import Answers
from everstep_worker.attempts import Attempt, Stopped
from everstep_worker.deadlines import Deadlines
from everstep_worker.deliveries import Delivery, position_of
from everstep_worker.dispatch import Line
from everstep_worker.execution import Execution, Outcome
from everstep_worker.failures import failure, is_declared, not_registered, refused_by_kafka
from everstep_worker.leases import Leases
from everstep_worker.meters import Meters
from everstep_worker.processes import Processes
from everstep_worker.results import Parcel, TooLarge
from everstep_worker.skips import Skips
from everstep_worker.times import Times

log = structlog.stdlib.get_logger(__name__)


class Runner:
    """The activities of one worker. `send` takes answers, `ended` is called when a slot is free again,
    and `finished` when a command needs no answer."""

    def __init__(
        self,
        activities: Mapping[str, Activity[..., Any]],
        *,
        answers: Answers,
        dlq: str,
        threads: int,
        processes: Processes,
        times: Times,
        meters: Meters,
        send: Callable[[Parcel], None],
        ended: Callable[[Line], None],
        finished: Callable[[], None],
    ) -> None:
        self._activities = activities
        self._answers = answers
        self._dlq = dlq
        self._times = times
        self._meters = meters
        self._send = send
        self._ended = ended
        self._finished = finished
        self._loop = asyncio.get_running_loop()
        self._context = contextvars.copy_context()  # what one activity sets is not seen by the next
        self._running: dict[str, Attempt] = {}
        self._stopped: set[Attempt] = set()
        self._skips = Skips()
        self._leases = Leases(answers, times, meters, send, self._nowhere)
        self._execution = Execution(
            threads=threads,
            processes=processes,
            leases=self._leases,
            meters=meters,
            most_bytes=answers.max_payload_bytes,
            finish=self._finish,
        )
        self._deadlines = Deadlines(self._running.values(), self._look_at)

    @property
    def stuck(self) -> int:
        """Attempts that were answered or cancelled, whose code has not ended and cannot be made to."""
        return sum(not attempt.activity.in_process for attempt in self._stopped)

    @property
    def checked_out(self) -> int:
        return len(self._leases)

    # ---- start

    def start(self, delivery: Delivery, line: Line) -> bool:
        """Starts the command, or answers or skips it at once; whether it took a slot. Never raises."""
        record = delivery.record
        try:
            command = command_decoder.decode(record.value or b"")
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            self._bury(delivery, "command", f"{type(error).__name__}: {error}")
            return False
        if command.token in self._skips:
            self._finish_deliveries(delivery)
            return False
        if same := self._running.get(command.token):
            self._again(same, delivery)
            return False
        return self._start(command, delivery, line)

    def _again(self, attempt: Attempt, delivery: Delivery) -> None:
        """The command of an attempt that runs here."""
        if attempt.lease is not None and position_of(delivery.record) != position_of(attempt.record):
            self._leases.check_out_again(attempt, delivery)
        elif attempt.lease is not None and attempt.lease.done():
            self._finish_deliveries(delivery)
        else:
            attempt.deliveries.append(delivery)

    def _start(self, command: ActivityCommand, delivery: Delivery, line: Line) -> bool:
        record = delivery.record
        self._meters.queued(line.queue, record.timestamp)
        traceparent = cloudevents.header(record.headers, "traceparent")
        prepared = self._prepare(command, delivery, line, traceparent)
        if isinstance(prepared, ErrorInfo):
            self._meters.attempts(command.activity, "refused")
            answer = self._answers.failed(command, prepared, traceparent)
            self._send(Parcel(answer, [delivery], (command, record)))
            return False
        self._running[command.token] = prepared
        self._execution.launch(prepared)
        self._deadlines.watch(prepared)
        return True

    def _prepare(
        self, command: ActivityCommand, delivery: Delivery, line: Line, traceparent: str | None
    ) -> Attempt | ErrorInfo:
        activity = self._activities.get(command.activity)
        if activity is None:
            return not_registered(command.activity, self._activities, self._answers.worker)
        if late := too_late(command, time.time()):
            return late
        try:
            arguments = ([], {}) if activity.in_process else activity.decode_args(command.args, command.kwargs)
        except Exception as error:
            return bad_arguments(command.activity, error)
        context = self._context.copy()
        return Attempt(activity, command, arguments, delivery, line, context, self._times, self._hear, traceparent)

    # ---- end

    def _finish(self, attempt: Attempt, outcome: Outcome) -> None:
        """The code has ended: it is answered, unless nobody waits for that any more, and its slot is free."""
        if attempt.stopped is None and outcome is not None:
            self._answer_with(attempt, outcome)
        attempt.ended = True
        if attempt.started is not None:
            self._meters.ran(attempt.command.activity, time.monotonic() - attempt.started)
        if attempt.stopped is None:
            del self._running[attempt.command.token]
            self._leases.forget(attempt)
        else:
            self._stopped.discard(attempt)
        self._ended(attempt.line)

    def _answer_with(self, attempt: Attempt, outcome: bytes | BaseException | ErrorInfo) -> None:
        if isinstance(outcome, bytes):
            self._answer(attempt, self._answers.completed(attempt.command, outcome, attempt.traceparent), "completed")
            return
        info = outcome if isinstance(outcome, ErrorInfo) else failure(attempt.activity, outcome)
        write = _log(attempt).debug if is_declared(attempt.activity, info) else _log(attempt).warning
        write("attempt failed", type=info.type, error=info.message, retryable=info.retryable)
        self._fail(attempt, info, "failed")

    def _fail(self, attempt: Attempt, info: ErrorInfo, outcome: str) -> None:
        details = attempt.own_details if info.retryable else UNSET
        self._answer(attempt, self._answers.failed(attempt.command, info, attempt.traceparent, details), outcome)

    def _answer(self, attempt: Attempt, message: Outgoing, outcome: str) -> None:
        self._meters.attempts(attempt.command.activity, outcome)
        self._send(Parcel(message, attempt.deliveries, (attempt.command, attempt.record)))

    # ---- while it runs

    def _hear(self, attempt: Attempt) -> None:
        """From any thread."""
        try:
            self._loop.call_soon_threadsafe(self._leases.hear, attempt)
        except RuntimeError:  # the loop is closed: the process is ending and nobody waits for this
            return

    def _look_at(self, attempt: Attempt, now: float) -> None:
        match attempt.overdue(now):
            case "attempt":
                self._time_out(attempt, "attempt", attempt_timed_out(attempt.timeout_seconds))
            case "heartbeat" if attempt.heartbeat_timeout_seconds is not None:
                self._time_out(attempt, "heartbeat", went_silent(attempt.heartbeat_timeout_seconds))
            case "check_out":
                self._leases.check_out(attempt)

    def _time_out(self, attempt: Attempt, which: Which, error: ErrorInfo) -> None:
        self._stop(attempt, "timed_out")
        _log(attempt).warning("attempt timed out", which=which, error=error.message)
        self._fail(attempt, error, "timed_out")

    def _stop(self, attempt: Attempt, why: Stopped) -> None:
        del self._running[attempt.command.token]
        self._stopped.add(attempt)
        attempt.stop(why)
        if why != "shut_down":
            self._leases.forget(attempt)

    # ---- from outside

    def cancel(self, token: str) -> None:
        """Ends the attempt if it runs here, without an answer; if it comes later, it is skipped."""
        self._skips.add(token)
        if attempt := self._running.get(token):
            self._stop(attempt, "cancelled")
            self._meters.attempts(attempt.command.activity, "cancelled")
            self._finish_deliveries(*attempt.deliveries)

    def drop(self, token: str) -> None:
        """Skips the command if it comes later."""
        if token not in self._running:
            self._skips.add(token)

    def check_out(self, line: Line) -> None:
        """Whatever of the queue has begun is this worker's from when Kafka has what is sent now."""
        for attempt in self._running.values():
            if attempt.line is line and attempt.has_begun:
                self._leases.check_out(attempt)

    async def break_off(self) -> None:
        """Asks what still runs to end, without an answer, and gives it back so that it begins elsewhere."""
        broken_off = list(self._running.values())
        for attempt in broken_off:
            self._stop(attempt, "shut_down")
        self._deadlines.close()
        tasks = [attempt.task for attempt in self._stopped if attempt.task is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=self._times.cleanup_seconds)
        self._leases.give_back(broken_off)

    async def close(self) -> None:
        """Ends processes and closes resources."""
        self._leases.close()
        await self._execution.close()

    # ---- what Kafka or nobody can take

    def substitute(self, parcel: Parcel, error: Exception) -> Outgoing | None:
        """What to send in place of a record that Kafka will never take."""
        reason = f"{type(error).__name__}: {error}"
        about, parcel.about = parcel.about, None
        if parcel.refused is not None:
            parcel.refused()
        if about is None:
            log.error("Kafka refuses a record for ever, leaving it out", topic=parcel.message.topic, error=reason)
            return None
        command, record = about
        if isinstance(error, TooLarge):
            return self._answers.failed(command, refused_by_kafka(reason))
        self._meters.dead_letter("reply_to")
        detail = f"there is nowhere to answer: {command.reply_to.topic}/{command.reply_to.partition} ({reason})"
        return answers.dead_letter(self._dlq, record, "reply_to", detail)

    def _nowhere(self, attempt: Attempt) -> None:
        """Its check-out has nowhere to go, and so would its answer."""
        if not attempt.is_over:
            self._stop(attempt, "cancelled")

    def _bury(self, delivery: Delivery, reason: str, detail: str) -> None:
        record = delivery.record
        log.warning(
            "a command cannot be understood, putting it aside",
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            error=detail,
        )
        self._meters.dead_letter(reason)
        self._send(Parcel(answers.dead_letter(self._dlq, record, reason, detail), [delivery]))

    def _finish_deliveries(self, *deliveries: Delivery) -> None:
        for delivery in deliveries:
            delivery.finish()
        self._finished()


def _log(attempt: Attempt) -> Any:
    command = attempt.command
    return log.bind(
        workflow_id=command.workflow_id, run=command.run, activity=command.activity, attempt=command.attempt
    )
