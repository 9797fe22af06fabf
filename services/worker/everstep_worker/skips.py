"""Tokens of commands that need no run, remembered until they arrive."""

from __future__ import annotations


class Skips:
    """The newest `limit` tokens. A command whose token was forgotten runs; its answer is ignored by its token."""

    def __init__(self, limit: int = 50_000) -> None:
        self._limit = limit
        self._tokens: dict[str, None] = {}

    def add(self, token: str) -> None:
        self._tokens[token] = None
        if len(self._tokens) > self._limit:
            del self._tokens[next(iter(self._tokens))]

    def __contains__(self, token: str) -> bool:
        return token in self._tokens
