"""Runs attempts: reads a command, starts its activity on the loop or in a thread, and answers with how it ended.

An attempt is answered exactly once: with its result, its error, or, at the deadline, as timed out. From then on its
code is asked to end (cancelled on the loop; `activity.is_cancelled()` in a thread) but cannot be forced to, so its slot
stays taken until it does: the number of threads never grows beyond the slots. A worker whose slots are all held that
way reports itself unhealthy, so that whatever supervises it starts another.
"""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import msgspec
import structlog

from everstep.definitions import Activity
from everstep.errors import info_of
from everstep_schemas import cloudevents
from everstep_schemas.errors import ErrorInfo
from everstep_schemas.wire import ActivityCommand, Outgoing, command_decoder
from everstep_worker import answers, scope
from everstep_worker.answers import Answers
from everstep_worker.attempts import Attempt, Stopped
from everstep_worker.deadlines import Deadlines
from everstep_worker.deliveries import Delivery
from everstep_worker.dispatch import Line
from everstep_worker.meters import Meters
from everstep_worker.resources import Resources
from everstep_worker.results import Parcel, TooLarge
from everstep_worker.skips import Skips
from everstep_worker.threads import Threads

log = structlog.stdlib.get_logger(__name__)

CLEANUP_SECONDS = 2.0  # for `finally` blocks of attempts that a stopping worker breaks off


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
        meters: Meters,
        send: Callable[[Parcel], None],
        ended: Callable[[Line], None],
        finished: Callable[[], None],
    ) -> None:
        self._activities = activities
        self._answers = answers
        self._dlq = dlq
        self._meters = meters
        self._send = send
        self._ended = ended
        self._finished = finished
        self._loop = asyncio.get_running_loop()
        self._context = contextvars.copy_context()  # what one activity sets is not seen by the next
        self._running: dict[str, Attempt] = {}
        self._stopped: set[Attempt] = set()
        self._skips = Skips()
        self._threads = Threads(threads)
        self._resources = Resources()
        self._deadlines = Deadlines(self._running.values(), self._expire)

    @property
    def stuck(self) -> int:
        """Attempts that were answered or cancelled and whose code has not ended."""
        return len(self._stopped)

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
            delivery.finish()
            self._finished()
            return False
        if same := self._running.get(command.token):
            same.deliveries.append(delivery)
            return False
        return self._start(command, delivery, line)

    def _start(self, command: ActivityCommand, delivery: Delivery, line: Line) -> bool:
        record = delivery.record
        self._meters.queued(line.queue, record.timestamp)
        traceparent = cloudevents.header(record.headers, "traceparent")
        prepared = self._prepare(command, delivery, line, traceparent)
        if isinstance(prepared, ErrorInfo):
            self._meters.attempts(command.activity, "refused")
            self._send(Parcel(self._answers.failed(command, prepared, traceparent), [delivery], command))
            return False
        self._running[command.token] = prepared
        self._launch(prepared)
        return True

    def _prepare(
        self, command: ActivityCommand, delivery: Delivery, line: Line, traceparent: str | None
    ) -> Attempt | ErrorInfo:
        activity = self._activities.get(command.activity)
        if activity is None:
            return answers.not_registered(command.activity, self._activities, self._answers.worker)
        if command.deadline is not None and command.deadline.timestamp() <= time.time():
            return answers.past_deadline(command)
        try:
            arguments = activity.decode_args(command.args, command.kwargs)
        except Exception as error:
            return answers.bad_arguments(command.activity, str(error) or type(error).__name__)
        timeout = command.timeout_seconds or activity.timeout.total_seconds()
        return Attempt(activity, command, arguments, delivery, line, self._context.copy(), timeout, traceparent)

    def _launch(self, attempt: Attempt) -> None:
        activity = attempt.activity
        if activity.is_async:
            attempt.task = self._loop.create_task(self._run(attempt), context=attempt.context)
        elif activity.providers:
            attempt.task = self._loop.create_task(self._provide_and_submit(attempt), context=attempt.context)
        else:
            self._threads.submit(partial(self._call, attempt))
        self._deadlines.watch(attempt)

    # ---- on the loop

    async def _run(self, attempt: Attempt) -> None:
        activity = attempt.activity
        try:
            if activity.providers:
                await self._provide(attempt)
            if attempt.stopped is None:
                attempt.started = time.monotonic()
                with scope.of(attempt):
                    value = await activity.fn(*attempt.args, **attempt.kwargs)
                self._completed(attempt, activity.encode_result(value))
        except BaseException as error:  # SystemExit and KeyboardInterrupt included: authors' code cannot end a worker
            self._failed(attempt, error)
        finally:
            self._end(attempt)

    async def _provide_and_submit(self, attempt: Attempt) -> None:
        try:
            await self._provide(attempt)
        except BaseException as error:
            self._failed(attempt, error)
            self._end(attempt)
        else:
            attempt.task = None  # from now on there is a thread to ask, not a task to cancel
            self._threads.submit(partial(self._call, attempt))

    async def _provide(self, attempt: Attempt) -> None:
        for parameter, provider in attempt.activity.providers.items():
            attempt.kwargs[parameter] = await self._resources.get(provider)

    # ---- in a thread

    def _call(self, attempt: Attempt) -> Callable[[], None]:
        if attempt.stopped is not None:
            return partial(self._end, attempt)
        attempt.started = time.monotonic()
        try:
            value = attempt.context.run(_call, attempt)
            return partial(self._called, attempt, attempt.activity.encode_result(value), None)
        except BaseException as error:
            return partial(self._called, attempt, b"", error)

    def _called(self, attempt: Attempt, value: bytes, error: BaseException | None) -> None:
        if error is None:
            self._completed(attempt, value)
        else:
            self._failed(attempt, error)
        self._end(attempt)

    # ---- end

    def _completed(self, attempt: Attempt, value: bytes) -> None:
        if attempt.stopped is None:
            self._answer(attempt, self._answers.completed(attempt.command, value, attempt.traceparent), "completed")

    def _failed(self, attempt: Attempt, error: BaseException) -> None:
        if attempt.stopped is None:
            info = failure(attempt.activity, error)
            write = _log(attempt).debug if isinstance(error, attempt.activity.raises) else _log(attempt).warning
            write("attempt failed", type=info.type, error=info.message, retryable=info.retryable)
            self._answer(attempt, self._answers.failed(attempt.command, info, attempt.traceparent), "failed")

    def _answer(self, attempt: Attempt, message: Outgoing, outcome: str) -> None:
        self._meters.attempts(attempt.command.activity, outcome)
        self._send(Parcel(message, attempt.deliveries, attempt.command))

    def _end(self, attempt: Attempt) -> None:
        """The code has ended: its slot is free."""
        if attempt.started is not None:
            self._meters.ran(attempt.command.activity, time.monotonic() - attempt.started)
        if attempt.stopped is None:
            del self._running[attempt.command.token]
        else:
            self._stopped.discard(attempt)
        self._ended(attempt.line)

    # ---- from outside

    def cancel(self, token: str) -> None:
        """Ends the attempt if it runs here, without an answer; if it comes later, it is skipped."""
        attempt = self._running.get(token)
        if attempt is None:
            self._skips.add(token)
            return
        self._stop(attempt, "cancelled")
        self._meters.attempts(attempt.command.activity, "cancelled")
        for delivery in attempt.deliveries:
            delivery.finish()
        self._finished()

    def drop(self, token: str) -> None:
        """Skips the command if it comes later."""
        if token not in self._running:
            self._skips.add(token)

    def _expire(self, attempt: Attempt) -> None:
        self._stop(attempt, "timed_out")
        info = answers.attempt_timed_out(attempt.timeout_seconds)
        _log(attempt).warning("attempt timed out", timeout_seconds=attempt.timeout_seconds)
        self._answer(attempt, self._answers.failed(attempt.command, info, attempt.traceparent), "timed_out")

    def _stop(self, attempt: Attempt, why: Stopped) -> None:
        del self._running[attempt.command.token]
        self._stopped.add(attempt)
        attempt.stop(why)

    async def close(self) -> None:
        """Asks what still runs to end, without an answer, so that it comes again elsewhere; closes the resources."""
        for attempt in list(self._running.values()):
            self._stop(attempt, "shut_down")
        self._deadlines.close()
        self._threads.close()
        tasks = [attempt.task for attempt in self._stopped if attempt.task is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=CLEANUP_SECONDS)
        await self._resources.close()

    # ---- what Kafka or nobody can take

    def substitute(self, parcel: Parcel, error: Exception) -> Outgoing | None:
        """What to send in place of an answer that Kafka will never take."""
        reason = f"{type(error).__name__}: {error}"
        command, parcel.command = parcel.command, None
        if command is None:
            log.error("Kafka refuses a record for ever, leaving it out", topic=parcel.message.topic, error=reason)
            return None
        if isinstance(error, TooLarge):
            return self._answers.failed(command, answers.refused_by_kafka(reason))
        self._meters.dead_letter("reply_to")
        detail = f"there is nowhere to answer: {command.reply_to.topic}/{command.reply_to.partition} ({reason})"
        return answers.dead_letter(self._dlq, parcel.deliveries[0].record, "reply_to", detail)

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
        self._send(Parcel(answers.dead_letter(self._dlq, record, reason, detail), [delivery], None))


def _call(attempt: Attempt) -> Any:
    with scope.of(attempt):
        return attempt.activity.fn(*attempt.args, **attempt.kwargs)


def _log(attempt: Attempt) -> Any:
    command = attempt.command
    return log.bind(
        workflow_id=command.workflow_id, run=command.run, activity=command.activity, attempt=command.attempt
    )


def failure(activity: Activity[..., Any], error: BaseException) -> ErrorInfo:
    """The error as it crosses the wire; the activity's policy is asked here, where the exception itself is."""
    info = info_of(error, activity.raises)
    if not info.retryable or _may_be_retried(activity, error):
        return info
    return msgspec.structs.replace(info, retryable=False)


def _may_be_retried(activity: Activity[..., Any], error: BaseException) -> bool:
    retry = activity.retry
    if retry.gives_up_on(error):
        return False
    try:
        return retry.retry_if is None or bool(retry.retry_if(error))
    except Exception as defect:
        log.warning("retry_if raised, trying again", activity=activity.name, exc_info=defect)
        return True
