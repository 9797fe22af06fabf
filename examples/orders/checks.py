"""Compares what happened with what had to happen, from outside: outcomes, the ledger, letters, the daily summary."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain

import asyncpg

from examples.orders.app import Summary
from examples.orders.stories import Story

ENTRIES = "SELECT order_id, entry, amount_cents, asked FROM {schema}_shop.ledger"
LETTERS = "SELECT order_id FROM {schema}_shop.letters"
# Events are numbered from 1 without a gap, so as many distinct numbers as the highest one says.
BROKEN_HISTORIES = """
SELECT workflow_id FROM {schema}.events GROUP BY workflow_id, run
HAVING count(*) <> max(seq) OR count(DISTINCT seq) <> max(seq)
"""


@dataclass
class Books:
    """What the shop's own tables say."""

    charges: dict[str, list[int]] = field(default_factory=dict)
    refunds: dict[str, list[int]] = field(default_factory=dict)
    letters: Counter[str] = field(default_factory=Counter)
    repeats: int = 0

    @property
    def totals(self) -> tuple[int, int]:
        """Cents charged and cents refunded."""
        return sum(chain(*self.charges.values())), sum(chain(*self.refunds.values()))


async def read_books(connection: asyncpg.Connection, schema: str) -> Books:
    books = Books()
    for row in await connection.fetch(ENTRIES.format(schema=schema)):
        side = books.charges if row["entry"] == "charge" else books.refunds
        side.setdefault(row["order_id"], []).append(row["amount_cents"])
        books.repeats += row["asked"] - 1
    books.letters.update(row["order_id"] for row in await connection.fetch(LETTERS.format(schema=schema)))
    return books


async def broken_histories(connection: asyncpg.Connection, schema: str) -> list[str]:
    rows = await connection.fetch(BROKEN_HISTORIES.format(schema=schema))
    return [f"the history of {row['workflow_id']} has a gap or an event twice" for row in rows]


def differences(stories: Iterable[Story], outcomes: Mapping[str, str], books: Books, summary: Summary) -> list[str]:
    """One sentence for everything that is not as it has to be; empty: all is well."""
    stories = list(stories)
    found = list(chain.from_iterable(check_order(story, outcomes, books) for story in stories))
    found += check_strangers({story.order.order_id for story in stories}, books)
    return found + check_summary(stories, books, summary)


def check_order(story: Story, outcomes: Mapping[str, str], books: Books) -> Iterator[str]:
    order_id = story.order.order_id
    if (outcome := outcomes.get(order_id)) != story.outcome:
        yield f"{order_id} ended as {outcome!r}, not as {story.outcome!r}"
    charges, refunds = books.charges.get(order_id, []), books.refunds.get(order_id, [])
    if (charges, refunds) not in movements(story):
        yield f"{order_id} ({story.outcome}, {story.amount_cents}) has charges {charges} and refunds {refunds}"
    letters = books.letters[order_id]
    if letters != (story.outcome == "shipped"):
        yield f"{order_id} ({story.outcome}): {letters} letters to the customer"


def movements(story: Story) -> list[tuple[list[int], list[int]]]:
    """The charges and refunds that are right for an order."""
    nothing: tuple[list[int], list[int]] = ([], [])
    if story.outcome in ("out of stock", "declined"):
        return [nothing]
    if story.outcome == "shipped":
        return [([story.amount_cents], [])]
    returned = ([story.amount_cents], [story.amount_cents])
    return [returned, nothing] if story.may_be_unpaid else [returned]


def check_strangers(known: set[str], books: Books) -> list[str]:
    booked = set(books.charges) | set(books.refunds) | set(books.letters)
    return [f"the books mention {order_id}, which nobody ordered" for order_id in sorted(booked - known)]


def check_summary(stories: list[Story], books: Books, summary: Summary) -> list[str]:
    charged, refunded = books.totals
    paid = sum(story.outcome == "shipped" for story in stories)
    expected = Summary(orders=len(stories), paid=paid, charged_cents=charged, refunded_cents=refunded)
    return [] if summary == expected else [f"the daily summary says {summary}, the books say {expected}"]
