"""Where an activity's code runs: `async` on the loop, plain functions in threads, or in processes if marked so.

An outcome is a result's JSON, an exception or the error that it became, or None if the code never began.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from everstep_schemas.errors import ErrorInfo
from everstep_worker import scope
from everstep_worker.admission import admitted
from everstep_worker.attempts import Attempt
from everstep_worker.failures import no_process, process_died
from everstep_worker.leases import Leases
from everstep_worker.meters import Meters
from everstep_worker.processes import Child, Died, NotStarted, Processes
from everstep_worker.resources import Resources
from everstep_worker.threads import Threads

Outcome = bytes | BaseException | ErrorInfo | None

MOST_CHILDREN = 3


class Execution:
    """Runs attempts, and calls `finish` on the loop with the outcome of each."""

    def __init__(
        self,
        *,
        threads: int,
        processes: Processes,
        leases: Leases,
        meters: Meters,
        most_bytes: int,
        finish: Callable[[Attempt, Outcome], None],
    ) -> None:
        self._finish = finish
        self._leases = leases
        self._meters = meters
        self._most_bytes = most_bytes
        self._loop = asyncio.get_running_loop()
        self._threads = Threads(threads)
        self._processes = processes
        self._resources = Resources()

    def launch(self, attempt: Attempt) -> None:
        """Begins the attempt as soon as what it needs is there."""
        activity = attempt.activity
        if activity.is_async:
            attempt.task = self._loop.create_task(self._on_loop(attempt), context=attempt.context)
        elif activity.in_process:
            attempt.task = self._loop.create_task(self._in_process(attempt))
        elif activity.providers:
            attempt.task = self._loop.create_task(self._provide_and_submit(attempt), context=attempt.context)
        else:
            self._threads.submit(partial(self._in_thread, attempt))

    async def close(self) -> None:
        """Ends what is idle; what is busy in threads ends when it is done, or with this process."""
        self._threads.close()
        await self._processes.close()
        await self._resources.close()

    # ---- on the loop

    async def _on_loop(self, attempt: Attempt) -> None:
        activity = attempt.activity
        outcome: Outcome = None
        try:
            if activity.providers:
                await self._provide(attempt)
            if attempt.is_certain or await admitted(attempt, self._leases):
                self._begin(attempt)
                with self._scope(attempt):
                    value = await activity.fn(*attempt.args, **attempt.kwargs)
                outcome = activity.encode_result(value)
        except BaseException as error:  # SystemExit and KeyboardInterrupt included: authors' code cannot end a worker
            outcome = error
        finally:
            self._finish(attempt, outcome)

    def _begin(self, attempt: Attempt) -> None:
        attempt.started = time.monotonic()
        if attempt.task is not None:
            attempt.halts_by(attempt.task.cancel)
        self._begun(attempt)

    def _begun(self, attempt: Attempt) -> None:
        """The run learns at once that it no longer waits for a worker, if it counts that."""
        if attempt.command.start_by is not None and not attempt.is_over:
            self._leases.check_out(attempt)

    async def _provide(self, attempt: Attempt) -> None:
        for parameter, provider in attempt.activity.providers.items():
            attempt.kwargs[parameter] = await self._resources.get(provider)

    def _scope(self, attempt: Attempt) -> Any:
        return scope.of(attempt.command, attempt.is_cancelled, attempt.beat, self._most_bytes)

    # ---- in a thread

    async def _provide_and_submit(self, attempt: Attempt) -> None:
        try:
            await self._provide(attempt)
        except BaseException as error:
            self._finish(attempt, error)
        else:
            attempt.task = None  # from now on there is a thread to ask, not a task to cancel
            self._threads.submit(partial(self._in_thread, attempt))

    def _in_thread(self, attempt: Attempt) -> Callable[[], None]:
        outcome: Outcome = None
        try:
            if self._begins_in_thread(attempt):
                outcome = attempt.activity.encode_result(attempt.context.run(self._call, attempt))
        except BaseException as error:
            outcome = error
        return partial(self._finish, attempt, outcome)

    def _begins_in_thread(self, attempt: Attempt) -> bool:
        """Says that it has begun before it looks: whoever holds the queue meanwhile sees that, or is seen here."""
        if attempt.is_over:
            return False
        attempt.started = time.monotonic()
        if not attempt.is_certain:
            attempt.started = None
            if not asyncio.run_coroutine_threadsafe(admitted(attempt, self._leases), self._loop).result():
                return False
            attempt.started = time.monotonic()
        if attempt.command.start_by is not None:
            self._loop.call_soon_threadsafe(self._begun, attempt)
        return True

    def _call(self, attempt: Attempt) -> Any:
        with self._scope(attempt):
            return attempt.activity.fn(*attempt.args, **attempt.kwargs)

    # ---- in a process

    async def _in_process(self, attempt: Attempt) -> None:
        outcome: Outcome = None
        try:
            outcome = await self._in_some_child(attempt)
        except NotStarted as error:
            outcome = no_process(attempt.command.activity, str(error))
        finally:
            self._finish(attempt, outcome)

    async def _in_some_child(self, attempt: Attempt) -> Outcome:
        """In another one if one dies before it begins: it had been idle, and its death has nothing to do with this."""
        for tried in range(1, MOST_CHILDREN + 1):
            try:
                return await self._in_child(await self._processes.take(), attempt)
            except Died as error:
                if attempt.started is not None or tried == MOST_CHILDREN:
                    self._meters.process_died(attempt.command.activity)
                    return process_died(attempt.command.activity, str(error))
        return None

    async def _in_child(self, child: Child, attempt: Attempt) -> Outcome:
        try:
            if attempt.is_over or not (attempt.is_certain or await admitted(attempt, self._leases)):
                return None
            attempt.halts_by(child.cancel)
            attempt.launched = True
            began, beat = partial(self._begun_in_child, attempt), partial(attempt.beat, None)
            return await child.run(attempt.record.value or b"", began, beat)
        finally:
            attempt.halts_by(None)
            attempt.launched = False
            self._processes.give(child)

    def _begun_in_child(self, attempt: Attempt) -> None:
        attempt.started = time.monotonic()
        self._begun(attempt)
