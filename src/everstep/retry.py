"""How often a failed activity is tried again, and when."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import KW_ONLY, dataclass
from datetime import timedelta

from everstep._error_infos import type_name
from everstep.durations import seconds
from everstep_schemas.events import RetryPolicy

_NO_TIME = timedelta()
_FIRST = seconds(1)
_LONGEST = seconds(100)


@dataclass(frozen=True)
class Backoff:
    """The pause before each further attempt: `initial`, then `factor` times longer each time, `maximum` at most.

    Each pause is made longer or shorter by up to the share `jitter`, so that what failed together does not return
    together. `ValueError` for numbers that make no sense.
    """

    initial: timedelta = _FIRST
    _: KW_ONLY
    factor: float = 2.0
    maximum: timedelta = _LONGEST
    jitter: float = 0.1

    def __post_init__(self) -> None:
        for name in ("initial", "maximum"):
            if not isinstance(getattr(self, name), timedelta):
                raise TypeError(f"Backoff: {name} is a duration such as seconds(1), not {getattr(self, name)!r}")
        for name in ("factor", "jitter"):
            if isinstance(number := getattr(self, name), bool) or not isinstance(number, int | float):
                raise TypeError(f"Backoff: {name} is a number, not {number!r}")
        if self.initial < _NO_TIME:
            raise ValueError(f"Backoff: initial is {self.initial}, and a pause cannot be negative")
        if self.maximum < self.initial:
            raise ValueError(f"Backoff: maximum ({self.maximum}) is shorter than initial ({self.initial})")
        if not 1 <= self.factor < float("inf"):
            raise ValueError(f"Backoff: factor is {self.factor}; pauses must not become shorter, so 1.0 or more")
        if not 0 <= self.jitter <= 1:
            raise ValueError(f"Backoff: jitter is {self.jitter}; it is a share between 0.0 and 1.0")


@dataclass(frozen=True)
class Retry:
    """Try a failed activity again: without limit unless `max_attempts` (which counts the first), after each `backoff`.

    Never again after an error of a type in `give_up_on` (classes, or names where the class is elsewhere), or one for
    which `retry_if` says no; `retry_if` runs in the worker, on the exception itself.
    """

    max_attempts: int | None = None
    backoff: Backoff = Backoff()
    _: KW_ONLY
    give_up_on: Iterable[type[BaseException] | str] = ()
    retry_if: Callable[[BaseException], bool] | None = None

    def __post_init__(self) -> None:
        attempts: object = self.max_attempts
        if attempts is not None and (isinstance(attempts, bool) or not isinstance(attempts, int)):
            raise TypeError(f"Retry: max_attempts is a whole number, not {attempts!r}")
        if self.max_attempts is not None and self.max_attempts < 1:
            raise ValueError(f"Retry: max_attempts is {self.max_attempts}; it counts the first attempt, so 1 or more")
        if isinstance(self.give_up_on, str | type):
            raise TypeError(f"Retry: give_up_on is a list: [{_name(self.give_up_on)}]")
        object.__setattr__(self, "give_up_on", tuple(self.give_up_on))
        for one in self.give_up_on:
            if not isinstance(one, str) and not (isinstance(one, type) and issubclass(one, BaseException)):
                raise TypeError(f"Retry: give_up_on holds exception classes and their names, not {one!r}")

    def gives_up_on(self, error: BaseException) -> bool:
        """Whether `error` is of a class in `give_up_on`, or of a subclass; the names there are compared by the run."""
        return isinstance(error, tuple(one for one in self.give_up_on if isinstance(one, type)))

    def policy(self, declared: Iterable[str] = ()) -> RetryPolicy | None:
        """This as it is recorded with an activity, None for the defaults. `declared` are error names to give up on."""
        policy = RetryPolicy(
            max_attempts=self.max_attempts,
            initial_seconds=self.backoff.initial.total_seconds(),
            factor=self.backoff.factor,
            maximum_seconds=self.backoff.maximum.total_seconds(),
            jitter=self.backoff.jitter,
            give_up_on=(*map(_name, self.give_up_on), *declared),
        )
        return None if policy == _DEFAULT else policy


_DEFAULT = RetryPolicy()


def _name(error: type[BaseException] | str) -> str:
    return error if isinstance(error, str) else type_name(error)
