"""What a check works with: one partition of a queue, commands, and what workers are expected to say of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from everstep.conformance._commands import Sent
from everstep.conformance._hearing import Answer, Hearing
from everstep.conformance._installation import Installation
from everstep.conformance._process import WorkerProcess
from everstep_schemas.errors import ErrorInfo
from everstep_schemas.wire import ActivityCompleted, ActivityFailed, ActivityStarted

T = TypeVar("T")

PATIENCE_SECONDS = 20.0
START_SECONDS = 60.0
_POLL_SECONDS = 0.1
MOST_SHOWN = 1_000


class Broken(Exception):
    """A rule is broken: what it made one expect, and what was seen."""

    def __init__(self, expected: str, seen: str) -> None:
        super().__init__(f"expected {expected}; seen: {seen}")
        self.expected = expected
        self.seen = seen


def expect(holds: object, expected: str, seen: object) -> None:
    if not holds:
        raise Broken(expected, str(seen))


class Case:
    """One check's view of an installation: commands go to its own `partition`, unless it says another one."""

    def __init__(self, installation: Installation, partition: int = 0) -> None:
        self.installation = installation
        self.partition = partition

    @property
    def hearing(self) -> Hearing:
        return self.installation.hearing

    # ---- towards workers

    async def start_worker(self, **environment: object) -> WorkerProcess:
        """A worker, once it answers a command that was there before it. Raises `Broken` if it does not."""
        hello = await self.send("echo", "hello")
        worker = await self.installation.start_worker(**environment)

        def seen() -> bool:
            return worker.has_ended or bool(self.hearing.answers(hello.token))

        await self.hearing.until(seen, START_SECONDS)
        expect(
            self.hearing.answers(hello.token),
            "a worker that starts, and answers the command `echo` that lies in its queue",
            self.seen(hello),
        )
        return worker

    async def send(self, activity: str, *args: object, partition: int | None = None, **fields: Any) -> Sent:
        """A command; `fields` are those of `ActivityCommand`, `kwargs` given as a dict."""
        command = self.installation.commands.make(activity, *args, **fields)
        return await self.installation.send(command, self.partition if partition is None else partition)

    async def send_again(self, sent: Sent, partition: int | None = None) -> Sent:
        """The same command once more."""
        return await self.installation.send(sent.known, self.partition if partition is None else partition)

    async def cancel(self, sent: Sent) -> None:
        await self.installation.control("cancel", sent.token)

    async def drop(self, sent: Sent) -> None:
        await self.installation.control("drop", sent.token)

    # ---- from workers

    async def answer(self, sent: Sent) -> Answer:
        """The first answer to a command."""
        found = await self.heard(lambda: self.hearing.answers(sent.token), sent, f"an answer to {sent}")
        return found[0]

    async def value_of(self, sent: Sent) -> Any:
        """What the activity returned."""
        answer = await self.answer(sent)
        if not isinstance(answer, ActivityCompleted):
            raise Broken(f"{sent} to complete", self.seen(sent))
        return msgspec.json.decode(bytes(answer.value))

    async def failure_of(self, sent: Sent) -> ActivityFailed:
        answer = await self.answer(sent)
        if not isinstance(answer, ActivityFailed):
            raise Broken(f"{sent} to fail", self.seen(sent))
        return answer

    async def error_of(self, sent: Sent) -> ErrorInfo:
        """Why the activity failed."""
        return (await self.failure_of(sent)).error

    async def check_out_of(self, sent: Sent, what: str) -> ActivityStarted:
        """That an attempt was checked out."""
        found = await self.heard(lambda: self.hearing.check_outs(sent.token), sent, what)
        return found[0]

    async def heard(self, found: Callable[[], T], about: Sent, expected: str) -> T:
        """What `found` gives once it gives something."""
        something = await self.hearing.until(lambda: found() or None, PATIENCE_SECONDS)
        if something is None:
            raise Broken(f"{expected} within {PATIENCE_SECONDS:g} s", self.seen(about))
        return something

    async def until_passed(self, sent: Sent, why: str) -> None:
        """Returns when the group's committed offset has passed the command."""
        committed = -1
        for _ in range(round(PATIENCE_SECONDS / _POLL_SECONDS)):
            committed = (await self.installation.committed())[sent.partition]
            if committed > sent.offset:
                return
            await asyncio.sleep(_POLL_SECONDS)
        expected = f"the committed offset to pass {sent} within {PATIENCE_SECONDS:g} s, since {why}"
        raise Broken(expected, f"it is {committed}; {self.seen(sent)}")

    async def expect_unanswered(self, sent: Sent, why: str) -> None:
        """Nothing that was said so far answers the command."""
        await self.hearing.caught_up(PATIENCE_SECONDS)
        expect(not self.hearing.answers(sent.token), f"no answer to {sent}, since {why}", self.seen(sent))

    def seen(self, sent: Sent) -> str:
        """What was said of an attempt, or why nothing was."""
        said = [heard.value.decode(errors="replace")[:MOST_SHOWN] for heard in self.hearing.about(sent.token)]
        if said:
            return "\n".join(said)
        workers = self.installation.workers
        ended = [worker for worker in workers if worker.has_ended]
        state = f"{len(ended)} of {len(workers)} workers have ended" if ended else f"{len(workers)} workers run"
        return f"nothing was said of it; {state}; the last one wrote:\n{workers[-1].tail() if workers else 'nothing'}"
