"""Random numbers and ids that follow a run's nonce: the same on every replay, and others in every run."""

from __future__ import annotations

import random
from hashlib import blake2b
from typing import Any
from uuid import UUID


class Chance:
    """The run's source of both. What it has given can be undone, for code that only looks."""

    __slots__ = ("_nonce", "_random", "_uuids")

    def __init__(self, nonce: str) -> None:
        self._nonce = nonce
        self._random: random.Random | None = None
        self._uuids = 0

    @property
    def random(self) -> random.Random:
        if self._random is None:
            self._random = random.Random(f"everstep/{self._nonce}")  # noqa: S311  # replay needs a seed
        return self._random

    def uuid4(self) -> UUID:
        self._uuids += 1
        digest = blake2b(f"{self._nonce}/uuid/{self._uuids}".encode(), digest_size=16).digest()
        return UUID(bytes=digest, version=4)

    def state(self) -> tuple[int, Any]:
        return self._uuids, None if self._random is None else self._random.getstate()

    def restore(self, state: tuple[int, Any]) -> None:
        self._uuids, drawn = state
        if drawn is not None:
            self.random.setstate(drawn)
        elif self._random is not None:
            self._random.seed(f"everstep/{self._nonce}")
