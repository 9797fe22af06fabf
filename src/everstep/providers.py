"""What activities need and callers do not pass: a database pool, an HTTP client. Opened once per worker.

`@app.provide` registers how to open it; a parameter whose default is `provided(opener)` receives it.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Generic, TypeVar, cast

from everstep.errors import RegistrationError

T = TypeVar("T")
Opener = Callable[[], AsyncIterator[T]] | Callable[[], AbstractAsyncContextManager[T]]


class Provider(Generic[T]):
    """How to open something that activities share. Made by `@app.provide`."""

    def __init__(self, opener: Opener[T]) -> None:
        self.name = getattr(opener, "__name__", repr(opener))
        self._opener = _context_manager_function(opener, self.name)

    def open(self) -> AbstractAsyncContextManager[T]:
        """A new context manager: entering opens, leaving closes."""
        return self._opener()

    def __repr__(self) -> str:
        return f"Provider({self.name})"


def _context_manager_function(opener: Any, name: str) -> Callable[[], AbstractAsyncContextManager[Any]]:
    if not callable(opener):
        raise RegistrationError(f"@app.provide takes a function, not {opener!r}")
    if needed := [one.name for one in inspect.signature(opener).parameters.values() if one.default is one.empty]:
        raise RegistrationError(
            f"provider {name!r}: it is opened without arguments, but takes {', '.join(needed)}; read what it needs "
            "from the environment or from a module"
        )
    if inspect.isasyncgenfunction(opener):
        return asynccontextmanager(opener)
    if inspect.iscoroutinefunction(opener) or inspect.isgeneratorfunction(opener):
        raise RegistrationError(
            f"provider {name!r} has nothing to close with: write `async def {name}():` with one `yield` of what is "
            "opened, and the closing after it"
        )
    return cast(Callable[[], AbstractAsyncContextManager[Any]], opener)


class Provided:
    """The default of a parameter that the worker fills in."""

    def __init__(self, provider: Provider[Any]) -> None:
        self.provider = provider

    def __repr__(self) -> str:
        return f"provided({self.provider.name})"


def provided(provider: Provider[T], /) -> T:
    """Use as the default of an activity's last parameters: `*, ledger: Ledger = provided(open_ledger)`.

    The worker passes what `open_ledger` opened; callers leave it out. Outside a workflow it is passed by hand.
    """
    if not isinstance(provider, Provider):
        raise RegistrationError(
            f"provided({getattr(provider, '__name__', provider)!s}): that is no provider; put @app.provide above it"
        )
    return cast(T, Provided(provider))
