"""What activities are provided with: a test's values, else what the app's providers open, once, until the end.

Each is opened and closed in a task of its own, as by a worker: task groups and cancel scopes demand that both happen in
one task, and an opener must not be cancelled with the attempt that happened to come first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any

from everstep.providers import Provider


class _Opened:
    def __init__(self, provider: Provider[Any]) -> None:
        self.value: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.closing = asyncio.Event()
        self.task = asyncio.create_task(self._keep(provider), name=f"provider {provider.name}")

    async def _keep(self, provider: Provider[Any]) -> None:
        try:
            async with provider.open() as value:
                self.value.set_result(value)
                await self.closing.wait()
        except BaseException as error:
            if self.value.done():
                raise
            self.value.set_exception(error)
            self.value.exception()  # whoever waits gets it; it is no defect if nobody does


class Resources:
    """The resources of one environment."""

    def __init__(self) -> None:
        self._given: dict[Provider[Any], Any] = {}
        self._opened: dict[Provider[Any], _Opened] = {}

    def give(self, provider: Provider[Any], value: Any) -> None:
        """Use `value` in the place of what the provider opens."""
        self._given[provider] = value

    async def of(self, parameters: Mapping[str, Provider[Any]]) -> dict[str, Any]:
        """The values of provided parameters; raises what an opener raises."""
        return {name: await self._value(provider) for name, provider in parameters.items()}

    async def _value(self, provider: Provider[Any]) -> Any:
        if provider in self._given:
            return self._given[provider]
        opened = self._opened.get(provider)
        if opened is None:
            opened = self._opened[provider] = _Opened(provider)
        try:
            return await asyncio.shield(opened.value)
        except Exception:
            self._opened.pop(provider, None)  # the next attempt tries again
            raise

    async def close(self) -> None:
        """Close all, the last one opened first; raises what closing raises, once all are closed."""
        errors = [error for opened in reversed(list(self._opened.values())) for error in await _closed(opened)]
        self._opened.clear()
        if errors:
            raise errors[0]


async def _closed(opened: _Opened) -> Iterable[BaseException]:
    opened.closing.set()
    if not opened.value.done():
        opened.task.cancel()
    await asyncio.wait([opened.task])
    error = None if opened.task.cancelled() else opened.task.exception()
    return () if error is None else (error,)
