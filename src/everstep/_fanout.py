"""`ctx.map`: one call per item, so many at a time, with an account of what failed.

Everything here is plain code on the run's loop; the calls are the commands. Items start in order. What ends an item
decides at once what follows: the next item, or the end of the map, which cancels what still runs, oldest first.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import Any, Generic, TypeVar, cast

from everstep._core.handlers import QueryHandler
from everstep._core.handles import Handle, fail
from everstep._core.payloads import Codec, codec_for
from everstep._core.scope import Scope
from everstep._error_infos import message_of
from everstep.errors import ActivityError, ChildError, MapError

T = TypeVar("T")
R = TypeVar("R")
C = TypeVar("C")

PROGRESS = "progress"
# So many maps of a run, the newest, answer the query; each is a few numbers.
MAPS_SHOWN = 100


class Failures:
    """How many items of a map may fail: a `count`, or a `ratio` of all items; of both, whichever is less."""

    __slots__ = ("count", "ratio")

    def __init__(self, count: int | None = None, *, ratio: float | None = None) -> None:
        if count is None and ratio is None:
            raise ValueError("Failures needs a count or a ratio: Failures(3), Failures(ratio=0.01)")
        if count is not None:
            _check_number("Failures: count", count, 0)
        if ratio is not None and not 0 <= ratio <= 1:
            raise ValueError(f"Failures: ratio is {ratio}; it is a share between 0.0 and 1.0")
        self.count = count
        self.ratio = ratio

    def most(self, total: int) -> int:
        """How many of `total` items may fail."""
        limits = [self.count] if self.count is not None else []
        if self.ratio is not None:
            # As it is written: 0.29 of 100 are 29, and not the 28 that its nearest binary fraction gives.
            limits.append(int(Fraction(repr(float(self.ratio))) * total))
        return min(limits)

    def __repr__(self) -> str:
        return f"Failures({self.count})" if self.ratio is None else f"Failures({self.count}, ratio={self.ratio})"


class MapItem(Generic[T, R]):
    """One item of a map and what became of it: `ok` with a `value`, or with an `error`, or neither: it never ended."""

    __slots__ = ("_value", "error", "index", "item", "ok")

    def __init__(self, index: int, item: T) -> None:
        self.index = index
        self.item = item
        self.ok = False
        self.error: ActivityError | ChildError | None = None
        self._value: Any = None

    @property
    def value(self) -> R:
        """The result. Raises the item's error if it failed, `ValueError` if it never ended."""
        if self.error is not None:
            raise self.error
        if not self.ok:
            raise ValueError(f"item {self.index} of the map was cancelled before it ended")
        return cast("R", self._value)

    def __repr__(self) -> str:
        outcome = "ok" if self.ok else "not ended" if self.error is None else repr(self.error)
        return f"<item {self.index} {self.item!r}: {outcome}>"


class MapResult(Generic[T, R]):
    """All items of a map, in order."""

    __slots__ = ("_items",)

    def __init__(self, items: list[MapItem[T, R]]) -> None:
        self._items = items

    def __iter__(self) -> Iterator[MapItem[T, R]]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    @property
    def values(self) -> list[R]:
        """The results of those that succeeded, in the order of the items."""
        return [one.value for one in self._items if one.ok]

    @property
    def failed(self) -> list[MapItem[T, R]]:
        """Those that failed, in the order of the items."""
        return [one for one in self._items if one.error is not None]

    def __repr__(self) -> str:
        return f"<map result: {len(self.values)} of {len(self)} ok, {len(self.failed)} failed>"


@dataclass(slots=True)
class MapProgress:
    """How far a map is, in items; `done` have succeeded."""

    of: str
    total: int
    done: int = 0
    failed: int = 0
    running: int = 0


class MapHandle(Handle[C], Generic[T, R, C]):
    """A map that is under way: await its results, iterate over its items as they end, cancel it.

    What is cancelled while it waits for the map, or, the only one, for its next item, cancels the map. A loop over its
    items that is left otherwise does not: the map goes on until it, or its run, has ended.
    """

    __slots__ = ("_map",)

    _map: _Map

    @property
    def progress(self) -> MapProgress:
        """How far it is."""
        return self._map.progress

    async def __aiter__(self) -> AsyncIterator[MapItem[T, R]]:
        ended = self._map.ended
        position = 0
        self._map.iterating += 1
        try:
            while True:
                while position < len(ended):
                    position += 1
                    yield ended[position - 1]
                if self.done():
                    break
                await self._map.news()
        finally:
            self._map.iterating -= 1
        if not self.cancelled() and (error := self.exception()) is not None:
            raise error
        if self.cancelled():
            raise asyncio.CancelledError

    def cancel(self, msg: Any | None = None) -> bool:
        if self.done():
            return False
        self._map.stop()
        return super().cancel(msg)


class _Map:
    """The state of one map. `failures` of its items are survived; None: none is, and the first is raised as it is."""

    def __init__(
        self,
        scope: Scope,
        fn: Callable[[Any], Awaitable[Any]],
        items: list[Any],
        *,
        concurrency: int,
        failures: int | None,
        enough: int | None,
        result: Callable[[MapResult[Any, Any]], Any],
    ) -> None:
        self._loop = scope.loop
        self._fn = fn
        self._items: list[MapItem[Any, Any]] = [MapItem(index, item) for index, item in enumerate(items)]
        self._concurrency = concurrency
        self._failures = failures
        self._enough = len(items) if enough is None else enough
        self._stops_at_enough = enough is not None
        self._result = result
        self._next = 0
        self._running: dict[int, asyncio.Future[Any]] = {}
        self._over = False
        self._listeners: list[asyncio.Future[None]] = []
        self.iterating = 0  # how many loops over its items are under way
        self.ended: list[MapItem[Any, Any]] = []
        self.progress = MapProgress(_name(fn), len(items))
        self.handle: MapHandle[Any, Any, Any] = MapHandle(loop=self._loop)
        self.handle._map = self

    async def news(self) -> None:
        """Returns when something has happened. Cancelling the only one who waits for it cancels the map."""
        listener = self._loop.create_future()
        self._listeners.append(listener)
        try:
            await listener
        except asyncio.CancelledError:
            if self.iterating == 1:
                self.handle.cancel()
            raise

    def go_on(self) -> None:
        """Start what may start; the end of the last item ends the map."""
        while not self._over and self._next < len(self._items) and len(self._running) < self._concurrency:
            item = self._items[self._next]
            self._next += 1
            self._start(item)
        if not self._over and not self._running and self._next == len(self._items):
            self._finish()

    def _start(self, item: MapItem[Any, Any]) -> None:
        try:
            future = asyncio.ensure_future(self._fn(item.item), loop=self._loop)
        except BaseException as error:  # the call itself was refused: its arguments do not fit
            self._settle(item, error, None)
            return
        self._running[item.index] = future
        self.progress.running += 1
        future.add_done_callback(partial(self._ended, item))

    def _ended(self, item: MapItem[Any, Any], future: asyncio.Future[Any]) -> None:
        del self._running[item.index]
        self.progress.running -= 1
        error = asyncio.CancelledError() if future.cancelled() else future.exception()
        if self._over:
            return
        self._settle(item, error, None if error is not None else future.result())
        self.go_on()

    def _settle(self, item: MapItem[Any, Any], error: BaseException | None, value: Any) -> None:
        if error is None:
            item.ok = True
            item._value = value
            self.progress.done += 1
        else:
            item.error = cast("ActivityError", error)
            self.progress.failed += 1
        self.ended.append(item)
        if error is not None:
            self._judge(error)
        elif self._stops_at_enough and self.progress.done >= self._enough:
            self._finish()
        self._tell()

    def _judge(self, error: BaseException) -> None:
        """One more has failed."""
        if self._failures is None or not isinstance(error, Exception):
            self._end(error)
        elif self.progress.failed > self._failures:
            total, failed = len(self._items), self.progress.failed
            spare = f"{self._enough} of {total} were to succeed" if self._stops_at_enough else f"{self._failures} may"
            message = f"{failed} of {total} items failed, and {spare}; the last error: {message_of(error)}"
            self._end(MapError(message, MapResult(self._items), error))

    def _finish(self) -> None:
        try:
            result = self._result(MapResult(self._items))
        except Exception as error:  # not what `fn` was to give
            self._end(error)
            return
        self.stop()
        self.handle.set_result(result)

    def _end(self, error: BaseException) -> None:
        self.stop()
        fail(self.handle, error)

    def stop(self) -> None:
        """Cancel what runs, oldest first, and start nothing more."""
        self._over = True
        for future in list(self._running.values()):
            future.cancel()
        self._tell()

    def _tell(self) -> None:
        listeners, self._listeners = self._listeners, []
        for listener in listeners:
            if not listener.done():
                listener.set_result(None)


def start_map(
    scope: Scope,
    fn: Callable[[Any], Awaitable[Any]],
    items: Iterable[Any],
    *,
    concurrency: int | None,
    tolerate: Failures | None,
    enough: int | None,
) -> MapHandle[Any, Any, Any]:
    """Start a map. Raises `ValueError` for numbers that make no sense."""
    if tolerate is not None and not isinstance(tolerate, Failures):
        raise TypeError(f"ctx.map: tolerate is `Failures(3)` or `Failures(ratio=0.01)`, not {tolerate!r}")
    all_items = list(items)
    plain = tolerate is None and enough is None
    return _started(
        scope,
        fn,
        all_items,
        concurrency=concurrency,
        failures=_failures(len(all_items), tolerate, enough),
        enough=enough,
        result=(lambda result: result.values) if plain else (lambda result: result),
    )


def start_batches(
    scope: Scope,
    fn: Callable[[list[Any]], Awaitable[list[Any]]],
    items: Iterable[Any],
    *,
    size: int,
    concurrency: int | None,
) -> MapHandle[Any, Any, Any]:
    """Start a map over lists of items."""
    _check_number("ctx.map_batches: size", size, 1)
    all_items = list(items)
    batches = [all_items[start : start + size] for start in range(0, len(all_items), size)]
    return _started(
        scope,
        fn,
        batches,
        concurrency=concurrency,
        failures=None,
        enough=None,
        result=_joined,
    )


def _joined(result: MapResult[Any, Any]) -> list[Any]:
    batches = result.values
    for one in batches:
        if not isinstance(one, list | tuple):
            raise TypeError(f"ctx.map_batches: a call gave {type(one).__qualname__}, and not a list of results")
    return [one for batch in batches for one in batch]


def _started(scope: Scope, fn: Callable[[Any], Any], items: list[Any], **given: Any) -> MapHandle[Any, Any, Any]:
    concurrency = len(items) if given["concurrency"] is None else given["concurrency"]
    if given["concurrency"] is not None:
        _check_number("ctx.map: concurrency", concurrency, 1)
    started = _Map(scope, fn, items, **{**given, "concurrency": concurrency})
    _show(scope, started.progress)
    started.go_on()
    return started.handle


def _failures(total: int, tolerate: Failures | None, enough: int | None) -> int | None:
    """How many failures a map survives; None if the first is to be raised as it is."""
    if enough is not None:
        _check_number("ctx.map: enough", enough, 1)
        if enough > total:
            raise ValueError(f"ctx.map: enough is {enough}, and there are {total} items")
    limits = [] if tolerate is None else [tolerate.most(total)]
    if enough is not None:
        limits.append(total - enough)
    return min(limits) if limits else None


_progress_codec: Codec[list[MapProgress]] = codec_for(list[MapProgress])


def _name(fn: object) -> str:
    return str(getattr(fn, "name", getattr(fn, "__qualname__", type(fn).__name__)))


def _check_number(what: str, number: object, least: int) -> None:
    if not isinstance(number, int) or isinstance(number, bool) or number < least:
        raise ValueError(f"{what} is {number!r}; it is a whole number from {least} on")


def _show(scope: Scope, progress: MapProgress) -> None:
    """The run's maps answer the query `progress`, unless the code has said something else."""
    scope.maps.append(progress)
    del scope.maps[:-MAPS_SHOWN]
    scope.queries.offer(PROGRESS, QueryHandler(lambda: scope.maps, _progress_codec))
