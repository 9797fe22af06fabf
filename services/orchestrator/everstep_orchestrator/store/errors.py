"""How a call of the store fails, classed by what the caller must do.

StoreError
├── DataRefused     split the batch: by shard, then by run
├── OutcomeUnknown  stop publishing for these shards and claim them anew before anything else
└── Unavailable     a reading call failed: nothing happened, ask again a little later
"""

from __future__ import annotations


class StoreError(Exception):
    """What a call of the store may raise."""


class DataRefused(StoreError):
    """Postgres refuses a value (SQLSTATE class 22, 23 or 54). Nothing was written.

    The same batch will be refused again: split it by shard, then by run, until the bad run stands alone.
    """

    def __init__(self, sqlstate: str, message: str) -> None:
        super().__init__(f"Postgres refuses a value: {message} (SQLSTATE {sqlstate})")
        self.sqlstate = sqlstate


class OutcomeUnknown(StoreError):
    """The commit may or may not have been written, and may yet be written later.

    Stop publishing for its shards, claim them anew (which raises the epoch, so that a late arrival finds no fence to
    pass), and only then read what is stored.
    """


class Unavailable(StoreError):
    """Postgres could not be asked. Nothing was changed; try again with a growing delay."""
