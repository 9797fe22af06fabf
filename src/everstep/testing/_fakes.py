"""What a test puts in the place of activities, and what it sees of their calls."""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, Generic, ParamSpec, Self, TypeVar, cast

from msgspec import Raw, UnsetType

from everstep._core.arguments import Arguments
from everstep._core.payloads import Codec, codec_for
from everstep.activity import ActivityInfo
from everstep.definitions import Activity
from everstep.errors import RegistrationError
from everstep.providers import Provider

P = ParamSpec("P")
R = TypeVar("R")


class Calls(Generic[P, R]):
    """What a replaced or watched activity saw, attempt by attempt, and what is to become of the next ones."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._failures: deque[BaseException] = deque()
        self._delay = timedelta()
        self._queued = timedelta()
        self.args: list[tuple[Any, ...]] = []
        """The positional arguments of each attempt, decoded as the activity would get them."""
        self.kwargs: list[dict[str, Any]] = []
        """The named arguments of each attempt, without what is provided."""
        self.infos: list[ActivityInfo] = []
        """What `activity.info()` said in each attempt."""

    @property
    def count(self) -> int:
        """How many attempts there were."""
        return len(self.args)

    def fail(self, error: BaseException, *, times: int = 1) -> Self:
        """The next `times` attempts raise `error`; what is said again comes after that."""
        if not isinstance(error, BaseException):
            raise TypeError(f"fail() takes an exception such as ConnectionError(), not {error!r}")
        if times < 1:
            raise ValueError(f"times is {times}; it counts from 1")
        self._failures.extend([error] * times)
        return self

    def delay(self, by: timedelta) -> Self:
        """From now on each attempt takes `by`, of the environment's time, before it does anything.

        One that takes longer than the activity's `timeout` or `heartbeat_timeout` fails as in production; nothing of
        it happens then.
        """
        self._delay = _duration("delay", by)
        return self

    def queue(self, by: timedelta) -> Self:
        """From now on it takes `by`, of the environment's time, until a worker begins an attempt.

        One that has to wait longer than the activity's `queue_timeout` fails as in production, and does not begin.
        """
        self._queued = _duration("queue", by)
        return self

    def __repr__(self) -> str:
        return f"<{self.count} calls of {self._name!r}>"

    def _next(self, args: list[Any], kwargs: dict[str, Any], info: ActivityInfo) -> tuple[timedelta, Any]:
        """Take note of an attempt: how long it takes, and the error that it raises."""
        self.args.append(tuple(args))
        self.kwargs.append(dict(kwargs))
        self.infos.append(info)
        return self._delay, self._failures.popleft() if self._failures else None


def _duration(method: str, by: object) -> timedelta:
    if not isinstance(by, timedelta):
        raise TypeError(f"{method}() takes a duration such as seconds(30), not {by!r}")
    if by < timedelta():
        raise ValueError(f"{method}() takes a duration of 0 or more, not {by}")
    return by


NOT_GIVEN: Any = object()


class WrongFake(TypeError):
    """A fake cannot be called as its activity was."""


class Replacement:
    """What is done in the place of one activity: a fake's call, a value, or the activity's own code (a spy).

    Its arguments and results pass the activity's own annotations; where an activity is known by its name alone, those
    of the fake.
    """

    def __init__(self, name: str, definition: Activity[..., Any] | None, fake: Any, returns: Any) -> None:
        self.calls: Calls[..., Any] = Calls(name)
        self._name = name
        self._definition = definition
        self._fake: Callable[..., Any] | None = None if fake is NOT_GIVEN else self._callable(fake)
        self._signature = _signature_of(self._fake)
        self._arguments = _arguments_of(name, self._fake) if definition is None else None
        self._value = None if returns is NOT_GIVEN else self.encode(returns)
        self._check()

    def _callable(self, fake: Any) -> Callable[..., Any]:
        if not callable(fake):
            raise TypeError(f"a fake for activity {self._name!r} is a function; for a value say returns={fake!r}")
        return cast("Callable[..., Any]", fake)

    def _check(self) -> None:
        """Find when it is made that a fake cannot even take what each call has."""
        if self._signature is None or self._definition is None:
            return
        parameters = inspect.signature(self._definition.fn).parameters.values()
        needed = [one for one in parameters if one.default is one.empty]
        args = [None for one in needed if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]
        self._bind(args, {one.name: None for one in needed if one.kind is one.KEYWORD_ONLY})

    def _bind(self, args: list[Any], kwargs: dict[str, Any]) -> None:
        if self._signature is None:
            return
        try:
            self._signature.bind(*args, **kwargs, **dict.fromkeys(self.provided))
        except TypeError as error:
            call = f"{len(args)} positional arguments" + (f" and {', '.join(kwargs)}" if kwargs else "")
            raise WrongFake(
                f"the fake for activity {self._name!r} takes {self._signature}, but is called like the activity, with "
                f"{call}: {error}"
            ) from None

    @property
    def is_fake(self) -> bool:
        """Whether it calls a function of the test's."""
        return self._fake is not None

    @property
    def answers_at_once(self) -> bool:
        """Whether nothing has to be called and no time passes."""
        return self._value is not None and not self.calls._delay

    @property
    def is_spy(self) -> bool:
        """Whether it calls the activity's own code."""
        return self._fake is None and self._value is None

    @property
    def value(self) -> bytes | None:
        """The JSON of the result that is always the same, if it is."""
        return self._value

    @property
    def provided(self) -> Mapping[str, Provider[Any]]:
        """The provided parameters of the activity that the fake takes, too."""
        if self._signature is None or self._definition is None:
            return {}
        taken = self._signature.parameters
        return {name: provider for name, provider in self._definition.providers.items() if name in taken}

    def decode(self, args: Raw, kwargs: Raw | UnsetType) -> tuple[list[Any], dict[str, Any]]:
        """What a call passed; raises `PayloadError`."""
        if self._definition is not None:
            return self._definition.decode_args(args, kwargs)
        if self._arguments is not None:
            return self._arguments.decode(args, kwargs)
        named: dict[str, Any] = codec_for(dict[str, Any]).decode(kwargs) if isinstance(kwargs, Raw) else {}
        return codec_for(list[Any]).decode(args), named

    async def call(self, args: list[Any], kwargs: dict[str, Any], provided: Mapping[str, Any]) -> Any:
        """Call the fake. Raises `WrongFake`, and whatever the fake does."""
        self._bind(args, kwargs)
        value = cast("Callable[..., Any]", self._fake)(*args, **kwargs, **provided)
        return await value if inspect.isawaitable(value) else value

    def encode(self, value: Any) -> bytes:
        """The JSON of a result; raises `PayloadError`."""
        if self._definition is not None:
            return self._definition.encode_result(value)
        codec: Codec[Any] = codec_for(Any) if self._arguments is None else self._arguments.result
        return codec.encode(value)


def _signature_of(fake: Callable[..., Any] | None) -> inspect.Signature | None:
    try:
        return None if fake is None else inspect.signature(fake)
    except (TypeError, ValueError):  # a function in C need not have one
        return None


def _arguments_of(name: str, fake: Callable[..., Any] | None) -> Arguments | None:
    if not inspect.isfunction(fake):
        return None
    try:
        return Arguments(fake, f"the fake for activity {name!r}")
    except RegistrationError:  # its annotations cannot be read from here: it takes and gives plain JSON
        return None
