"""The client's way to an installation in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

import msgspec
from msgspec import UNSET, Raw

from everstep._client.transport import (
    NO_ATTRIBUTES,
    Ended,
    Started,
    callback_refusal,
    may_be_answered,
    refusal,
    update_failure,
    update_refusal,
)
from everstep._core.engine import CannotRun, QueryFailed, StallReason
from everstep._core.payloads import codec_for
from everstep._core.timers import instant
from everstep.errors import QueryError, RunNotFound
from everstep.testing._attempts import microseconds
from everstep.testing._clock import ENDS_A_WAIT
from everstep.testing._installation import CLOSING, Installation
from everstep.testing._pacing import Pacer
from everstep.testing._post import Post
from everstep.testing._problems import Problems, differs
from everstep.testing._runs import StoredRun
from everstep_schemas import events, wire
from everstep_schemas.events import AttributeValue
from everstep_schemas.wire import Lifecycle, LifecycleType

if TYPE_CHECKING:  # brings asyncpg
    from everstep.reads import Filter, HistoryEvent, RunDescription, RunSummary, Stall

_LIST = codec_for(list[object])
_ANSWERS = (events.UpdateCompleted, events.UpdateFailed)
_attributes = msgspec.json.Decoder(dict[str, AttributeValue])


class MemoryTransport:
    """What a client asks is applied when the call returns."""

    def __init__(self, installation: Installation, post: Post, pacer: Pacer, problems: Problems) -> None:
        self.installation = installation
        self._post = post
        self._pacer = pacer
        self._problems = problems
        self._loop = asyncio.get_running_loop()
        # Who waits for the answer to a submission, and for the end of a run.
        self._asking: dict[str, list[asyncio.Future[tuple[str, Lifecycle]]]] = {}
        self._ending: dict[str, list[tuple[int, asyncio.Future[Ended]]]] = {}

    async def open(self) -> None:
        """Nothing to connect to."""

    async def close(self) -> None:
        """The environment closes itself."""

    # ---- what is heard

    def heard(self, type: str, fact: Lifecycle) -> None:
        """A lifecycle record."""
        for asking in self._asking.get(fact.submission_id or "", ()):
            if not asking.done():
                asking.set_result((type, fact))
        if type in CLOSING:
            for run, ending in self._ending.get(fact.workflow_id, ()):
                if not ending.done() and (ended := self._end_of(fact.workflow_id, run)) is not None:
                    ending.set_result(ended)

    def _end_of(self, workflow_id: str, number: int) -> Ended | None:
        """How a run ended, or the last of those that went on with its work, if that is known."""
        for run in self.installation.by_id[workflow_id][number - 1 :]:
            if run.end is None:
                return None
            type, fact = run.end
            if type != LifecycleType.CONTINUED:
                return Ended(workflow_id, fact.run, CLOSING[type], fact.result, fact.error, fact.reason)
        return None

    async def _submit(self, submission: wire.AnySubmission) -> asyncio.Future[tuple[str, Lifecycle]]:
        """Apply a submission; the future has what was answered, if it is answered at once."""
        self._problems.raise_unseen()
        answer: asyncio.Future[tuple[str, Lifecycle]] = self._loop.create_future()
        listening: list[str] = []
        data = wire.encoder.encode(submission)

        def apply() -> None:
            source = self.installation.submit(data)
            listening.append(source)
            self._asking.setdefault(source, []).append(answer)

        await self._post.ask(apply)
        answer.add_done_callback(partial(self._not_asking, listening[0]))
        if not answer.done() and self._post.busy:
            await self._post.ask(_nothing)  # its answer has been delivered before this
        return answer

    def _not_asking(self, source: str, answer: asyncio.Future[tuple[str, Lifecycle]]) -> None:
        asking = self._asking.get(source, [])
        if answer in asking:
            asking.remove(answer)
        if not asking:
            self._asking.pop(source, None)

    # ---- runs

    async def start(self, start: wire.Start) -> Started:
        answer = await self._submit(start)
        if not answer.done():
            raise RuntimeError(f"a start of {start.workflow_id!r} was not answered")
        type, fact = answer.result()
        if type == LifecycleType.SUBMISSION_REJECTED:
            raise refusal(start.workflow_id, fact.reason or "")
        if type == LifecycleType.STALLED:
            self._problems.raise_of(self.find(start.workflow_id, fact.run))
        return Started(fact.run, partial(self.ended, start.workflow_id, fact.run), _nothing)

    async def send(self, submission: wire.Signal | wire.Cancel | wire.Terminate) -> None:
        answer = await self._submit(submission)
        if not answer.done():
            answer.cancel()
            return
        type, fact = answer.result()
        if type == LifecycleType.SUBMISSION_REJECTED:
            raise refusal(submission.workflow_id, fact.reason or "")

    async def ended(self, workflow_id: str, run: int | None = None) -> Ended:
        self._problems.raise_unseen()
        found = self.find(workflow_id, run)
        ended = self._end_of(workflow_id, found.run)
        if ended is not None:
            return ended
        self._problems.raise_of(self.find(workflow_id))
        ending: asyncio.Future[Ended] = self._loop.create_future()
        entry = (found.run, ending)
        self._ending.setdefault(workflow_id, []).append(entry)
        try:
            return await self._pacer.wait(ending, f"the result of run {workflow_id!r}")
        finally:
            self._ending[workflow_id].remove(entry)

    def find(self, workflow_id: str, number: int | None = None) -> StoredRun:
        """A run, the id's newest by default; raises `RunNotFound`."""
        runs = self.installation.by_id.get(workflow_id, [])
        if not runs or not 0 < (number or len(runs)) <= len(runs):
            raise RunNotFound(f"no run has the id {workflow_id!r}", workflow_id=workflow_id)
        return runs[(number or len(runs)) - 1]

    # ---- what runs answer

    async def query(self, workflow_id: str, name: str, args: bytes, run: int | None = None) -> Raw:
        self._problems.raise_unseen()
        found = self.find(workflow_id, run)
        return await self._post.ask(lambda: self._answer(found, name, _LIST.decode(args)))

    def _answer(self, run: StoredRun, name: str, args: list[object]) -> Raw:
        """As in production, asked of a replay of the history that there is."""
        self._problems.raise_of(run)
        try:
            replay = self.installation.engine.replay(run.identity, stays=True)
            for row in run.rows:
                replay.feed(row)
            live = replay.finish()
        except CannotRun as error:
            raise differs(run.identity, error.reason) from None
        try:
            return Raw(live.query(name, args))
        except (QueryFailed, CannotRun) as error:  # the run could be replayed: this is about the query's own code
            raise QueryError(str(error)) from None
        finally:
            live.evict()

    async def update(self, update: wire.Update) -> Raw:
        answer = await self._submit(update)
        try:
            type, fact = await self._pacer.wait(answer, f"the answer to update {update.name!r}")
        finally:
            answer.cancel()
        if type == LifecycleType.SUBMISSION_REJECTED:
            return self._answered_before(update, fact.reason or "")
        if fact.error is not None:
            raise update_failure(update, fact.error)
        return Raw(b"null") if fact.result is UNSET else fact.result

    def _answered_before(self, update: wire.Update, reason: str) -> Raw:
        """As in production, the answer to an update that is refused may stand in the histories of its id."""
        runs = self.installation.by_id.get(update.workflow_id, []) if may_be_answered(reason) else []
        answers = (event for run in reversed(runs) for _, _, event in run.history() if isinstance(event, _ANSWERS))
        answer = next((one for one in answers if one.update_id == update.update_id), None)
        if answer is None:
            raise update_refusal(update, reason)
        if isinstance(answer, events.UpdateFailed):
            raise update_failure(update, answer.error)
        return answer.value

    async def callback(self, submission: wire.CallbackSubmission) -> None:
        answer = await self._submit(submission)
        if not answer.done():
            answer.cancel()
            return
        type, fact = answer.result()
        if type == LifecycleType.SUBMISSION_REJECTED and not self._has_settled(submission):
            raise callback_refusal(fact.reason or "")

    def _has_settled(self, submission: wire.CallbackSubmission) -> bool:
        """Whether it comes again, after it has settled the callback and the run has ended."""
        id = getattr(submission, "submission_id", None)
        return id is not None and self.installation.has_settled(submission.token, id)

    # ---- time

    @asynccontextmanager
    async def limit(self, timeout: timedelta | None) -> AsyncIterator[asyncio.Timeout]:
        limit = asyncio.timeout(None)
        alarm = None
        if timeout is not None:
            at = self.installation.clock.now + microseconds(timeout)
            alarm = self.installation.clock.set(at, lambda: limit.reschedule(self._loop.time()), ENDS_A_WAIT)
        try:
            async with limit:
                yield limit
        finally:
            if alarm is not None:
                alarm.cancel()

    # ---- reading

    async def describe(self, workflow_id: str, run: int | None = None) -> RunDescription:
        return _description(self.find(workflow_id, run))

    async def history(self, workflow_id: str, run: int | None = None) -> AsyncIterator[HistoryEvent]:
        from everstep.reads import HistoryEvent

        for seq, at, event in self.find(workflow_id, run).history():
            yield HistoryEvent(seq, instant(at), event)

    async def runs(
        self,
        workflow: str | None,
        status: Filter | None,
        limit: int | None,
        attributes: Mapping[str, AttributeValue] = NO_ATTRIBUTES,
    ) -> AsyncIterator[RunSummary]:
        newest_first = reversed(list(self.installation.runs()))
        shown = (_description(run) for run in newest_first if workflow in (None, run.workflow))
        fitting = (run for run in shown if _has(run.attributes, attributes))
        wanted = [run for run in fitting if status in (None, run.status, run.condition)]
        for run in wanted[:limit]:
            yield run


def _nothing() -> None:
    """Done."""


def _has(values: Mapping[str, AttributeValue], wanted: Mapping[str, AttributeValue]) -> bool:
    """Whether all are there with these values; of a list, whether its items are among the run's."""
    return all(name in values and _contains(values[name], value) for name, value in wanted.items())


def _contains(value: AttributeValue, wanted: AttributeValue) -> bool:
    if isinstance(value, list) and isinstance(wanted, list):
        return set(wanted) <= set(value)
    return isinstance(value, bool) == isinstance(wanted, bool) and value == wanted


def _description(run: StoredRun) -> RunDescription:
    from everstep.reads import RunDescription, RunRef

    at = None if run.live is None else run.live.wakeup_at()
    parent, started = run.parent, _started(run)
    return RunDescription(
        workflow_id=run.workflow_id,
        run=run.run,
        workflow=run.workflow,
        version=run.version,
        status=run.status,  # type: ignore[arg-type]  # the engine's words for how a run is closed, and "running"
        condition="stalled" if run.problem is not None and run.open else None,
        custom_status=run.custom_status,
        started_at=instant(run.started_at),
        closed_at=None if run.closed_at is None else instant(run.closed_at),
        reason=None if run.stalled is None else _stall(run.stalled),
        next_wakeup_at=None if at is None else instant(at),
        parent=None if parent is None else RunRef(workflow_id=parent.workflow_id, run=parent.run),
        attributes={} if run.attributes is None else _attributes.decode(run.attributes),
        begins_at=None if started is None else started.start_at,
        expires_at=None if started is None else started.expires_at,
        attempt=1 if started is None else started.attempt,
        memo={} if started is None else started.memo,
    )


def _started(run: StoredRun) -> events.Started | None:
    """The first event, of a run whose code could begin."""
    first = events.decode_events(run.rows[0].data)[0] if run.rows else None
    return first if isinstance(first, events.Started) else None


def _stall(reason: StallReason) -> Stall:
    from everstep.reads import Stall

    return Stall(kind=reason.kind, message=reason.message, expected=reason.expected, got=reason.got, seq=reason.seq)
