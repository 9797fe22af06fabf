"""The runs that a run has started and waits for, and what it asks of runs that it has not.

A child is known by its id and by the event that started it. Its end comes as an answer to that event, from whichever
run of the id carries on with its work. Once its parent no longer waits for it, a child is cancelled, terminated or left
alone; the parent asks and does not wait for that.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, overload

from msgspec import UNSET, Raw

from everstep._core.activities import check_size, too_large
from everstep._core.calls import ChildCall
from everstep._core.handles import Handle, fail
from everstep._core.journal import Journal
from everstep._core.model import Identity
from everstep._core.texts import check_name, check_text
from everstep._error_infos import child_error, request_error
from everstep.errors import PayloadError
from everstep.signals import Signal, encoded
from everstep_schemas import events
from everstep_schemas.events import ChildCancelled, ChildStarted, OnParentClose
from everstep_schemas.names import MAX_NAME_BYTES

if TYPE_CHECKING:
    from everstep._core.loop import RunLoop

R = TypeVar("R")
T = TypeVar("T")


class ChildHandle(Handle[R]):
    """A child run: await its result, signal it, cancel it."""

    __slots__ = ("_children", "_seq", "id")

    _children: Children
    _seq: int
    id: str

    @overload
    def signal(self, signal: Signal[T], value: T, /, *, signal_id: str | None = None) -> Handle[None]: ...
    @overload
    def signal(self, signal: str, value: Any = None, /, *, signal_id: str | None = None) -> Handle[None]: ...
    def signal(self, signal: Signal[Any] | str, value: Any = None, /, *, signal_id: str | None = None) -> Handle[None]:
        """Send the child a signal; the handle is done once it has reached it."""
        return self._children.requests.signal(self.id, signal, value, signal_id)

    def cancel(self, msg: Any | None = None) -> bool:
        if self.done():
            return False
        self._children.cancel(self._seq, "cancel")
        return super().cancel(msg)


class RequestHandle(Handle[None]):
    """Something asked of another run: done once it has reached it."""

    __slots__ = ("_requests", "_seq")

    _requests: Requests
    _seq: int

    def cancel(self, msg: Any | None = None) -> bool:
        if self.done():
            return False
        self._requests.cancel(self._seq)
        return super().cancel(msg)


class Child(NamedTuple):
    """A child without an end."""

    started: ChildStarted
    call: ChildCall
    handle: ChildHandle[Any]


class Children:
    """The run's pending children by number. `limit` is the most bytes that arguments may take."""

    __slots__ = ("_identity", "_journal", "_limit", "_loop", "_pending", "requests")

    def __init__(self, identity: Identity, loop: RunLoop, journal: Journal, limit: int) -> None:
        self._identity = identity
        self._loop = loop
        self._journal = journal
        self._limit = limit
        self._pending: dict[int, Child] = {}
        self.requests = Requests(loop, journal, limit)

    def __len__(self) -> int:
        return len(self._pending)

    def __contains__(self, seq: int) -> bool:
        return seq in self._pending

    def __iter__(self) -> Any:
        return iter(self._pending)

    # ---- from the author's code

    def start(self, call: ChildCall) -> ChildHandle[Any]:
        """Record the call. Raises `PayloadError` if its arguments are too large."""
        check_size(f"the arguments of workflow {call.workflow!r}", call, self._limit, self._journal, ChildStarted)
        seq, started = self._journal.record(
            ChildStarted(
                workflow=call.workflow,
                workflow_id=call.id or self._derived_id(self._journal.next_seq),
                args=Raw(call.args),
                kwargs=UNSET if call.kwargs is None else Raw(call.kwargs),
                version=call.version,
                timeout_seconds=call.timeout_seconds,
                on_parent_close=call.on_parent_close,
            )
        )
        handle: ChildHandle[Any] = ChildHandle(loop=self._loop)
        handle._children = self
        handle._seq = seq
        handle.id = started.workflow_id
        self._pending[seq] = Child(started, call, handle)
        return handle

    def _derived_id(self, seq: int) -> str:
        """An id that no other run has, unless somebody wants that: parent, its run and the event's number."""
        run = self._identity
        id = f"{run.workflow_id}/{run.run}/{seq}"
        if len(id.encode()) <= MAX_NAME_BYTES:
            return id
        return f"{blake2b(run.workflow_id.encode(), digest_size=16).hexdigest()}/{run.run}/{seq}"

    def cancel(self, seq: int, how: OnParentClose) -> None:
        """Record that nobody waits for the child any more, and what becomes of it."""
        workflow_id = self._pending[seq].started.workflow_id
        self._journal.record(ChildCancelled(ref=seq, workflow_id=workflow_id, how=how))
        del self._pending[seq]

    def close_all(self) -> None:
        """The run closes: each child is dealt with as was said when it was started."""
        for seq, child in list(self._pending.items()):
            self.cancel(seq, child.started.on_parent_close)

    # ---- from input events

    def completed(self, event: events.ChildCompleted) -> None:
        child = self._pending.pop(event.ref)
        try:
            value = child.call.decode(event.value)
        except PayloadError as error:
            fail(child.handle, error.saying(f"the result of child run {child.started.workflow_id!r} does not fit"))
        except BaseException as error:
            fail(child.handle, error)
        else:
            child.handle.set_result(value)

    def failed(self, event: events.ChildFailed) -> None:
        child = self._pending.pop(event.ref)
        child.handle.set_exception(
            child_error(child.started.workflow_id, event.run, event.status, event.error, event.reason)
        )


class Requests:
    """What was asked of other runs and is not known to have reached them, by number."""

    __slots__ = ("_journal", "_limit", "_loop", "_pending")

    def __init__(self, loop: RunLoop, journal: Journal, limit: int) -> None:
        self._limit = limit
        self._loop = loop
        self._journal = journal
        self._pending: dict[int, tuple[str, RequestHandle]] = {}

    def __contains__(self, seq: int) -> bool:
        return seq in self._pending

    def __len__(self) -> int:
        return len(self._pending)

    def __iter__(self) -> Any:
        return iter(self._pending)

    def signal(self, workflow_id: str, signal: Signal[Any] | str, value: Any, signal_id: str | None) -> RequestHandle:
        """Record a signal to a run. Raises `ValueError` for a bad id, `PayloadError` for a value that does not fit."""
        name, raw = encoded(signal, value)
        check_name("workflow id", workflow_id)
        check_name("signal", name)
        if len(raw) > self._limit and not self._journal.follows(events.SignalSent):
            raise PayloadError("$", too_large(f"the value of signal {name!r}", len(raw), self._limit))
        if signal_id is not None:
            check_name("signal_id", signal_id)
        sent = events.SignalSent(workflow_id=workflow_id, name=name, value=Raw(raw), signal_id=signal_id or "")
        return self._sent(workflow_id, sent)

    def cancel_run(self, workflow_id: str, reason: str) -> RequestHandle:
        """Record that a run is asked to end."""
        check_name("workflow id", workflow_id)
        check_text("external(…).cancel: the reason", reason)
        return self._sent(workflow_id, events.CancelSent(workflow_id=workflow_id, reason=reason))

    def _sent(self, workflow_id: str, command: events.SignalSent | events.CancelSent) -> RequestHandle:
        seq, _ = self._journal.record(command)
        handle = RequestHandle(loop=self._loop)
        handle._requests = self
        handle._seq = seq
        self._pending[seq] = (workflow_id, handle)
        return handle

    def cancel(self, seq: int) -> None:
        """Record that nobody waits for the answer; what was sent stays sent."""
        self._journal.record(events.WaitCancelled(ref=seq))
        del self._pending[seq]

    def answered(self, event: events.RequestAnswered) -> None:
        workflow_id, handle = self._pending.pop(event.ref)
        if event.error is None:
            handle.set_result(None)
        else:
            handle.set_exception(request_error(workflow_id, event.error))
