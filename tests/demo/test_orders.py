"""The demo's own parts: its input is what the generator says, and its checks find what is wrong."""

import json
from collections import Counter
from collections.abc import Callable

import pytest
from examples.orders import generate, stories, submit
from examples.orders.app import Summary
from examples.orders.checks import Books, differences

TOLD = stories.read()
OUTCOMES: dict[str, str] = {story.order.order_id: story.outcome for story in TOLD}
Damage = Callable[[Books, dict[str, str]], object]


def test_orders_are_those_of_the_generator() -> None:
    generated = list(generate.stories())
    assert [json.loads(line) for line in generate.FILE.read_text().splitlines()] == generated


def test_at_least_300_orders_of_every_outcome() -> None:
    counts = Counter(OUTCOMES.values())
    assert len(TOLD) >= 300
    assert counts.keys() == {"shipped", "out of stock", "declined", "refunded", "cancelled"}
    assert min(counts.values()) >= 20


def right_books() -> Books:
    books = Books()
    for story in TOLD:
        order_id = story.order.order_id
        if story.outcome in ("shipped", "refunded", "cancelled"):
            books.charges[order_id] = [story.amount_cents]
        if story.outcome in ("refunded", "cancelled"):
            books.refunds[order_id] = [story.amount_cents]
    books.letters.update(order_id for order_id, outcome in OUTCOMES.items() if outcome == "shipped")
    return books


def summary_of(books: Books) -> Summary:
    charged, refunded = books.totals
    paid = sum(outcome == "shipped" for outcome in OUTCOMES.values())
    return Summary(orders=len(TOLD), paid=paid, charged_cents=charged, refunded_cents=refunded)


def one(outcome: str) -> str:
    return next(story.order.order_id for story in TOLD if story.outcome == outcome and not story.may_be_unpaid)


def test_nothing_is_wrong_with_right_books() -> None:
    books = right_books()
    assert differences(TOLD, OUTCOMES, books, summary_of(books)) == []


def test_who_cancels_at_once_may_never_have_paid() -> None:
    books = right_books()
    early = next(story.order.order_id for story in TOLD if story.may_be_unpaid)
    del books.charges[early], books.refunds[early]
    assert differences(TOLD, OUTCOMES, books, summary_of(books)) == []


DAMAGES: dict[str, Damage] = {
    "charged twice": lambda books, _: books.charges[one("shipped")].append(1),
    "never charged": lambda books, _: books.charges.pop(one("shipped")),
    "not given back": lambda books, _: books.refunds.pop(one("refunded")),
    "given back twice": lambda books, _: books.refunds[one("cancelled")].append(1),
    "charged a declined card": lambda books, _: books.charges.update({one("declined"): [100]}),
    "no letter": lambda books, _: books.letters.pop(one("shipped")),
    "two letters": lambda books, _: books.letters.update([one("shipped")]),
    "a stranger's order": lambda books, _: books.charges.update({"order-9999": [100]}),
    "never ended": lambda _, outcomes: outcomes.pop(one("shipped")),
    "ended otherwise": lambda _, outcomes: outcomes.update({one("shipped"): "refunded"}),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_checks_find(damage: Damage) -> None:
    books, outcomes = right_books(), dict(OUTCOMES)
    damage(books, outcomes)
    assert len(differences(TOLD, outcomes, books, summary_of(books))) == 1


def test_checks_find_a_summary_that_is_off_by_a_cent() -> None:
    books = right_books()
    summary = summary_of(books)
    summary.charged_cents += 1
    assert len(differences(TOLD, OUTCOMES, books, summary)) == 1


class Sent(list[submit.Message]):
    async def send(self, message: submit.Message) -> None:
        self.append(message)


def raw() -> list[submit.Message]:
    return [json.loads(line) for line in generate.FILE.read_text().splitlines()]


async def test_every_order_is_submitted_once_and_early_parcels_follow_at_once() -> None:
    sent, told = Sent(), raw()
    await submit.take_orders(sent, told, submit.plan_of(told), 0)
    kinds = Counter(message["kind"] for message in sent)
    early = sum(story["afterwards"] is not None and story["afterwards"]["when"] == "submitted" for story in told)
    assert kinds == {"start": len(told), "signal": early}


async def test_answers_go_out_once_though_facts_come_twice() -> None:
    story = next(story for story in raw() if story["afterwards"] and story["afterwards"]["when"] == "waiting")
    order_id = story["order"]["order_id"]

    async def facts() -> submit.Facts:
        for _ in range(2):
            yield submit.STARTED, {"workflow_id": order_id}
            yield submit.STATUS_CHANGED, {"workflow_id": "another", "status": submit.WAITING}
            yield submit.STATUS_CHANGED, {"workflow_id": order_id, "status": submit.WAITING}

    sent = Sent()
    await submit.answer(sent, facts(), submit.plan_of([story]))
    assert sent == [submit.answer_to(story)]
