"""The authors' guide does what it says: every section with code has its workflows run, and what they give is looked at.

The code is the page's own, as one program. A section whose workflows nobody runs here fails.
"""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from tests.docs.guide import Section, contents, program, sections, titles

from everstep import (
    NonRetryable,
    RunAlreadyExists,
    RunCancelled,
    RunFailed,
    RunTerminated,
    RunTimedOut,
    UpdateRejected,
    days,
    hours,
    minutes,
    seconds,
)
from everstep.checking import check
from everstep.testing import Calls, WorkflowEnvironment, assert_history, attempt, replay_file
from everstep_schemas.events import ActivityScheduled

Seen = Calls[..., Any]
Play = Callable[[WorkflowEnvironment, Any], Awaitable[None]]
PLAYS: dict[str, Play] = {}
SECTIONS = sections()


def plays(title: str) -> Callable[[Play], Play]:
    """Registers what runs the workflows of a section. It is given the guide's module."""

    def register(play: Play) -> Play:
        PLAYS[title] = play
        return play

    return register


@pytest.fixture(scope="module")
def guide(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    yield from loaded(tmp_path_factory.mktemp("guide") / "writing_workflows.py", program())


def loaded(path: Path, source: str) -> Iterator[Any]:
    """The module in a file of that source, for as long as it is needed."""
    path.write_text(source)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules[path.stem]


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: str(section.title))
async def test_the_section_gives_what_it_says(section: Section, guide: Any) -> None:
    assert section.title in PLAYS, "nothing here runs the code of this section"
    async with WorkflowEnvironment(guide.company) as env:
        await PLAYS[section.title](env, guide)
        ran = {(run.workflow, run.version) async for run in env.client.list()}
    assert section.workflows(guide.company) <= ran


def test_every_workflow_belongs_to_a_section(guide: Any) -> None:
    app = guide.company
    found = [one for section in SECTIONS for one in section.workflows(app)]
    assert sorted(found) == sorted((name, version) for name in app.workflows for version in app.workflows[name])
    assert set(PLAYS) == {section.title for section in SECTIONS}


def test_the_checker_has_nothing_to_say(guide: Any) -> None:
    assert check(guide.company).findings == ()


def test_the_contents_are_the_headings() -> None:
    assert contents() == titles()


# ---- what people do with each section, and what comes of it


@plays("Workflows decide, activities do")
async def _(env: WorkflowEnvironment, guide: Any) -> None:
    flights: Seen = env.spy(guide.book_flight)
    hotels: Seen = env.spy(guide.book_hotel)
    flights.fail(ConnectionError(), times=2)
    run = await env.client.start("travel", guide.Trip("ann", 3), version=1, id="trip-1", returns=int)
    assert await run.result() == 240 + 3 * 90
    assert {info.idempotency_key for info in flights.infos} == {"trip-1/1/2"}  # the same at all three attempts
    assert [info.idempotency_key for info in hotels.infos] != ["trip-1/1/2"]
    with attempt(idempotency_key="k"):
        assert await guide.book_flight(guide.Trip("ann", 3)) == guide.Booking("k", 240)


@plays("Several things at once")
async def _(env: WorkflowEnvironment, guide: Any) -> None:
    env.spy(guide.book_flight).delay(seconds(5))
    env.spy(guide.book_hotel).delay(seconds(5))
    began = env.now()
    fast = await env.client.start(guide.travel_fast, guide.Trip("ann", 1), id="fast")
    assert await fast.result() == 330
    assert env.now() - began == seconds(5)  # not ten: both at once
    together = await env.client.start(guide.travel_together, [guide.Trip("ann", 1), guide.Trip("bob", 1)], id="two")
    assert await together.result() == 480


@plays("Many items")
async def _(env: WorkflowEnvironment, guide: Any) -> None:
    paths = ["a.jpg", "broken.jpg", "bc.jpg"]
    every = await env.client.start(guide.resize_all, paths, id="all")
    assert await every.result() == "11 bytes, failed: ['broken.jpg']"
    (progress,) = await every.query("progress")
    assert (progress["done"], progress["failed"], progress["total"]) == (2, 1, 3)
    as_they_end = await env.client.start(guide.resize_as_they_end, ["broken.jpg", "a.jpg"], id="each")
    assert await as_they_end.result() == [
        "a.jpg: 5",
        "broken.jpg: activity 'resize' failed after 2 attempts: ValueError: broken.jpg is no picture",
    ]
    batches: Seen = env.spy(guide.measure)
    measured = await env.client.start(guide.measure_all, ["a", "bb", "ccc"], id="batches")
    assert await measured.result() == [1, 2, 3]
    assert sorted(batches.args) == [(["a", "bb"],), (["ccc"],)]
    too_many = await env.client.start(guide.resize_all, ["broken.jpg"], id="broken")
    with pytest.raises(RunFailed) as failed:
        await too_many.result()
    assert failed.value.type == "everstep.errors.MapError"


@plays("When activities fail")
async def _(env: WorkflowEnvironment, guide: Any) -> None:
    async def seat(id: str, nights: int = 3) -> Any:
        run = await env.client.start(guide.seat, guide.Trip("ann", nights), id=id)
        return await run.result()

    attempts: Seen = env.spy(guide.reserve_seat)
    assert (await seat("declared", nights=301), attempts.count) == ("stands", 1)  # an answer is not asked for again
    attempts.fail(ConnectionError("no line"), times=3)
    assert await seat("failing") == "asks again tomorrow: ConnectionError: no line"
    attempts.fail(ConnectionError("no line"), times=2)
    assert await seat("late") == "12A"
    attempts.fail(ConnectionError("no line"), times=5)  # three attempts of the first block, two of the second
    block = await env.client.start(guide.seat_and_hotel, guide.Trip("ann", 3), id="block")
    assert await block.result() == "12A and 270"


@plays("Timeouts")
async def _(env: WorkflowEnvironment, guide: Any) -> None:
    began = env.now()
    scans: Seen = env.spy(guide.scan)
    run = await env.client.start(guide.publish_book, 40, id="book")
    assert await run.result() == 40 + sum(page * page for page in range(40))
    assert scans.count == 1
    assert env.now() == began

    async def silent(pages: int) -> Any:
        if len(silences.args) == 1:
            guide.activity.heartbeat(guide.Progress(7))
            await env.sleep(seconds(31))  # one second too long without a word
        return guide.activity.last_heartbeat(guide.Progress).page

    silences = env.replace(guide.scan, silent)
    run = await env.client.start(guide.publish_book, 0, id="silent")
    assert await run.result() == 7  # where the attempt before it was
    assert silences.count == 2


@plays("Signals")
async def _(env: WorkflowEnvironment, guide: Any) -> None:
    trip, client = guide.Trip("ann", 3), env.client
    began = env.now()
    expired = await client.start(guide.approve, trip, id="expired")
    assert (await expired.describe()).custom_status == "waiting for approval"
    assert await expired.result() == "expired"
    assert env.now() - began == days(3)
    approved = await client.start(guide.approve, trip, id="approved")
    await approved.signal("Approved", {"by": 7})  # is put aside, and the wait goes on
    await approved.signal(guide.approved, guide.Approval("bob"))
    assert await approved.result() == "approved by bob"
    diary = await client.start(guide.diary, trip, id="diary", with_signal=(guide.note_added, "rain"))
    for note in ("sun", "home"):
        await diary.signal(guide.note_added, note)
    assert await diary.result() == ["rain", "sun"]
    book = await client.start(guide.guest_book, id="book")
    for signal_id in ("1", "1", "2", "3"):  # the same twice is one
        await book.signal(guide.note_added, "hello", signal_id=signal_id)
    assert await book.result() == 3


@plays("Callbacks")
async def _(env: WorkflowEnvironment, guide: Any) -> None:
    asked = env.replace(guide.ask_visa_office, returns=None)
    granted = await env.client.start(guide.visa, guide.Trip("ann", 3), id="granted")
    await env.settle()
    token = asked.args[0][1]
    assert await granted.query("token") == token
    await env.client.callback(token).complete("granted")
    assert await granted.result() == "granted"
    forgotten = await env.client.start(guide.visa, guide.Trip("ann", 3), id="forgotten")
    assert await forgotten.result() == "no answer"
    failed = await env.client.start(guide.visa, guide.Trip("ann", 3), id="failed")
    await env.settle()
    await env.client.callback(asked.args[2][1]).fail("nobody is in", type="OfficeClosed")
    with pytest.raises(RunFailed, match="OfficeClosed: nobody is in"):
        await failed.result()


@plays("Time")
async def _(env: WorkflowEnvironment, guide: Any) -> None:
    leaves_at = datetime(2026, 7, 1, 18, 30, tzinfo=UTC)
    run = await env.client.start(guide.remind, leaves_at, id="remind")
    assert await run.result() == "asked at 18:30"
    assert env.now() == leaves_at - hours(24) + minutes(90)


@plays("Conditions and polling")
async def _(env: WorkflowEnvironment, guide: Any) -> None:
    began = env.now()
    run = await env.client.start(guide.pick_up, "AZ 1", id="landing")
    assert await run.result() == "landed after 3 looks"
    assert minutes(2.7) <= env.now() - began <= minutes(3.3)  # one minute and two, each a tenth more or less
    env.replace(guide.flight_status, returns="in the air")
    run = await env.client.start(guide.pick_up, "AZ 2", id="late")
    with pytest.raises(RunFailed, match="WaitTimeout"):
        await run.result()


@plays("Races")
async def _(env: WorkflowEnvironment, guide: Any) -> None:
    async def answers(shop: str) -> int:
        await env.sleep(seconds(len(shop)))
        return len(shop)

    env.replace(guide.ask_for_price, answers)
    fastest = await env.client.start(guide.any_price, ["slowest", "fast", "slower"], id="any")
    assert await fastest.result() == 4
    quorum = await env.client.start(guide.three_prices, ["aaaaa", "bbbb", "ccc", "dd"], id="three")
    assert await quorum.result() == 2


@plays("Cancellation")
async def _(env: WorkflowEnvironment, guide: Any) -> None:
    undone: Seen = env.spy(guide.cancel_booking)
    there = await env.client.start(guide.travel_with_regrets, guide.Trip("ann", 3), id="there")
    assert await there.result() == "there/1/4"
    assert undone.count == 0
    regrets = await env.client.start(guide.travel_with_regrets, guide.Trip("bob", 3), id="regrets")
    await env.settle()
    await regrets.cancel("too far")
    with pytest.raises(RunCancelled, match="too far"):
        await regrets.result()
    assert undone.args == [(guide.Booking("regrets/1/2", 240),)]
    stuck = await env.client.start(guide.travel_with_regrets, guide.Trip("bob", 3), id="stuck")
    await env.settle()
    await stuck.terminate("lost")
    with pytest.raises(RunTerminated):
        await stuck.result()
    assert undone.count == 1  # its code was not asked


@plays("Sagas")
async def _(env: WorkflowEnvironment, guide: Any) -> None:
    undone: Seen = env.spy(guide.cancel_booking)
    booked = await env.client.start(guide.travel_or_not, guide.Trip("ann", 3), id="booked")
    assert await booked.result() == "320"
    assert undone.count == 0
    failed = await env.client.start(guide.travel_or_not, guide.Trip("ann", 301), id="failed")
    assert await failed.result() == "not booked: no train goes back that late"
    assert [booking.number for (booking,) in undone.args] == ["failed/1/2"]
    undone.fail(NonRetryable("closed on Sundays"))
    stuck = await env.client.start(guide.travel_or_not, guide.Trip("ann", 301), id="stuck")
    with pytest.raises(RunFailed, match="CompensationError: 1 of the saga's compensations failed"):
        await stuck.result()


@plays("Children")
async def _(env: WorkflowEnvironment, guide: Any) -> None:
    trips = [guide.Trip("ann", 1), guide.Trip("bob", 2)]
    groups = await env.client.start(guide.travel_in_groups, trips, id="groups")
    assert await groups.result() == 330 + 420
    ann = await env.client.run("groups-ann").describe()
    assert ann.parent is not None
    assert ann.parent.workflow_id == "groups"
    careful = await env.client.start(guide.careful_parent, guide.Trip("cem", 1), id="careful")
    assert (await careful.result()).endswith(" costs 330")
    env.spy(guide.book_flight).fail(NonRetryable("no flights today"))
    careful = await env.client.start(guide.careful_parent, guide.Trip("cem", 1), id="unlucky")
    assert "no flights today" in await careful.result()
    diary = await env.client.start(guide.diary, guide.Trip("dee", 1), id="diary-dee")
    assert [await (await env.client.start(guide.tell, who, id=who)).result() for who in ("dee", "eve")] == [
        "told",
        "keeps no diary",
    ]
    assert await diary.result() == []


@plays("Continuing as new")
async def _(env: WorkflowEnvironment, guide: Any) -> None:
    run = await env.client.start(guide.loyalty, 0, id="loyal")
    await env.skip(days(30 * 150))
    await run.signal(guide.stop, "moved away")
    assert await run.result() == 1500
    assert (await run.describe()).run == 2


@plays("Queries")
async def _(env: WorkflowEnvironment, guide: Any) -> None:
    run = await env.client.start(guide.account, 500, id="account")
    assert (await run.query(guide.balance), await run.query("currency")) == (500, "EUR")
    await run.signal(guide.note_added, "tip")
    assert await run.result() == 503
    assert await run.query(guide.balance) == 503  # also when it has ended


@plays("Updates")
async def _(env: WorkflowEnvironment, guide: Any) -> None:
    run = await env.client.start(guide.flexible, guide.Trip("ann", 1), id="flexible")
    await env.settle()
    booking = await run.update(guide.change_nights, 3, update_id="u1")
    assert booking.price == 270
    assert await run.update(guide.change_nights, 3, update_id="u1") == booking  # carried out once
    events = len(env.history(run))
    with pytest.raises(UpdateRejected, match="one night or more"):
        await run.update(guide.change_nights, 0)
    assert len(env.history(run)) == events
    env.replace(guide.book_hotel, returns=guide.Booking("late", 999)).delay(seconds(5))
    longer = asyncio.create_task(run.update(guide.change_nights, 4))
    await env.settle()
    await run.signal(guide.stop, "enough")
    assert await run.result() == 999  # not before what the update is at
    assert (await longer).number == "late"


@plays("Saying what goes on")
async def _(env: WorkflowEnvironment, guide: Any) -> None:
    run = await env.client.start(guide.talkative, guide.Trip("ann", 3), id="talk")
    assert (await run.describe()).custom_status == "booking the flight"
    assert await run.result() == "talk/1/4"
    assert [one.workflow_id async for one in env.client.list(attributes={"traveller": "ann"})] == ["talk"]
    assert "milestone_reached" in [event.kind for event in env.history(run)]


@plays("Runs with limits")
async def _(env: WorkflowEnvironment, guide: Any) -> None:
    flights: Seen = env.spy(guide.book_flight).fail(NonRetryable("strike"))
    run = await env.client.start(guide.limited, guide.Trip("ann", 3), id="limited")
    assert await run.result() == 240
    assert (await run.describe()).run == 2  # the failed run was continued by the next one
    flights.fail(ConnectionError(), times=1000)
    late = await env.client.start(guide.limited, guide.Trip("ann", 3), id="late", timeout=hours(1))
    with pytest.raises(RunTimedOut):
        await late.result()
    description = await late.describe()
    assert description.expires_at == description.started_at + hours(1)
    with pytest.raises(RunAlreadyExists):
        await env.client.start(guide.limited, guide.Trip("ann", 3), id="late")
    tomorrow = env.now() + days(1)
    later = await env.client.start(guide.limited, guide.Trip("ann", 3), id="later", start_at=tomorrow)
    assert (await later.describe()).begins_at == tomorrow


@plays("From the outside")
async def _(env: WorkflowEnvironment, guide: Any) -> None:
    assert await guide.send_somebody(env.client, guide.Trip("ann", 3)) == "approved by bob"
    waiting = await env.client.start(guide.approve, guide.Trip("bob", 3), id="trip-bob", attributes={"office": "Rome"})
    assert await guide.waiting_in(env.client, "Rome") == ["trip-bob"]
    assert await waiting.result() == "expired"


@plays("What replay asks of the code")
async def _(env: WorkflowEnvironment, guide: Any) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("REGION", "Rome")
        run = await env.client.start(guide.lottery, ["ann"], id="lottery")
    assert (await run.result()).startswith("ann of Rome (")


@plays("Changing a workflow")
async def _(env: WorkflowEnvironment, guide: Any) -> None:
    newest = await env.client.start(guide.travel, guide.Trip("ann", 3), id="newest")
    assert await newest.result() == 510
    assert (await newest.describe()).version == 2
    checks: Seen = env.spy(guide.check_passport)
    marked = [await env.client.start(guide.patched_travel, guide.Trip(who, 3), id=who) for who in ("ann", "nobody")]
    assert [await run.result() for run in marked] == ["ann/1/5", "stays at home"]
    assert checks.count == 2


@plays("Testing")
async def _(env: WorkflowEnvironment, guide: Any) -> None:
    await guide.test_nobody_approves()


@plays("What activities share")
async def _(env: WorkflowEnvironment, guide: Any) -> None:
    class Full:
        async def seats(self) -> int:
            return 0

    open_plane = await env.client.start(guide.any_left, id="left")
    assert await open_plane.result() is True
    assert await guide.free_seats(airline=Full()) == 0
    async with WorkflowEnvironment(guide.app) as other:
        other.provide(guide.open_airline, Full())
        assert await (await other.client.start(guide.any_left, id="full")).result() is False


@plays("Several modules, several teams")
async def _(env: WorkflowEnvironment, guide: Any) -> None:
    printed = env.replace("print", returns="on paper")
    env.replace(guide.archive, lambda invoice: f"shelf of {invoice}")
    run = await env.client.start(guide.bill, guide.Booking("b-1", 240), id="bill")
    assert await run.result() == "on paper, shelf of invoice for b-1"
    assert printed.args == [("invoice for b-1",)]
    scheduled = [one.event for one in env.history(run) if isinstance(one.event, ActivityScheduled)]
    assert {one.name: one.queue for one in scheduled} == {
        "make_invoice": "billing",
        "print": "printers",
        "archive": "archive",
    }


async def test_a_run_that_passed_before_a_patch_keeps_to_its_way(guide: Any, tmp_path: Path) -> None:
    """As the guide says: those that were there before the deploy replay without it."""
    before = program().replace('ctx.patched("passport-check")', "False")
    assert before != program()
    for old in loaded(tmp_path / "before_the_patch.py", before):
        async with WorkflowEnvironment(old.company) as env:
            run = await env.client.start(old.patched_travel, old.Trip("ann", 3), id="t")
            await run.result()
            assert_history(run, tmp_path / "old.jsonl")
    assert replay_file(guide.company, tmp_path / "old.jsonl").events > 0


async def test_the_order_of_the_readme(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "README.md").read_text()
    for shop in loaded(tmp_path / "readme.py", program(text)):
        async with WorkflowEnvironment(shop.app) as env:
            refunds: Seen = env.spy(shop.refund_payment)
            runs = {}
            for name in ("shipped", "forgotten", "cancelled"):
                runs[name] = await env.client.start(shop.fulfil_order, shop.Order(name, "A", 1), id=name)
            await env.settle()
            await runs["shipped"].signal(shop.shipping_confirmed, shop.Shipped("DHL"))
            await runs["cancelled"].cancel("ordered twice")
            assert await runs["shipped"].result() == "shipped"
            assert await runs["forgotten"].result() == "refunded"
            with pytest.raises(RunCancelled):
                await runs["cancelled"].result()
            assert sorted(info.workflow_id for info in refunds.infos) == ["cancelled", "forgotten"]
            many = await env.client.start(shop.fulfil_order, shop.Order("many", "A", 10), id="many")
            assert await many.result() == "out of stock"
            env.spy(shop.process_payment).fail(shop.CardDeclined())
            declined = await env.client.start(shop.fulfil_order, shop.Order("no", "A", 1), id="declined")
            assert await declined.result() == "declined"
