"""What people do with each example, and what they get, whatever it runs on and whatever happens meanwhile."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any, Protocol, TypeVar

import pytest

from everstep import App, Client, Run, RunCancelled, UpdateRejected, hours, seconds
from examples import (
    approval,
    counter,
    dispatch,
    etl,
    moderation,
    nightly,
    order,
    subscription,
    transcode,
    transfer,
    trip,
    vote,
)

T = TypeVar("T")
MODULES = [
    approval, counter, dispatch, etl, moderation, nightly, order, subscription, transcode, transfer, trip, vote,
]  # fmt: skip
app = App("examples", include=[module.app for module in MODULES])


class World(Protocol):
    """Where a scenario is played."""

    @property
    def client(self) -> Client: ...

    async def until(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Lets time pass until the answer is true, and gives it."""
        ...

    async def surely(self, call: Callable[[], Awaitable[T]]) -> T:
        """Calls until somebody answers."""
        ...


@dataclass(frozen=True)
class Scenario:
    """`play` starts runs whose ids begin with the text it is given, and returns what came of it: always `expected`."""

    play: Callable[[World, str], Coroutine[Any, Any, Any]]
    expected: Any

    @property
    def name(self) -> str:
        return self.play.__name__


SCENARIOS: list[Scenario] = []
Play = Callable[[World, str], Coroutine[Any, Any, Any]]


def gives(expected: Any) -> Callable[[Play], Play]:
    def register(play: Play) -> Play:
        SCENARIOS.append(Scenario(play, expected))
        return play

    return register


# ---- the order


@gives(["shipped", "declined", "out of stock", "cancelled"])
async def order_shipped_declined_and_cancelled(world: World, id: str) -> list[str]:
    def start(name: str, quantity: int = 1, card: str = "visa") -> Awaitable[Run[str]]:
        wanted = order.Order(f"{id}-{name}", "mug", quantity, card)
        return world.surely(
            lambda: world.client.start(order.fulfil_order, wanted, id=f"{id}-{name}", submission_id=f"{id}-{name}")
        )

    good, declined, many = (
        await start("good"),
        await start("declined", card="declined"),
        await start("many", quantity=99),
    )
    regretted = await start("regretted")
    await world.surely(lambda: good.signal(order.shipping_confirmed, order.Shipped("DHL"), signal_id="1"))
    await world.until(lambda: _waits_for_shipping(regretted))
    await world.surely(lambda: regretted.cancel("the customer asked"))
    try:
        last = await regretted.result()
    except RunCancelled:
        last = "cancelled"
    return [await good.result(), await declined.result(), await many.result(), last]


async def _waits_for_shipping(run: Run[str]) -> bool:
    return (await run.describe()).custom_status == "waiting on shipping confirmation"


# ---- people


@gives("approved by dee, 420 paid out")
async def approval_escalated(world: World, id: str) -> str:
    expense = approval.Expense("e-1", 420, "ann", "dee")
    start = partial(world.client.start, approval.approve_expense, expense, seconds(0.5), id=id, submission_id=id)
    run: Run[str] = await world.surely(start)

    async def escalated() -> bool:
        return (await run.describe()).attributes.get("approver") == "dee"

    await world.until(escalated)
    await world.surely(lambda: run.signal(approval.decision, approval.Approved("dee"), signal_id="1"))
    return await run.result()


@gives(["remove", "keep", "remove"])
async def moderation_by_callback(world: World, id: str) -> list[str]:
    def start(name: str, patience: timedelta) -> Awaitable[Run[moderation.Verdict]]:
        post, run_id = moderation.Post(name, "buy now!"), f"{id}-{name}"
        return world.surely(
            lambda: world.client.start(moderation.moderate, post, patience, id=run_id, submission_id=run_id)
        )

    async def ticket(run: Run[Any]) -> str:
        return str((await run.query("ticket"))["token"])

    decided, refused = await start("decided", hours(1)), await start("refused", hours(1))
    forgotten = await start("forgotten", seconds(0.5))
    token = await world.until(lambda: ticket(decided))
    await world.surely(lambda: world.client.callback(token).complete("remove", submission_id="1"))
    other = await world.until(lambda: ticket(refused))
    await world.surely(lambda: world.client.callback(other).fail("no opinion", submission_id="2"))
    return [await run.result() for run in (decided, refused, forgotten)]


# ---- many things


@gives(("2360 rows, 2 files failed", 1980))
async def nightly_with_broken_files(world: World, id: str) -> tuple[str, int]:
    start = partial(world.client.start, nightly.nightly_import, "2026-11-28", 120, id=id, submission_id=id)
    run = await world.surely(start)
    batches = partial(world.client.start, nightly.nightly_in_batches, "2026-11-28", 100)
    second = await world.surely(partial(batches, id=f"{id}-batches", submission_id=f"{id}-batches"))
    return await run.result(), await second.result()


@gives(("369 rows; failed: table-7, table-17", "28 rows", "ID-7 failed: examples.etl.NoSuchTable: 7"))
async def etl_with_missing_tables(world: World, id: str) -> tuple[str, ...]:
    a, b, missing = etl.Table("a"), etl.Table("b"), etl.Table("7")
    runs = [
        await world.surely(partial(world.client.start, etl.load_all, 20, id=id, submission_id=id)),
        await world.surely(partial(world.client.start, etl.load_two, a, b, id=f"{id}-2", submission_id=f"{id}-2")),
        await world.surely(
            partial(world.client.start, etl.load_two, a, missing, id=f"{id}-3", submission_id=f"{id}-3")
        ),
    ]
    return tuple([(await run.result()).replace(f"{id}-3", "ID") for run in runs])


@gives(("3 votes are enough", "no quorum: 3 of 5 did not vote"))
async def vote_with_and_without_quorum(world: World, id: str) -> tuple[str, str]:
    there, absent = ["ann", "bob", "cem", "dee", "eve"], ["ann", "absent-1", "absent-2", "absent-3", "bob"]
    many = await world.surely(partial(world.client.start, vote.elect, there, 3, id=id, submission_id=id))
    few = await world.surely(partial(world.client.start, vote.elect, absent, 3, id=f"{id}-2", submission_id=f"{id}-2"))
    quotes = partial(world.client.start, vote.cheapest_of_two, "abc", "def", id=f"{id}-3", submission_id=f"{id}-3")
    assert await (await world.surely(quotes)).result() == 3
    return await many.result(), await few.result()


# ---- long things, and things to be undone


@gives((["cat.mov.1080p", "cat.mov.720p", "cat.mov.696.jpg"], "stopped: enough"))
async def transcode_and_stop(world: World, id: str) -> tuple[list[str], str]:
    video = transcode.Video("cat.mov", 20, 0.02)
    whole = await world.surely(partial(world.client.start, transcode.publish, video, id=id, submission_id=id))
    film = transcode.Video("film.mov", 10_000_000, 0.02)
    start = partial(world.client.start, transcode.publish_unless_stopped, film, id=f"{id}-2", submission_id=f"{id}-2")
    endless = await world.surely(start)
    await world.surely(lambda: endless.signal(transcode.stop, "enough", signal_id="1"))
    return await whole.result(), await endless.result()


@gives(("settled after 3 looks", "returned after 1 looks", "unknown after 0:00:00.500000"))
async def transfer_looked_up_until_settled(world: World, id: str) -> tuple[str, ...]:
    runs = []
    for name, patience in (("DE89", hours(1)), ("XX12", hours(1)), ("??", seconds(0.5))):
        run_id = f"{id}-{name}"
        args = (500, name, seconds(0.1), patience)
        runs.append(
            await world.surely(partial(world.client.start, transfer.pay, *args, id=run_id, submission_id=run_id))
        )
    return tuple([await run.result() for run in runs])


@gives(
    (
        "booked flight-ID/1/2 and hotel-ID/1/4",
        "not booked: no hotel above the water",
        "somebody must look: ['release_hold'] failed after no hotel above the water",
    )
)
async def trip_booked_and_undone(world: World, id: str) -> tuple[str, ...]:
    results = []
    for number, (who, city) in enumerate([("ann", "Rome"), ("ann", "Atlantis"), ("nobody", "Atlantis")]):
        run_id = f"{id}-{number}"
        start = partial(world.client.start, trip.book_trip, trip.Trip(who, city), id=run_id, submission_id=run_id)
        results.append((await (await world.surely(start)).result()).replace(run_id, "ID"))
    return tuple(results)


# ---- for ever


@gives(("pro", True))
async def subscription_changed_and_ended(world: World, id: str) -> tuple[str, bool]:
    account = subscription.Account("c-1", subscription.Plan("basic", 500))
    start = partial(world.client.start, subscription.subscription, account, seconds(0.5), id=id, submission_id=id)
    run = await world.surely(start)

    async def billed_twice() -> bool:
        return (await run.query(subscription.current)).periods >= 2

    await world.until(billed_twice)
    pro, bad = subscription.Plan("pro", 900), subscription.Plan("bad", -1)
    await world.surely(lambda: run.update(subscription.change_plan, pro, update_id="u-1"))
    with pytest.raises(UpdateRejected, match="cannot cost less than nothing"):
        await world.surely(lambda: run.update(subscription.change_plan, bad, update_id="u-2"))
    periods = (await world.surely(lambda: run.query(subscription.current))).periods

    async def billed_again() -> bool:
        return (await run.query(subscription.current)).periods > periods

    await world.until(billed_again)
    await world.surely(lambda: run.signal(subscription.unsubscribe, "too expensive", signal_id="1"))
    end = await run.result()
    basic = (end.periods * 900 - end.paid_cents) // 400  # so many periods at 500, the rest at 900
    return end.plan.name, 2 <= basic <= periods and end.paid_cents == basic * 500 + (end.periods - basic) * 900


@gives(("shipped o-1", "shipped stolen-2", "held back stolen-3"))
async def dispatch_in_two_versions(world: World, id: str) -> tuple[str, ...]:
    results = []
    for what, version in (("o-1", 2), ("stolen-2", 1), ("stolen-3", None)):
        run_id = f"{id}-{what}"
        start = partial(world.client.start, dispatch.dispatch, what, version=version, id=run_id, submission_id=run_id)
        results.append(await (await world.surely(start)).result())
    return tuple(results)


@gives(500)
async def counter_over_many_runs(world: World, id: str) -> int:
    run: Run[int] = await world.surely(partial(world.client.start, counter.counter, 0, 20, id=id, submission_id=id))

    def plus(number: int) -> Awaitable[None]:
        return world.surely(lambda: run.signal(counter.add, 5, signal_id=f"add-{number}"))

    for number in range(100):
        await plus(number)

    async def all_counted() -> bool:
        return await run.query(counter.value) == 500

    await world.until(all_counted)
    await world.surely(lambda: run.signal(counter.close, None, signal_id="close"))
    return await run.result()
