"""What an activity can ask and say about the attempt that runs it: `activity.info().idempotency_key`.

Who runs an attempt says so in a context variable, which threads that it starts inherit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

from msgspec import Raw

from everstep._core.payloads import codec_for
from everstep.errors import PayloadError

if TYPE_CHECKING:
    from typing_extensions import TypeForm

T = TypeVar("T")

MOST_BYTES = 1 << 20  # of a heartbeat's details, where no worker says what EVERSTEP_MAX_PAYLOAD_BYTES is


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivityInfo:
    """One attempt of an activity.

    `idempotency_key` is the same for every attempt and repetition of this call, and never that of another call: give it
    to the systems that the activity changes. `attempt` counts from 1. After `deadline` (UTC) nobody waits any more.
    """

    workflow_id: str
    run: int
    seq: int
    attempt: int
    idempotency_key: str
    deadline: datetime | None = None


@dataclass(frozen=True, slots=True)
class _Running:
    info: ActivityInfo
    is_cancelled: Callable[[], bool]
    heartbeat: Callable[[Any, bytes | None], None]
    last_heartbeat: bytes | Raw | None
    most_bytes: int


_running: ContextVar[_Running] = ContextVar("everstep_activity")


def info() -> ActivityInfo:
    """The attempt that runs here; `RuntimeError` outside of an activity."""
    return _current("activity.info()").info


def is_cancelled() -> bool:
    """Whether nobody waits for this attempt any more; a plain function (in a thread) asks and returns early.

    `async` activities need not ask: they are cancelled at their next `await`. `RuntimeError` outside of an activity.
    """
    return _current("activity.is_cancelled()").is_cancelled()


def heartbeat(details: Any = None, /) -> None:
    """Says that the attempt gets on, and with `details` how far it is: the next attempt finds them if this one fails.

    Call it as often as you like, at the least once per heartbeat timeout: it is cheap and never waits. The worker
    passes on the latest now and then, and tries again if Kafka is away. Details stay until others are given.
    `PayloadError` if they cannot be JSON or are larger than a payload may be, `RuntimeError` outside of an activity.
    """
    running = _current("activity.heartbeat()")
    running.heartbeat(details, None if details is None else _encoded(details, running.most_bytes))


def last_heartbeat(type: TypeForm[T], /) -> T | None:
    """What an attempt before this one last gave as details of a heartbeat, or None: where to go on.

    `PayloadError` if that is no `type`, as after a deploy that changed it. `RuntimeError` outside of an activity.
    """
    said = _current("activity.last_heartbeat()").last_heartbeat
    if said is None or bytes(said) == b"null":
        return None
    try:
        value: T = codec_for(type).decode(said)
    except PayloadError as error:
        raise PayloadError(error.path, f"the details of the last heartbeat do not fit: {error.reason}") from None
    return value


def _encoded(details: Any, most_bytes: int) -> bytes:
    try:
        encoded: bytes = codec_for(Any).encode(details)
    except PayloadError as error:
        raise PayloadError(error.path, f"the details of a heartbeat: {error.reason}") from None
    if len(encoded) > most_bytes:
        raise PayloadError(
            "$",
            f"the details of a heartbeat would take {len(encoded)} bytes, and {most_bytes} are allowed "
            "(EVERSTEP_MAX_PAYLOAD_BYTES): say how far the activity is, and store the data itself elsewhere",
        )
    return encoded


def _current(question: str) -> _Running:
    running = _running.get(None)
    if running is None:
        raise RuntimeError(
            f"{question} was called outside of an activity: only code that a worker runs as one has an attempt. "
            "A workflow has `ctx.info`; a test can say `with activity.running(ActivityInfo(…)):`"
        )
    return running


def _unheard(details: Any, encoded: bytes | None) -> None:
    """Nobody listens."""


@contextmanager
def running(
    info: ActivityInfo,
    is_cancelled: Callable[[], bool] = lambda: False,
    *,
    heartbeat: Callable[[Any, bytes | None], None] = _unheard,
    last_heartbeat: bytes | Raw | None = None,
    most_bytes: int = MOST_BYTES,
) -> Iterator[None]:
    """Within, this module speaks of this attempt: for workers, and for tests of an activity alone.

    `heartbeat` is told the details of each heartbeat, as they are and as JSON, None for one without; it may be called
    from any thread. `last_heartbeat` is the JSON that an attempt before this one left, `most_bytes` what details may
    take.
    """
    token = _running.set(_Running(info, is_cancelled, heartbeat, last_heartbeat, most_bytes))
    try:
        yield
    finally:
        _running.reset(token)
