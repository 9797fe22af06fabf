"""What a run answers: queries, which look, and updates, which change it.

Queries and validators are asked between two steps, and may neither command nor await: they leave no event, so a replay
does not know that they were. An update that its validator lets pass is an input event like a signal; what its handler
returns is a command. A run does what one update id asks for once.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from msgspec import Raw

from everstep._core.activities import too_large
from everstep._core.calls import GoOn
from everstep._core.handles import dropped
from everstep._core.journal import Journal
from everstep._core.payloads import Codec, codec_for
from everstep._core.stepping import outside
from everstep._error_infos import info_of, message_of
from everstep.errors import PayloadError
from everstep_schemas.events import RUN_ENDED, UpdateCompleted, UpdateFailed, UpdateRequested

if TYPE_CHECKING:
    from everstep._core.loop import RunLoop, Task

_ANY: Codec[Any] = codec_for(Any)


class QueryHandler(NamedTuple):
    """What answers a query, and how the answer is written."""

    fn: Callable[..., Any]
    codec: Codec[Any]


class UpdateHandler(NamedTuple):
    """What answers an update. `takes` and `gives` are the codecs of its value and its result."""

    fn: Callable[[Any], Awaitable[Any]]
    validate: Callable[[Any], object] | None
    takes: Codec[Any]
    gives: Codec[Any]


class Refusal(NamedTuple):
    """Why a request has no effect."""

    reason: str


class QueryFailed(Exception):
    """A query has no answer; `unknown`: because the run has none of that name."""

    def __init__(self, message: str, *, unknown: bool = False) -> None:
        super().__init__(message)
        self.unknown = unknown


class Queries:
    """The queries that the code answers, by name."""

    __slots__ = ("_handlers",)

    def __init__(self) -> None:
        self._handlers: dict[str, QueryHandler] = {}

    def add(self, name: str, handler: QueryHandler) -> None:
        self._handlers[name] = handler

    def offer(self, name: str, handler: QueryHandler) -> None:
        """Answer a query unless the code does."""
        self._handlers.setdefault(name, handler)

    def expose(self, values: Mapping[str, object]) -> None:
        """Each value answers the query of its name; one that can be called is called for the answer."""
        for name, value in values.items():
            self._handlers[name] = QueryHandler(value if callable(value) else _constant(value), _ANY)

    def names(self) -> list[str]:
        return sorted(self._handlers)

    def answer(self, name: str, args: list[Any]) -> bytes:
        """The JSON of the answer. Raises `QueryFailed`."""
        handler = self._handlers.get(name)
        if handler is None:
            known = ", ".join(map(repr, self.names())) or "none"
            raise QueryFailed(f"the run answers no query {name!r}; those it answers: {known}", unknown=True)
        try:
            value = handler.fn(*args)
        except BaseException as error:
            raise QueryFailed(f"query {name!r} failed: {type(error).__name__}: {message_of(error)}") from error
        if dropped(value):
            raise QueryFailed(f"query {name!r} awaits something; a query only looks: write `def`, not `async def`")
        try:
            return handler.codec.encode(value)
        except PayloadError as error:
            raise QueryFailed(f"the answer to query {name!r} cannot be written: {error}") from error


def _constant(value: object) -> Callable[[], object]:
    return lambda: value


class Handlers:
    """The handlers of signals and updates that are at work, each a task of the run's loop."""

    __slots__ = ("_loop", "_tasks")

    def __init__(self, loop: RunLoop) -> None:
        self._loop = loop
        self._tasks: set[Task[None]] = set()

    def start(self, handling: Coroutine[Any, Any, None], name: str) -> None:
        task = self._loop.create_task(handling, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def idle(self) -> bool:
        return not self._tasks

    def running(self, task: object) -> bool:
        """Whether `task` is one of them."""
        return task in self._tasks


class Updates:
    """The updates that the code answers, by name, and all that were requested, by id."""

    __slots__ = ("_answers", "_at_work", "_handlers", "_journal", "_limit", "_running", "inherited")

    def __init__(self, at_work: Handlers, journal: Journal, limit: int) -> None:
        self._limit = limit
        self._at_work = at_work
        self._journal = journal
        self._handlers: dict[str, UpdateHandler] = {}
        self._running: dict[int, str] = {}
        self._answers: dict[str, tuple[int, UpdateCompleted | UpdateFailed] | None] = {}
        self.inherited: dict[str, None] = {}

    def __iter__(self) -> Any:
        return iter(self._running)

    def __len__(self) -> int:
        return len(self._running)

    def add(self, name: str, handler: UpdateHandler) -> None:
        self._handlers[name] = handler

    def names(self) -> list[str]:
        return sorted(self._handlers)

    def ids(self) -> list[str]:
        """The ids of all updates that this run or those before it have accepted, oldest first."""
        return [*self.inherited, *self._answers]

    def known(self, update_id: str) -> bool:
        return update_id in self._answers

    def answer(self, update_id: str) -> tuple[int, UpdateCompleted | UpdateFailed] | None:
        """The answer to an update with the number of its event, if there is one yet."""
        return self._answers.get(update_id)

    # ---- between two steps

    def check(self, name: str, value: Raw) -> Refusal | None:
        """Ask the validator; runs the author's code."""
        handler = self._handlers.get(name)
        if handler is None:
            known = ", ".join(map(repr, self.names())) or "none"
            return Refusal(f"the run takes no update {name!r}; those it takes: {known}")
        try:
            decoded = handler.takes.decode(value)
        except BaseException as error:
            return Refusal(f"the value of update {name!r} does not fit: {message_of(error)}")
        if handler.validate is None:
            return None
        try:
            answer = handler.validate(decoded)
        except BaseException as error:
            return Refusal(message_of(error) or type(error).__name__)
        if dropped(answer):
            return Refusal(f"the validator of update {name!r} awaits something; it only looks: write `def`")
        return None

    # ---- within a step

    def begin(self, seq: int, event: UpdateRequested) -> None:
        """Start the handler of an accepted update. Raises `LookupError` if the code has none any more."""
        handler = self._handlers.get(event.name)
        if handler is None:
            raise LookupError(f"the code takes no update {event.name!r}, which history holds")
        self._answers[event.update_id] = None
        self._running[seq] = event.update_id
        self._at_work.start(self._handle(seq, event, handler), f"update {event.name}")

    async def _handle(self, seq: int, event: UpdateRequested, handler: UpdateHandler) -> None:
        try:
            result = handler.gives.encode(await handler.fn(handler.takes.decode(event.value)))
            if len(result) > self._limit and not self._journal.follows(UpdateCompleted):
                raise PayloadError("$", too_large(f"the answer to update {event.name!r}", len(result), self._limit))
        except GoOn:
            raise
        except BaseException as error:
            if not self._journal.is_open:
                raise
            with outside():
                info = info_of(error)
            self._end(seq, UpdateFailed(ref=seq, update_id=event.update_id, error=info))
        else:
            self._end(seq, UpdateCompleted(ref=seq, update_id=event.update_id, value=Raw(result)))

    def _end(self, seq: int, answer: UpdateCompleted | UpdateFailed) -> None:
        number, recorded = self._journal.record(answer)
        self._answers[recorded.update_id] = (number, recorded)
        del self._running[seq]

    def close_all(self) -> None:
        """The run closes: whoever waits for an answer is told."""
        for seq, update_id in list(self._running.items()):
            self._end(seq, UpdateFailed(ref=seq, update_id=update_id, error=RUN_ENDED))
