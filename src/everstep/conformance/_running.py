"""Runs the checks: those that share a worker all at once, the others in installations of their own beside them."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import everstep.conformance.checks  # noqa: F401 - registers them
from everstep.conformance._case import Broken, Case
from everstep.conformance._installation import Installation, installation
from everstep.conformance._registry import CHECKS, Check, Place
from everstep.settings import Settings

T = TypeVar("T")

Status = Literal["ok", "failed", "not run"]

NARROW_SLOTS = 2
OWN_PARTITIONS = 4
MOST_INSTALLATIONS = 4  # at once, since each has a worker or two


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a check: `expected` and `seen` tell why it failed, or why it was not run."""

    check: Check
    status: Status
    seconds: float = 0.0
    expected: str = ""
    seen: str = ""


async def run(
    command: Sequence[str], settings: Settings, *, queue: str = "default", only: Iterable[int] = ()
) -> list[Outcome]:
    """Checks the worker that `command` starts, on the Kafka of `settings`, and returns outcomes by rule.

    Every check that starts a worker tells it where to work through its environment. `only` are numbers of rules; the
    default is all. Raises `KafkaError` without a broker, `TopicError` if topics cannot be created, and `ValueError` if
    there is no such program.
    """
    wanted = set(only)
    chosen = [check for check in CHECKS if not wanted or check.rule in wanted]
    with tempfile.TemporaryDirectory() as directory:
        benches = _Benches(command, settings, queue, Path(directory))
        work = [benches.shared(chosen), benches.narrow(chosen), *(benches.own(check) for check in _of(chosen, "own"))]
        outcomes = [outcome for some in await _together(work) for outcome in some if outcome.check in chosen]
    return sorted(outcomes, key=lambda outcome: (outcome.check.rule, CHECKS.index(outcome.check)))


def _of(chosen: Iterable[Check], place: Place) -> list[Check]:
    return [check for check in chosen if check.place == place]


async def _together(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one) for one in work]
    return [task.result() for task in tasks]


async def _outcome(check: Check, case: Case) -> Outcome:
    began = time.monotonic()
    try:
        await check.test(case)
    except Broken as broken:
        return Outcome(check, "failed", time.monotonic() - began, broken.expected, broken.seen)
    return Outcome(check, "ok", time.monotonic() - began)


async def _started(case: Case, checks: Sequence[Check], **environment: object) -> list[Outcome]:
    """Starts the worker that all these share; if it does not answer, none of them is run."""
    try:
        await case.start_worker(**environment)
    except Broken as broken:
        return [Outcome(check, "not run", expected=broken.expected, seen=broken.seen) for check in checks]
    return []


class _Benches:
    """Where checks are run."""

    def __init__(self, command: Sequence[str], settings: Settings, queue: str, directory: Path) -> None:
        self._command = command
        self._settings = settings
        self._queue = queue
        self._directory = directory
        self._free = asyncio.Semaphore(MOST_INSTALLATIONS)

    async def shared(self, chosen: Iterable[Check]) -> list[Outcome]:
        """All at once on one worker, each with a partition of its own; then what closes."""
        beside, closing = _of(chosen, "shared"), _of(chosen, "closing")
        if closing:
            beside = _of(CHECKS, "shared")  # what they look at
        if not beside:
            return []
        async with self._open(len(beside) + 1) as opened:
            cases = [Case(opened, number) for number in range(1, len(beside) + 1)]
            if failed := await _started(Case(opened), beside + closing):
                return failed
            outcomes = await _together(_outcome(check, case) for check, case in zip(beside, cases, strict=True))
            return outcomes + [await _outcome(check, Case(opened)) for check in closing]

    async def narrow(self, chosen: Iterable[Check]) -> list[Outcome]:
        """One after the other on a worker with few slots."""
        if not (one_by_one := _of(chosen, "narrow")):
            return []
        async with self._open(len(one_by_one) + 1) as opened:
            failed = await _started(Case(opened), one_by_one, EVERSTEP_CONCURRENCY=NARROW_SLOTS)
            cases = [Case(opened, number) for number in range(1, len(one_by_one) + 1)]
            return failed or [await _outcome(check, case) for check, case in zip(one_by_one, cases, strict=True)]

    async def own(self, check: Check) -> list[Outcome]:
        async with self._open(OWN_PARTITIONS) as opened:
            return [await _outcome(check, Case(opened))]

    @asynccontextmanager
    async def _open(self, partitions: int) -> AsyncIterator[Installation]:
        async with (
            self._free,
            installation(self._settings, self._queue, partitions, self._command, self._directory) as opened,
        ):
            yield opened
