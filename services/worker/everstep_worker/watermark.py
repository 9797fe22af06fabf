"""Which offset of a partition may be committed: the one below which every command is finished.

Commands start in the order of their offsets and finish in any. The watermark is the lowest offset that is not finished,
so a worker that dies leaves its unfinished commands, and some finished ones, to whoever reads the partition next.
"""

from __future__ import annotations

from collections import deque


class Watermark:
    """The contiguous finished prefix of one partition, from `start` on. Each step costs the same at any length."""

    __slots__ = ("_finished", "_next", "_unfinished")

    def __init__(self, start: int) -> None:
        self._next = start
        self._unfinished: deque[int] = deque()  # from the lowest one on, those above it that are finished included
        self._finished: set[int] = set()

    @property
    def position(self) -> int:
        """Everything below is finished."""
        return self._unfinished[0] if self._unfinished else self._next

    def begin(self, offset: int) -> bool:
        """Whether the command is new; one that began before comes again when its partition is assigned again."""
        if offset < self._next:
            return False
        self._next = offset + 1
        self._unfinished.append(offset)
        return True

    def finish(self, offset: int) -> None:
        """The command, which has begun, will need no further run."""
        unfinished, finished = self._unfinished, self._finished
        finished.add(offset)
        while unfinished and unfinished[0] in finished:
            finished.remove(unfinished.popleft())
