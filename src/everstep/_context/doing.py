"""What a run does: activities, children, other runs, many things at once, and saying what it is about."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any, NoReturn, ParamSpec, TypeVar, overload

from typing_extensions import TypeVarTuple, Unpack

from everstep._checks import check_child
from everstep._context.waiting import Waiting
from everstep._core.arguments import encode_any
from everstep._core.calls import ChildCall
from everstep._core.children import ChildHandle, Requests
from everstep._core.handles import Handle
from everstep._core.payloads import codec_for
from everstep._fanout import Failures, MapHandle, MapResult, start_batches, start_map
from everstep._patterns import first, poll, retried
from everstep._saga import Saga
from everstep.durations import Duration
from everstep.errors import RegistrationError
from everstep.retry import Backoff, Retry
from everstep.workflows import Workflow
from everstep_schemas.events import OnParentClose
from everstep_schemas.names import why_bad_name

if TYPE_CHECKING:
    from typing_extensions import TypeForm

    from everstep.signals import Signal

T = TypeVar("T")
A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
R = TypeVar("R")
P = ParamSpec("P")
Ts = TypeVarTuple("Ts")

_OWN: Any = object()  # as the workflow's options say


class External:
    """Another run, known by its id: the one that is open when what is sent reaches it."""

    __slots__ = ("_requests", "_workflow_id")

    def __init__(self, requests: Requests, workflow_id: str) -> None:
        self._requests = requests
        self._workflow_id = workflow_id

    @overload
    def signal(self, signal: Signal[T], value: T, /, *, signal_id: str | None = None) -> Handle[None]: ...
    @overload
    def signal(self, signal: str, value: Any = None, /, *, signal_id: str | None = None) -> Handle[None]: ...
    def signal(self, signal: Signal[Any] | str, value: Any = None, /, *, signal_id: str | None = None) -> Handle[None]:
        """Send it a signal, once. The handle is done when it has reached the run; `RunNotFound` if there is none,
        `Rejected` if it has ended.
        """
        return self._requests.signal(self._workflow_id, signal, value, signal_id)

    def cancel(self, reason: str = "") -> Handle[None]:
        """Ask it to end. The handle is done when it knows; errors as for `signal`."""
        return self._requests.cancel_run(self._workflow_id, reason)


class Doing(Waiting):
    """What a run does."""

    __slots__ = ()

    # ---- activities and children

    @overload
    def activity(
        self,
        name: str,
        /,
        *args: Any,
        queue: str | None = None,
        timeout: Duration | None = None,
        retry: Retry | None = None,
        returns: TypeForm[T],
    ) -> Handle[T]: ...
    @overload
    def activity(
        self,
        name: str,
        /,
        *args: Any,
        queue: str | None = None,
        timeout: Duration | None = None,
        retry: Retry | None = None,
    ) -> Handle[Any]: ...
    def activity(
        self,
        name: str,
        /,
        *args: Any,
        queue: str | None = None,
        timeout: Duration | None = None,
        retry: Retry | None = None,
        returns: Any = Any,
    ) -> Handle[Any]:
        """Schedule an activity by its name alone; its code may be elsewhere, in any language.

        Without `queue`, `timeout` and `retry` those of the workflow's app hold; `returns` is the type of the result.
        """
        scope = self._acting("activity")
        return scope.schedule_activity(
            self._code.activity_call(name, args, queue=queue, timeout=timeout, retry=retry, returns=returns)
        )

    @overload
    def child(
        self,
        workflow: Callable[[Unpack[Ts]], ChildHandle[R]],
        /,
        *args: *Ts,
        id: str | None = None,
        on_parent_close: OnParentClose = _OWN,
    ) -> ChildHandle[R]: ...
    @overload
    def child(
        self,
        workflow: str,
        /,
        *args: Any,
        returns: TypeForm[T],
        id: str | None = None,
        on_parent_close: OnParentClose = _OWN,
    ) -> ChildHandle[T]: ...
    @overload
    def child(
        self, workflow: str, /, *args: Any, id: str | None = None, on_parent_close: OnParentClose = _OWN
    ) -> ChildHandle[Any]: ...
    def child(  # type: ignore[misc]  # mypy does not see that `*args: Any` takes `*Ts`
        self,
        workflow: Any,
        /,
        *args: Any,
        returns: Any = Any,
        id: str | None = None,
        on_parent_close: OnParentClose = _OWN,
    ) -> ChildHandle[Any]:
        """Start a run of another workflow as a child of this one, also by its name alone.

        Without an `id` it gets one that follows from this run's. `on_parent_close` says what becomes of it if it is
        still running when this run ends: `"terminate"`, unless this or the workflow's `options` say otherwise,
        `"cancel"` or `"abandon"`. Awaiting it raises `ChildError` if it ends without a result, or if its id has a run.
        """
        scope = self._acting("child")
        if not isinstance(workflow, str):
            _check_workflow("child", workflow)
            given = {"id": id, "on_parent_close": on_parent_close}
            options = {name: one for name, one in given.items() if one is not None and one is not _OWN}
            handle: ChildHandle[Any] = (workflow.options(**options) if options else workflow)(*args)
            return handle
        if on_parent_close is _OWN:
            on_parent_close = "terminate"
        owner = f"workflow {workflow!r}"
        if problem := why_bad_name(workflow):
            raise RegistrationError(f"{owner}: the name {problem}")
        check_child(id, None, on_parent_close, None, owner)
        return scope.start_child(
            ChildCall(
                workflow=workflow,
                args=encode_any(args, owner),
                kwargs=None,
                decode=codec_for(returns).decode,
                id=id,
                on_parent_close=on_parent_close,
            )
        )

    def external(self, workflow_id: str, /) -> External:
        """Any other run, to signal or to cancel."""
        return External(self._acting("external").children.requests, workflow_id)

    def continue_as_new(self, workflow: Workflow[P, Any], /, *args: P.args, **kwargs: P.kwargs) -> NoReturn:
        """End this run and go on as the next one of the same id, with new arguments and an empty history.

        Signals that were not received, attributes, memo and the parent's waiting go along. The new run takes the
        newest version of `workflow` unless its `options(version=…)` name one. What is pending here is cancelled. Called
        by a task beside the function, such as a signal's handler, it breaks the function off as a cancellation does.
        """
        _check_workflow("continue_as_new", workflow)
        self._acting("continue_as_new").go_on(workflow.continuation(args, kwargs))

    # ---- many things

    @overload
    def map(
        self, fn: Callable[[T], Awaitable[R]], items: Iterable[T], /, *, concurrency: int | None = None
    ) -> MapHandle[T, R, list[R]]: ...
    @overload
    def map(
        self,
        fn: Callable[[T], Awaitable[R]],
        items: Iterable[T],
        /,
        *,
        concurrency: int | None = None,
        tolerate: Failures,
        enough: int | None = None,
    ) -> MapHandle[T, R, MapResult[T, R]]: ...
    @overload
    def map(
        self,
        fn: Callable[[T], Awaitable[R]],
        items: Iterable[T],
        /,
        *,
        concurrency: int | None = None,
        enough: int,
    ) -> MapHandle[T, R, MapResult[T, R]]: ...
    def map(
        self,
        fn: Callable[[T], Awaitable[R]],
        items: Iterable[T],
        /,
        *,
        concurrency: int | None = None,
        tolerate: Failures | None = None,
        enough: int | None = None,
    ) -> MapHandle[T, R, Any]:
        """Call an activity, a workflow or an `async` function on each item, `concurrency` at a time (all, without it).

        Awaiting gives the results in the order of the items. The first failure cancels the rest and is raised, unless
        `tolerate` or `enough` are given: then awaiting gives a `MapResult`, with the error of each item that failed.
        More failures than tolerated, or too many for `enough` successes, cancel the rest and raise `MapError`; once
        there are `enough`, the rest is cancelled. `async for` gives each item as it ends. How far it is can be queried
        as `progress`.
        """
        return start_map(self._acting("map"), fn, items, concurrency=concurrency, tolerate=tolerate, enough=enough)

    def map_batches(
        self,
        fn: Callable[[list[T]], Awaitable[list[R]]],
        items: Iterable[T],
        /,
        *,
        size: int,
        concurrency: int | None = None,
    ) -> MapHandle[list[T], list[R], list[R]]:
        """Call `fn` on lists of up to `size` items; awaiting gives all results in one list, in order."""
        return start_batches(self._acting("map_batches"), fn, items, size=size, concurrency=concurrency)

    @overload
    def first(self, a: Awaitable[A], b: Awaitable[B], /) -> Handle[A | B]: ...
    @overload
    def first(self, a: Awaitable[A], b: Awaitable[B], c: Awaitable[C], /) -> Handle[A | B | C]: ...
    @overload
    def first(self, *calls: Awaitable[T]) -> Handle[T]: ...
    def first(self, *calls: Awaitable[Any]) -> Handle[Any]:
        """What the first of these to end gives or raises; the others are cancelled."""
        return first(self._acting("first"), calls)

    def poll(
        self,
        call: Callable[[], Awaitable[R]],
        /,
        *,
        until: Callable[[R], bool],
        every: Backoff = Backoff(),  # noqa: B008 - it is immutable
        timeout: Duration | None = None,
    ) -> Handle[R]:
        """Call again and again, with pauses as in `every`, until `until` is true of the result, and give that.

        After `timeout` it raises `WaitTimeout`; a call under way is then cancelled.
        """
        deadline = None if timeout is None else self._after("poll", timeout)
        return poll(self._acting("poll"), call, until, every, deadline)

    def retry(self, fn: Callable[[], Awaitable[R]], retry: Retry, /) -> Handle[R]:
        """Run a whole block again, as `retry` says, when it raises: `await ctx.retry(pay_and_ship, Retry(…))`.

        Its activities have retries of their own, which come first. Cancellation is not retried.
        """
        return retried(self._acting("retry"), fn, retry)

    def saga(self) -> Saga:
        """Steps that are undone in reverse if a later one fails: `async with ctx.saga() as saga`."""
        return Saga(self._acting("saga"))

    # ---- saying

    def set_status(self, text: str, /) -> None:
        """Say in words what the run is doing; shown wherever runs are listed, and published."""
        self._acting("set_status").set_status(text)

    def milestone(self, text: str, /) -> None:
        """Say that something has been reached: kept in the history, and published."""
        self._acting("milestone").milestone(text)


def _check_workflow(use: str, workflow: object) -> None:
    if not isinstance(workflow, Workflow):
        raise TypeError(f"ctx.{use} needs a workflow, not {workflow!r}")
