"""What `@app.provide` declares: opened at first use, once per worker, closed at the end in reverse order.

Each resource lives in a task of its own, in which it is opened and closed: task groups and cancel scopes demand that
both happen in one task, and an opener must not be cancelled with the attempt that happened to come first.
"""

from __future__ import annotations

import asyncio
from typing import Any

import structlog

from everstep.providers import Provider

log = structlog.stdlib.get_logger(__name__)

OPEN_SECONDS = 30.0
CLOSE_SECONDS = 10.0


class NotOpened(Exception):
    """A resource could not be opened; the attempt that needed it failed, and the next one tries again."""


class _Resource:
    """One opened resource and the task that keeps it."""

    def __init__(self, provider: Provider[Any]) -> None:
        self.name = provider.name
        self.value: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._close = asyncio.Event()
        self.task = asyncio.create_task(self._keep(provider), name=f"everstep-resource-{self.name}")

    async def _keep(self, provider: Provider[Any]) -> None:
        try:
            async with provider.open() as value:
                self.value.set_result(value)
                await self._close.wait()
        except BaseException as error:
            if self.value.done():
                log.warning("closing a resource failed", resource=self.name, exc_info=error)
            else:
                self.value.set_exception(error if isinstance(error, Exception) else RuntimeError(repr(error)))
                self.value.exception()  # whoever waits gets it; it is no defect if nobody does

    async def close(self) -> None:
        self._close.set()
        if not self.value.done():
            self.task.cancel()
        done, _ = await asyncio.wait([self.task], timeout=CLOSE_SECONDS)
        if not done:
            log.warning("a resource does not close, leaving it", resource=self.name, seconds=CLOSE_SECONDS)
            self.task.cancel()


class Resources:
    """The resources of one worker."""

    def __init__(self) -> None:
        self._resources: dict[Provider[Any], _Resource] = {}

    async def get(self, provider: Provider[Any]) -> Any:
        """The resource, opened if it is not. Raises `NotOpened` if that fails or takes too long."""
        resource = self._resources.get(provider)
        if resource is None:
            self._resources[provider] = resource = _Resource(provider)
        if not resource.value.done():
            await asyncio.wait([resource.value], timeout=OPEN_SECONDS)
        if not resource.value.done():
            raise NotOpened(f"the resource {resource.name} was still opening after {OPEN_SECONDS:g} s")
        if (error := resource.value.exception()) is not None:
            self._forget(provider, resource)
            raise NotOpened(f"the resource {resource.name} could not be opened: {_text(error)}") from error
        return resource.value.result()

    async def close(self) -> None:
        """Closes all, the last one opened first."""
        for resource in reversed(list(self._resources.values())):
            await resource.close()
        self._resources.clear()

    def _forget(self, provider: Provider[Any], resource: _Resource) -> None:
        if self._resources.get(provider) is resource:
            del self._resources[provider]


def _text(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
