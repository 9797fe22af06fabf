"""Callbacks: promises that an outside system keeps, whoever holds the token.

The token names the run and the event and ends in a code that follows from the run's nonce, of which the tokens of
activities show only the first half: whoever has the one cannot make the other. It is used once. A completion may come
before the code awaits it, like any other answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from msgspec import Raw

from everstep._core.handles import Handle, fail
from everstep._core.journal import Journal
from everstep._core.model import Identity
from everstep._core.timers import Wakeups, after, instant, micros
from everstep._error_infos import callback_error, message_of
from everstep.errors import WaitTimeout
from everstep_schemas import events, names
from everstep_schemas.events import CallbackCreated

if TYPE_CHECKING:
    from everstep._core.loop import RunLoop

R = TypeVar("R")
PATH = "/api/v1/callbacks"


def token_of(run_key: int, nonce: str, seq: int) -> str:
    """The token of the callback that event `seq` of the run created."""
    secret = blake2b(f"callback/{seq}".encode(), key=nonce.encode()[:64], digest_size=16).hexdigest()
    return str(names.Token(names.shard_of_key(run_key), run_key, seq, 0, secret))


class Callback(Handle[R]):
    """What `ctx.callback` returns: hand `token` or `url` to whoever is to answer, and await it."""

    __slots__ = ("_owner", "_seq", "token", "url")

    _owner: Callbacks
    _seq: int
    token: str
    url: str

    def cancel(self, msg: Any | None = None) -> bool:
        if self.done():
            return False
        self._owner.cancel(self._seq)
        return super().cancel(msg)


class _Open(NamedTuple):
    created: CallbackCreated
    decode: Callable[[Raw], Any]
    handle: Callback[Any]


class Callbacks:
    """The run's open callbacks by number, and who completed those that were."""

    __slots__ = ("_beats", "_identity", "_journal", "_loop", "_open", "_sources", "_url", "_wakeups")

    def __init__(self, identity: Identity, loop: RunLoop, journal: Journal, wakeups: Wakeups, url: str) -> None:
        self._identity = identity
        self._loop = loop
        self._journal = journal
        self._wakeups = wakeups
        self._url = url
        self._open: dict[int, _Open] = {}
        self._beats: dict[int, int] = {}
        self._sources: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self._open)

    def __contains__(self, seq: int) -> bool:
        return seq in self._open

    def __iter__(self) -> Iterator[int]:
        return iter(self._open)

    def with_heartbeats(self) -> Iterator[int]:
        """Those that want to hear from whoever holds them."""
        return (seq for seq, one in self._open.items() if one.created.heartbeat_timeout_seconds is not None)

    # ---- from the author's code

    def create(
        self, decode: Callable[[Raw], Any], deadline: int | None, heartbeat_seconds: float | None
    ) -> Callback[Any]:
        run = self._identity
        token = token_of(run.run_key, run.nonce, self._journal.next_seq)
        seq, created = self._journal.record(
            CallbackCreated(
                token=token,
                url=f"{self._url}{PATH}/{token}",
                deadline=None if deadline is None else instant(deadline),
                heartbeat_timeout_seconds=heartbeat_seconds,
            )
        )
        handle: Callback[Any] = Callback(loop=self._loop)
        handle._owner = self
        handle._seq = seq
        handle.token = created.token
        handle.url = created.url
        self._open[seq] = _Open(created, decode, handle)
        self.heartbeat(seq, self._loop.now)
        return handle

    def cancel(self, seq: int) -> None:
        """Record that nobody waits for it any more."""
        self._journal.record(events.WaitCancelled(ref=seq))
        self._close(seq, "")

    # ---- from outside

    def why_refused(self, seq: int, token: str, value: Raw | None) -> str | None:
        """Why a completion with this `value` (None: a failure) cannot be accepted, or None if it can."""
        found = self._open.get(seq)
        if not self._is_token(seq, token) or (found is None and seq not in self._sources):
            return "no such callback"
        if found is None:
            return "the callback was completed before, or is no longer waited for"
        try:
            if value is not None:
                found.decode(value)
        except BaseException as error:
            return f"the value does not fit: {message_of(error)}"
        return None

    def completed_by(self, seq: int, token: str) -> str | None:
        """The identity of what completed or failed it, for whoever has its token."""
        return self._sources.get(seq) if self._is_token(seq, token) else None

    def _is_token(self, seq: int, token: str) -> bool:
        return token == token_of(self._identity.run_key, self._identity.nonce, seq)

    def completed(self, event: events.CallbackCompleted) -> None:
        found = self._close(event.ref, event.source)
        try:
            value = found.decode(event.value)
        except BaseException as error:
            fail(found.handle, error)
        else:
            found.handle.set_result(value)

    def failed(self, event: events.CallbackFailed) -> None:
        self._close(event.ref, event.source).handle.set_exception(callback_error(event.error))

    def heartbeat(self, seq: int, at: int) -> None:
        """Whoever has the token still works on it. No event: it only moves an instant."""
        self._beats[seq] = max(at, self._beats.get(seq, at))
        if (first := min(self._deadlines(seq), default=None)) is not None:
            self._wakeups.add(seq, first[0])

    def due(self, seq: int) -> events.TimerFired:
        """What happens to the callback because its time has come."""
        return events.TimerFired(ref=seq, heartbeat=min(self._deadlines(seq))[1])

    def elapsed(self, event: events.TimerFired) -> None:
        found = self._close(event.ref, "")
        what = "no heartbeat came in time" if event.heartbeat else "nobody completed it within its timeout"
        found.handle.set_exception(WaitTimeout(f"callback {event.ref}: {what}"))

    def _deadlines(self, seq: int) -> Iterator[tuple[int, bool]]:
        created = self._open[seq].created
        if created.deadline is not None:
            yield micros(created.deadline), False
        if created.heartbeat_timeout_seconds is not None:
            yield after(self._beats[seq], created.heartbeat_timeout_seconds), True

    def _close(self, seq: int, source: str) -> _Open:
        self._wakeups.discard(seq)
        self._beats.pop(seq, None)
        self._sources[seq] = source
        return self._open.pop(seq)
