"""What the engine needs of others, by use."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Protocol

from everstep._core.calls import ActivityCall
from everstep_schemas.events import RetryPolicy

if TYPE_CHECKING:
    from everstep.retry import Retry


class WorkflowCode(Protocol):
    """A registered workflow of one version."""

    @property
    def name(self) -> str: ...
    @property
    def version(self) -> int: ...
    @property
    def fn(self) -> Callable[..., Coroutine[Any, Any, Any]]: ...
    @property
    def timeout_seconds(self) -> float | None: ...
    @property
    def retry_policy(self) -> RetryPolicy | None: ...
    def may_retry(self, error: BaseException, /) -> bool:
        """Whether a run that fails so may be begun again."""
        ...

    def decode_args(self, args: bytes, kwargs: bytes | None, /) -> tuple[list[Any], dict[str, Any]]: ...
    def encode_result(self, value: Any, /) -> bytes: ...
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
        """A call of an activity that is known by its name alone."""
        ...


class Code(Protocol):
    """The workflows that this process has code for, by name and version."""

    @property
    def workflows(self) -> Mapping[str, Mapping[int, WorkflowCode]]: ...


class Guard(Protocol):
    """Told when a step of a run begins and ends, so that something outside can break one that does not end."""

    def enter(self) -> None: ...
    def leave(self) -> str | None:
        """Where the author's code was when it was broken, or None if it was not."""
        ...


class LogSink(Protocol):
    """Where `ctx.log` writes; a structlog logger is one."""

    def bind(self, **fields: object) -> LogSink: ...
    def debug(self, event: str, /, **fields: object) -> object: ...
    def info(self, event: str, /, **fields: object) -> object: ...
    def warning(self, event: str, /, **fields: object) -> object: ...
    def error(self, event: str, /, **fields: object) -> object: ...


class Unguarded:
    """The guard of a caller that trusts the code to yield."""

    def enter(self) -> None:
        return None

    def leave(self) -> str | None:
        return None


class Silence:
    """The sink of a caller that wants no log."""

    def bind(self, **fields: object) -> Silence:
        return self

    def debug(self, event: str, /, **fields: object) -> None:
        return None

    info = warning = error = debug
