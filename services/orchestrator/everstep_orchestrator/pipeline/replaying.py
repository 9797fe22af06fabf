"""Replays that give the loop back: a long history is fed in slices, outside of any task."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterable, Callable, Iterable, Iterator
from functools import partial
from typing import TypeVar

from everstep._core.engine import HistoryRow, LiveRun, Replay
from everstep_orchestrator.pipeline.outside import outside_task

T = TypeVar("T")

SLICE_SECONDS = 0.05


async def replayed(replay: Replay, pages: AsyncIterable[Iterable[HistoryRow]], then: Callable[[LiveRun], T]) -> T:
    """Feeds a replay all rows, and gives back what `then` makes of the run. Raises `CannotRun`.

    A replay that is not wanted any more, or whose history cannot be read, closes its code.
    """
    try:
        async for rows in pages:
            feed = partial(_feed, replay, iter(rows))
            while await outside_task(feed):
                pass
        return await outside_task(lambda: then(replay.finish()))
    except BaseException:
        # A slice may still be on its way: this comes behind it, and like it outside of any task.
        asyncio.get_running_loop().call_soon(replay.abandon)
        raise


def _feed(replay: Replay, waiting: Iterator[HistoryRow]) -> bool:
    """Feeds rows for as long as the loop can be kept waiting; whether some are left."""
    end = time.monotonic() + SLICE_SECONDS
    for row in waiting:
        replay.feed(row)
        if time.monotonic() > end:
            return True
    return False
