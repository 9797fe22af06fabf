"""Asks runs what they answer to queries.

A question needs no owner and changes nothing: what is committed of the run is replayed into a run of its own, which is
asked between two steps and then forgotten, whether the run is open, closed, somewhere in memory or nowhere. The engine
and its watchdog are those of the main loop, so questions take turns with decisions: replays run in the same slices,
only a few at a time, and none for long.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Callable, Iterable
from typing import TypeVar

from everstep._core.engine import CannotRun, Engine, HistoryRow, Identity, LiveRun, QueryFailed
from everstep.errors import NondeterminismError
from everstep_orchestrator.pipeline.replaying import replayed

T = TypeVar("T")

AT_ONCE = 2
TURN_SECONDS = 10.0
REPLAY_SECONDS = 30.0


class Asker:
    """Replays and asks with the engine of this process."""

    def __init__(
        self,
        engine: Engine,
        *,
        at_once: int = AT_ONCE,
        turn_seconds: float = TURN_SECONDS,
        replay_seconds: float = REPLAY_SECONDS,
    ) -> None:
        self._engine = engine
        self._turns = asyncio.Semaphore(at_once)
        self._turn_seconds = turn_seconds
        self._replay_seconds = replay_seconds

    def knows(self, workflow: str, version: int) -> bool:
        """Whether the code of a run is here."""
        return self._engine.knows(workflow, version)

    async def ask(
        self, identity: Identity, pages: AsyncIterable[Iterable[HistoryRow]], question: Callable[[LiveRun], T]
    ) -> T:
        """What `question` gives for the run with this history.

        Raises `CannotRun` if the code here does not replay it, `QueryFailed` if the code has no answer, and
        `TimeoutError`, in words, if there is no time for it now.
        """
        await self._turn()
        try:
            async with asyncio.timeout(self._replay_seconds):
                return await replayed(self._engine.replay(identity, stays=True), pages, lambda run: _ask(run, question))
        except TimeoutError:
            raise TimeoutError(f"the run's history could not be replayed within {self._replay_seconds:g} s") from None
        finally:
            self._turns.release()

    async def _turn(self) -> None:
        try:
            async with asyncio.timeout(self._turn_seconds):
                await self._turns.acquire()
        except TimeoutError:
            raise TimeoutError(f"others are being answered, for longer than {self._turn_seconds:g} s") from None


def _ask(run: LiveRun, question: Callable[[LiveRun], T]) -> T:
    try:
        return question(run)
    except (NondeterminismError, CannotRun) as error:  # the run could be replayed: this is about the query's own code
        raise QueryFailed(str(error)) from error
    except Exception:
        raise
    except BaseException as error:  # the author's, which must not end the process
        raise QueryFailed(f"the query raised {type(error).__name__}: {error}") from error
    finally:
        run.evict()
