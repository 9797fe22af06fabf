"""The shop's books in PostgreSQL.

Every row stands under the idempotency key of the activity that asked for it. An activity runs at least once; a second
run of the same one meets its own row, changes nothing but the count in `asked`, and gets the first answer.
"""

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import asyncpg

TABLES = """
CREATE TABLE ledger (
    idempotency_key text PRIMARY KEY,
    order_id        text        NOT NULL,
    entry           text        NOT NULL CHECK (entry IN ('charge', 'refund')),
    amount_cents    bigint      NOT NULL CHECK (amount_cents > 0),
    asked           integer     NOT NULL DEFAULT 1,
    at              timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX ON ledger (order_id);
CREATE TABLE letters (
    idempotency_key text PRIMARY KEY,
    order_id        text        NOT NULL,
    body            text        NOT NULL,
    at              timestamptz NOT NULL DEFAULT now()
);
"""

BOOK = """
INSERT INTO ledger (idempotency_key, order_id, entry, amount_cents) VALUES ($1, $2, $3, $4)
ON CONFLICT (idempotency_key) DO UPDATE SET asked = ledger.asked + 1
"""

WRITE = "INSERT INTO letters (idempotency_key, order_id, body) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING"

BALANCE = """
SELECT coalesce(sum(amount_cents) FILTER (WHERE entry = 'charge'), 0)::bigint AS charged_cents,
       coalesce(sum(amount_cents) FILTER (WHERE entry = 'refund'), 0)::bigint AS refunded_cents
FROM ledger WHERE order_id = $1
"""


@dataclass
class Balance:
    """What one order has brought so far."""

    order_id: str
    charged_cents: int
    refunded_cents: int


class Ledger:
    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def charge(self, order_id: str, amount_cents: int, *, key: str) -> None:
        await self._pool.execute(BOOK, key, order_id, "charge", amount_cents)

    async def refund(self, order_id: str, amount_cents: int, *, key: str) -> None:
        await self._pool.execute(BOOK, key, order_id, "refund", amount_cents)

    async def write_letter(self, order_id: str, body: str, *, key: str) -> None:
        await self._pool.execute(WRITE, key, order_id, body)

    async def balance(self, order_id: str) -> Balance:
        [row] = await self._pool.fetch(BALANCE, order_id)
        return Balance(order_id, row["charged_cents"], row["refunded_cents"])


@asynccontextmanager
async def open_books() -> AsyncGenerator[Ledger]:
    """The ledger in the database that `SHOP_DSN` names, in the schema of its `search_path`."""
    async with asyncpg.create_pool(os.environ["SHOP_DSN"], min_size=1, max_size=8) as pool:
        yield Ledger(pool)
