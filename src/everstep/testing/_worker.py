"""Carries out the commands of an environment: fakes, and the activities' own code, in this process.

`async` code runs on the test's loop, plain functions in threads. All of it takes no time, whatever it does; only fakes
that say so (`Calls.delay`, `WorkflowEnvironment.sleep`) take the environment's. What bounds an attempt is decided here
as a worker decides it; retries are the run's business.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextvars import copy_context
from functools import partial
from typing import Any

import msgspec
from msgspec import UNSET, Raw

from everstep import _outcomes, activity
from everstep._error_infos import info_of
from everstep.app import App
from everstep.definitions import Activity
from everstep.testing._attempts import Attempt, current, microseconds
from everstep.testing._clock import Clock
from everstep.testing._fakes import Replacement, WrongFake
from everstep.testing._resources import Resources
from everstep.testing._threads import Threads
from everstep_schemas import wire
from everstep_schemas.errors import ErrorInfo
from everstep_schemas.wire import ActivityCommand

NAME = "everstep.testing"
# Workers renew their leases; this one is never lost.
_LEASE_SECONDS = 10 * 365 * 86_400.0

Answer = wire.ActivityStarted | wire.ActivityCompleted | wire.ActivityFailed | wire.ActivitiesRenewed


class Worker:
    """The activities of one environment. `answer` takes what is to be said to runs, `idle` hears that less runs.

    `failed` takes what is wrong with the test itself: an assertion in a fake that does not hold.
    """

    def __init__(
        self,
        app: App,
        clock: Clock,
        replacements: Mapping[str, Replacement],
        *,
        max_payload_bytes: int,
        answer: Callable[[Answer], None],
        idle: Callable[[], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        self._app = app
        self._clock = clock
        self._limit = max_payload_bytes
        self._answer = answer
        self._idle = idle
        self._failed = failed
        self._loop = asyncio.get_running_loop()
        self._context = copy_context()  # what one activity sets is not seen by the next
        self._attempts: dict[str, Attempt] = {}
        self._cleaning_up: set[Attempt] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._threads = Threads()
        self._replacements = replacements
        self.resources = Resources()

    @property
    def running(self) -> list[Attempt]:
        """What goes on without time passing."""
        return [one for one in (*self._attempts.values(), *self._cleaning_up) if one.running]

    # ---- commands

    def command(self, command: ActivityCommand) -> None:
        """Carry out a command, once there is a worker for it."""
        replacement = self._replacements.get(command.activity)
        attempt = Attempt(command, self._app.activities.get(command.activity), replacement)
        if replacement is not None and replacement.calls._queued:
            self._queue(attempt, replacement.calls._queued.total_seconds())
        else:
            self._take(attempt)

    def _queue(self, attempt: Attempt, seconds: float) -> None:
        attempt.running = False
        self._attempts[attempt.command.token] = attempt
        attempt.arm("queue", self._clock, seconds, partial(self._leave_queue, attempt))

    def _leave_queue(self, attempt: Attempt) -> None:
        del self._attempts[attempt.command.token]
        attempt.disarm()
        attempt.running = True
        self._take(attempt)

    def _take(self, attempt: Attempt) -> None:
        replacement = attempt.replacement
        refusal = self._why_not(attempt)
        if refusal is not None:
            self._answer(_failed(attempt.command, refusal))
        elif replacement is not None and replacement.answers_at_once:
            self._answer(self._at_once(attempt, replacement))
        else:
            self._begin(attempt)

    def _at_once(self, attempt: Attempt, replacement: Replacement) -> Answer:
        """The answer of a replacement that takes no time and runs no code."""
        try:
            args, kwargs = self._arguments(attempt)
        except Exception as misfit:
            return self._misfit(attempt, misfit)
        _, error = replacement.calls._next(args, kwargs, attempt.info)
        if error is None:
            return self._done(attempt, replacement.value or b"null")
        attempt.told_to_fail = True
        return self._failure(attempt, error)

    def _begin(self, attempt: Attempt) -> None:
        self._attempts[attempt.command.token] = attempt
        context = self._context.copy()
        context.run(current.set, attempt)
        attempt.task = task = self._loop.create_task(self._run(attempt), name=repr(attempt), context=context)
        self._tasks.add(task)
        task.add_done_callback(partial(self._ended, attempt))

    def _ended(self, attempt: Attempt, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._cleaning_up.discard(attempt)
        self._idle()

    def _why_not(self, attempt: Attempt) -> ErrorInfo | None:
        command = attempt.command
        if attempt.replacement is None and (attempt.definition is None or attempt.definition.is_remote):
            return _not_replaced(attempt)
        return _outcomes.too_late(command, self._clock.now / 1e6)

    def control(self, control: wire.Control) -> None:
        """Nobody waits for an attempt any more."""
        attempt = self._attempts.get(control.token)
        if attempt is not None:
            self._stop(attempt)

    def _stop(self, attempt: Attempt) -> None:
        """End an attempt whose answer is known or not wanted; an `async` one may still clean up."""
        del self._attempts[attempt.command.token]
        if attempt.task is not None and not attempt.in_thread:
            attempt.running = True
            self._cleaning_up.add(attempt)
        attempt.stop()
        self._idle()

    # ---- running

    async def _run(self, attempt: Attempt) -> None:
        answer = await self._outcome(attempt)
        if not attempt.stopped:
            del self._attempts[attempt.command.token]
            attempt.disarm()
            self._answer(answer)

    async def _outcome(self, attempt: Attempt) -> Answer:
        try:
            args, kwargs = self._arguments(attempt)
        except Exception as error:
            return self._misfit(attempt, error)
        try:
            value = await self._value(attempt, args, kwargs)
        except (KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException as error:
            return self._failure(attempt, error)
        return self._done(attempt, value)

    def _done(self, attempt: Attempt, value: bytes) -> Answer:
        if len(value) > self._limit:
            return _failed(attempt.command, _outcomes.too_large(attempt.name, len(value), self._limit))
        return _completed(attempt.command, value)

    def _misfit(self, attempt: Attempt, error: Exception) -> Answer:
        return _failed(attempt.command, _outcomes.bad_arguments(attempt.name, error))

    def _arguments(self, attempt: Attempt) -> tuple[list[Any], dict[str, Any]]:
        command = attempt.command
        reader = attempt.replacement.decode if attempt.replacement is not None else _definition(attempt).decode_args
        return reader(command.args, command.kwargs)

    async def _value(self, attempt: Attempt, args: list[Any], kwargs: dict[str, Any]) -> bytes:
        replacement = attempt.replacement
        heard = partial(self._heard, attempt)
        with activity.running(
            attempt.info,
            attempt.is_cancelled,
            heartbeat=heard,
            last_heartbeat=attempt.details,
            most_bytes=self._limit,
        ):
            if replacement is None:
                return await self._real(attempt, args, kwargs)
            delay, error = replacement.calls._next(args, kwargs, attempt.info)
            if delay:
                await self._sleep(attempt, microseconds(delay))
            if error is not None:
                attempt.told_to_fail = True
                raise error
            if replacement.is_spy:
                return await self._real(attempt, args, kwargs)
            if replacement.value is not None:  # delayed
                return replacement.value
            provided = await self.resources.of(replacement.provided)
            return replacement.encode(await replacement.call(args, kwargs, provided))

    async def _real(self, attempt: Attempt, args: list[Any], kwargs: dict[str, Any]) -> bytes:
        definition = _definition(attempt)
        kwargs = {**kwargs, **await self.resources.of(definition.providers)}
        if definition.is_async:
            return definition.encode_result(await definition.fn(*args, **kwargs))
        attempt.in_thread = True
        call = partial(_call, definition.fn, args, kwargs)
        value, error = await self._threads.call(call, copy_context())
        attempt.in_thread = False
        if error is not None:
            raise error
        return definition.encode_result(value)

    def _failure(self, attempt: Attempt, error: BaseException) -> Answer:
        replacement = attempt.replacement
        if replacement is not None and replacement.is_fake and not attempt.told_to_fail and _is_the_tests(error):
            self._failed(error)
            return _failed(attempt.command, msgspec.structs.replace(info_of(error), retryable=False))
        if attempt.definition is None:
            return _failed(attempt.command, info_of(error), attempt.details)
        info, defect = _outcomes.failure(attempt.definition, error)
        if defect is not None:
            self._failed(defect)
        return _failed(attempt.command, info, attempt.details)

    # ---- the environment's time

    async def sleep(self, by: int) -> None:
        """Within a fake: let the environment's time pass."""
        attempt = current.get(None)
        if attempt is None:
            raise RuntimeError("env.sleep() is for fakes of activities; a test says `await env.skip(…)`")
        await self._sleep(attempt, by)

    async def _sleep(self, attempt: Attempt, by: int) -> None:
        if attempt.stopped:
            raise asyncio.CancelledError
        woken: asyncio.Future[None] = self._loop.create_future()
        attempt.running = False
        self._watch(attempt)
        alarm = self._clock.set(self._clock.now + by, partial(_wake, attempt, woken))
        self._idle()
        try:
            await woken
        finally:
            alarm.cancel()

    def _watch(self, attempt: Attempt) -> None:
        """From now on time may pass for the attempt: what bounds it is counted from its first such moment."""
        if attempt.alarms:
            return
        self._watch_silence(attempt)
        timeout = attempt.timeout_seconds()
        if timeout is not None:
            late = partial(self._expire, attempt, _outcomes.attempt_timed_out(timeout))
            attempt.arm("timeout", self._clock, timeout, late)
        attempt.arm("check out", self._clock, attempt.check_out_seconds(), partial(self._check_out, attempt))

    def _watch_silence(self, attempt: Attempt) -> None:
        silence = attempt.command.heartbeat_timeout_seconds
        if silence is not None:
            silent = partial(self._expire, attempt, _outcomes.went_silent(silence))
            attempt.arm("silence", self._clock, silence, silent)

    def _expire(self, attempt: Attempt, error: ErrorInfo) -> None:
        self._answer(_failed(attempt.command, error, attempt.details))
        self._stop(attempt)

    def _check_out(self, attempt: Attempt) -> None:
        command = attempt.command
        attempt.checked_out = True
        self._answer(
            wire.ActivityStarted(
                workflow_id=command.workflow_id,
                run=command.run,
                seq=command.seq,
                attempt=command.attempt,
                token=command.token,
                lease_seconds=_LEASE_SECONDS,
                worker=NAME,
            )
        )

    def _heard(self, attempt: Attempt, details: Any, encoded: bytes | None) -> None:
        """A heartbeat; from a thread, too."""
        if asyncio._get_running_loop() is self._loop:
            self._beat(attempt, encoded)
        else:
            self._loop.call_soon_threadsafe(self._beat, attempt, encoded)

    def _beat(self, attempt: Attempt, encoded: bytes | None) -> None:
        if encoded is not None:
            attempt.details = Raw(encoded)
        if attempt.stopped or not attempt.alarms:
            return
        self._watch_silence(attempt)
        if attempt.checked_out:
            beat = wire.Heartbeat(token=attempt.command.token, details=attempt.details or wire.NULL)
            self._answer(wire.ActivitiesRenewed(tokens=(), heartbeats=(beat,), worker=NAME))

    # ---- the end

    async def close(self) -> None:
        """Break off what still runs, and close what was opened."""
        for attempt in list(self._attempts.values()):
            attempt.stop()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        self._threads.close()
        await self.resources.close()


def _call(fn: Callable[..., Any], args: list[Any], kwargs: Mapping[str, Any]) -> tuple[Any, BaseException | None]:
    try:
        return fn(*args, **kwargs), None
    except BaseException as error:
        return None, error


def _wake(attempt: Attempt, woken: asyncio.Future[None]) -> None:
    attempt.running = True
    if not woken.done():
        woken.set_result(None)


def _is_the_tests(error: BaseException) -> bool:
    """Whether a fake's error is the test's own: a failed assertion, `pytest.fail`, a fake that cannot be called."""
    if isinstance(error, AssertionError | WrongFake):
        return True
    return not isinstance(error, Exception | asyncio.CancelledError | SystemExit)


def _definition(attempt: Attempt) -> Activity[..., Any]:
    if attempt.definition is None:
        raise LookupError(f"activity {attempt.name!r} has no code here")
    return attempt.definition


def _not_replaced(attempt: Attempt) -> ErrorInfo:
    name = attempt.name
    what = "its code is elsewhere (@app.remote)" if attempt.definition else "this app has no activity of that name"
    return ErrorInfo(
        type="ActivityNotReplaced",
        message=f"activity {name!r} was called and cannot run in this test: {what}. Put a fake in its place: "
        f"env.replace({name!r}, …)",
        retryable=False,
    )


def _completed(command: ActivityCommand, value: bytes) -> wire.ActivityCompleted:
    return wire.ActivityCompleted(
        workflow_id=command.workflow_id,
        run=command.run,
        seq=command.seq,
        attempt=command.attempt,
        token=command.token,
        value=Raw(value),
        worker=NAME,
    )


def _failed(command: ActivityCommand, error: ErrorInfo, details: Raw | None = None) -> wire.ActivityFailed:
    return wire.ActivityFailed(
        workflow_id=command.workflow_id,
        run=command.run,
        seq=command.seq,
        attempt=command.attempt,
        token=command.token,
        error=error,
        worker=NAME,
        details=UNSET if details is None else details,
    )
