"""What `@app.workflow` makes of a function: a durable function.

Calling it inside a workflow starts a child run and returns a handle to await; a client starts it with `Client.start`.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, TypeVar, cast

from msgspec import Raw, UnsetType

from everstep._checks import check_child, check_function, check_version, check_workflow, context_parameter
from everstep._core import scope
from everstep._core.arguments import Arguments, encode_any
from everstep._core.calls import ActivityCall, ChildCall, Continuation
from everstep._core.children import ChildHandle
from everstep._core.payloads import codec_for
from everstep._options import BUILT_IN, Options, in_seconds
from everstep.definitions import times_of
from everstep.errors import RegistrationError
from everstep.retry import Retry
from everstep_schemas.events import OnParentClose, RetryPolicy
from everstep_schemas.names import why_bad_name

if TYPE_CHECKING:
    from everstep.context import Context

P = ParamSpec("P")
R = TypeVar("R")

_SAME: Any = object()


@dataclass(frozen=True, slots=True)
class ChildOptions:
    """How a workflow runs as a child, or goes on as new: without a `version` the newest there is."""

    id: str | None = None
    version: int | None = None
    on_parent_close: OnParentClose = "terminate"
    timeout: timedelta | None = None


class Workflow(Generic[P, R]):
    """A durable function. `Client.start(workflow, …, id=…)` runs it; `fn` is the plain function.

    Calling it in a workflow starts a child run and returns a handle to await. A child that ends without a result is
    a `ChildError` there.
    """

    fn: Callable[Concatenate[Context, P], Coroutine[Any, Any, R]]

    def __init__(
        self,
        fn: Callable[Concatenate[Context, P], Coroutine[Any, Any, R]],
        *,
        name: str,
        version: int = 1,
        options: Options = BUILT_IN,
        timeout: timedelta | None = None,
        retry: Retry | None = None,
    ) -> None:
        check_function(fn, "workflow", name)
        owner = f"workflow {name!r}"
        check_version(version, owner)
        check_workflow(timeout, retry, owner)
        self.fn = fn
        self.name = name
        self.version = version
        self.timeout = timeout
        self.retry = retry
        self._arguments = Arguments(fn, owner, omitted=(context_parameter(fn, owner),))
        self._options = options
        self._child = ChildOptions()
        functools.update_wrapper(self, fn)

    @property
    def timeout_seconds(self) -> float | None:
        """How long a run may take, all its attempts together; None for ever."""
        return in_seconds(self.timeout)

    @property
    def retry_policy(self) -> RetryPolicy | None:
        """How often a run that fails is begun anew; None: never."""
        return None if self.retry is None else self.retry.policy() or RetryPolicy()

    def may_retry(self, error: BaseException) -> bool:
        """Whether the author's policy lets a run that fails so be begun again."""
        retry = self.retry
        if retry is None or retry.gives_up_on(error):
            return False
        return retry.retry_if is None or bool(retry.retry_if(error))

    def options(
        self,
        *,
        id: str = _SAME,
        version: int = _SAME,
        on_parent_close: OnParentClose = _SAME,
        timeout: timedelta = _SAME,
    ) -> Workflow[P, R]:
        """The same workflow with other options, for one child: `await load_table.options(id="load-a")(a)`.

        `on_parent_close` says what becomes of a child that is still running when its parent ends: it is terminated,
        unless this says `"cancel"` or `"abandon"`. `timeout` limits its run.
        """
        given: dict[str, Any] = {"id": id, "version": version, "on_parent_close": on_parent_close, "timeout": timeout}
        child = replace(self._child, **{name: one for name, one in given.items() if one is not _SAME})
        check_child(child.id, child.version, child.on_parent_close, child.timeout, f"workflow {self.name!r}")
        other = copy.copy(self)
        other._child = child
        return other

    @property
    def wanted_version(self) -> int | None:
        """The version that `options` ask for."""
        return self._child.version

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> ChildHandle[R]:
        run = scope.current()
        if run is None:
            raise TypeError(
                f"workflow {self.name!r} was called like a function: start a run with "
                f"`await client.start({self.fn.__name__}, …, id=…)`, see Client.start"
            )
        positional, named = self._arguments.encode(args, kwargs)
        child = self._child
        return run.start_child(
            ChildCall(
                workflow=self.name,
                args=positional,
                kwargs=named,
                decode=self._arguments.result.decode,
                id=child.id,
                version=child.version,
                timeout_seconds=in_seconds(child.timeout),
                on_parent_close=child.on_parent_close,
            )
        )

    def continuation(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Continuation:
        """What it takes to go on with this workflow as a new run."""
        positional, named = self._arguments.encode(args, kwargs)
        return Continuation(self.name, positional, named, self._child.version, in_seconds(self._child.timeout))

    def activity_call(
        self,
        name: str,
        args: tuple[Any, ...],
        *,
        queue: str | None = None,
        timeout: timedelta | None = None,
        retry: Retry | None = None,
        returns: Any = Any,
    ) -> ActivityCall:
        """A call of an activity that is known by its name alone, with the app's options for what is not given."""
        given: object = name
        if not isinstance(given, str):
            raise TypeError(
                f"ctx.activity takes the name of an activity, not {given!r}: one that is known here is called"
            )
        options = self._options.with_given(queue=queue, retry=retry, timeout=timeout)
        options.check(f"activity {name!r}")
        if problem := why_bad_name(name):
            raise RegistrationError(f"activity {name!r}: the name {problem}")
        return ActivityCall(
            name=name,
            queue=options.queue,
            args=encode_any(args, f"activity {name!r}"),
            kwargs=None,
            retry=options.retry.policy(),
            decode=codec_for(returns).decode,
            raises={},
            **times_of(options)._asdict(),
        )

    def encode_args(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[bytes, bytes | None]:
        """The arguments without `ctx` as JSON; `TypeError` or `PayloadError` for what does not fit."""
        return self._arguments.encode(args, kwargs)

    def decode_args(
        self, args: bytes | Raw, kwargs: bytes | Raw | UnsetType | None = None
    ) -> tuple[list[Any], dict[str, Any]]:
        """The arguments without `ctx`; `PayloadError` for what does not fit."""
        return self._arguments.decode(args, kwargs)

    def encode_result(self, value: Any) -> bytes:
        """The JSON of what `fn` returned; `PayloadError` if it does not fit the annotation."""
        return self._arguments.encode_result(value)

    def decode_result(self, raw: bytes | Raw) -> R:
        """What a run returned; `PayloadError` if it does not fit the annotation."""
        return cast("R", self._arguments.result.decode(raw))

    def __repr__(self) -> str:
        return f"<workflow {self.name!r} version {self.version}>"
