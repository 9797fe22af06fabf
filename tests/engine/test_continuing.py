"""Going on as a new run: from wherever the code is, with all that belongs to the id, and nothing that grows."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from msgspec import Raw
from tests.engine.kit import NOW, SECOND, Case, begin, raw, replay

from everstep import App, Context, Signal, Update, days, hours, seconds
from everstep._core.engine import CannotRun, Engine, Successor
from everstep._core.starting import Birth, of_successor
from everstep._core.timers import instant
from everstep.errors import PayloadError
from everstep_schemas import events
from everstep_schemas.events import encode_events
from everstep_schemas.names import Topics

app = App("continuing")
go = Signal[int]("go")
other = Signal[int]("other")
change = Update[int, int]("change")


@app.activity
async def work(n: int) -> int:
    raise AssertionError("workers run activities")


@app.workflow
async def counter(ctx: Context, n: int, *, label: str = "") -> int:
    await work(n)
    if n > 0:
        ctx.continue_as_new(counter, n - 1, label=label + "x")
    return len(label)


def test_the_run_closes_and_says_what_the_next_one_is() -> None:
    case = Case(app, counter, 3)
    activation = case.complete(2, 1)
    assert activation.closed == "continued"
    assert case.last == [events.Continued(workflow="counter", args=Raw(b"[2]"), kwargs=Raw(b'{"label":"x"}'))]
    assert activation.successor == Successor(
        source=case.token(4, 0),
        workflow="counter",
        args=b"[2]",
        kwargs=b'{"label":"x"}',
        version=None,
        attributes={},
        memo={},
        inherited=events.Inheritance(signal_ids=(), update_ids=()),
    )
    assert case.sent("everstep.run.continued")[0]["seq"] == 4
    for _ in range(3):
        case = case.next_run()
        case.complete(2, 1)
    assert case.result == 3
    assert case.identity.run == 4


@app.workflow(name="other way", version=1)
async def old_way(ctx: Context) -> str:
    return "old"


@app.workflow(name="other way", version=2, timeout=hours(5))
async def new_way(ctx: Context) -> str:
    await work(1)
    return "new"


def test_it_can_go_on_as_another_workflow_with_that_ones_limits() -> None:
    async def first(ctx: Context, version: int) -> None:
        ctx.continue_as_new(new_way if version == 2 else new_way.options(version=1, timeout=seconds(7)))

    flow = App("flow", include=[app])
    workflow = flow.workflow(timeout=seconds(60))(first)
    newest = Case(flow, workflow, 2).last_activation.successor
    chosen = Case(flow, workflow, 1).last_activation.successor
    assert newest is not None
    assert chosen is not None
    assert (newest.version, newest.timeout_seconds) == (None, None), "that one's own, not this one's"
    assert (chosen.version, chosen.timeout_seconds) == (1, 7.0)
    following = Case(flow, workflow, 2).next_run()
    assert following.identity.version == 2
    assert following.run.wakeup_at() == NOW + 5 * 3_600 * SECOND


def test_what_belongs_to_the_id_goes_along() -> None:
    async def carrying(ctx: Context, n: int) -> dict[str, Any]:
        if n == 0:
            ctx.attributes["customer"] = "Ada"
            ctx.attributes["tags"] = ["a", "b"]
            await ctx.wait_for_signal(go)
            ctx.continue_as_new(workflow, 1)
        return {
            "attributes": dict(ctx.attributes),
            "first": await ctx.wait_for_signal(other),
            "second": await ctx.wait_for_signal(go),
            "attempt": ctx.info.attempt,
        }

    flow = App("flow")
    workflow = flow.workflow(carrying)
    started = {
        "memo": {"who": raw("me")},
        "traceparent": "00-1-2-01",
        "timeout_seconds": 60.0,
        "attributes": {"given": True},
    }
    case = Case(flow, workflow, 0, begin=started)
    case.signal("other", 7, id="o1")
    case.signal("go", 1, id="g1")
    successor = case.last_activation.successor
    assert successor is not None
    assert successor.attributes == {"given": True, "customer": "Ada", "tags": ["a", "b"]}
    assert (successor.memo, successor.traceparent, successor.timeout_seconds) == (
        {"who": raw("me")},
        "00-1-2-01",
        60.0,
    )
    assert successor.inherited == events.Inheritance(
        unread=(events.Unread(name="other", value=raw(7), signal_id="o1"),), signal_ids=("o1", "g1")
    )
    following = case.next_run()
    begun = following.history[0]
    assert isinstance(begun, events.Started)
    assert begun.source == case.token(len(case.history), 0)
    assert begun.expires_at == instant(following.now + 60 * SECOND)
    assert following.signal("other", 8, id="o1") is None, "applied by the run before"
    assert following.signal("go", 8, id="g1") is None
    following.signal("go", 2, id="g2")
    assert following.result == {
        "attributes": {"given": True, "customer": "Ada", "tags": ["a", "b"]},
        "first": 7,
        "second": 2,
        "attempt": 1,
    }


@pytest.mark.parametrize("held", ["waited for", "in a wait", "in a stream", "in a handler", "raced"])
def test_a_message_that_the_code_has_not_seen_goes_along_wherever_it_was(held: str) -> None:
    async def holding(ctx: Context, again: bool) -> list[int]:
        if not again:
            await work(1)
            hold(ctx)
            ctx.continue_as_new(workflow, True)
        return [await ctx.wait_for_signal(go) for _ in range(2)]

    def hold(ctx: Context) -> None:
        got: list[int] = []
        match held:
            case "in a wait":
                ctx.wait_for_signal(go)
            case "in a stream":
                ctx.signals(go).receive()
            case "in a handler":
                ctx.on_signal(go, got.append)
            case "raced":
                ctx.first(ctx.wait_for_signal(go), work(2))

    flow = App("flow")
    workflow = flow.workflow(holding)
    case = Case(flow, workflow, False)
    case.signal("go", 1)
    case.signal("go", 2)
    case.complete(2, 0)
    assert case.last_activation.unread == {}, "they are not lost"
    assert case.next_run().result == [1, 2]


def test_a_message_that_was_answered_to_a_wait_which_nobody_looked_at_goes_along() -> None:
    async def early(ctx: Context, again: bool) -> int:
        waiting = ctx.wait_for_signal(go)
        if not again:
            await work(1)
            assert waiting.done()
            ctx.continue_as_new(workflow, True)
        return await waiting

    flow = App("flow")
    workflow = flow.workflow(early)
    case = Case(flow, workflow, False)
    case.signal("go", 5)
    case.complete(3, 0)
    assert case.next_run().result == 5


def test_one_that_was_looked_at_does_not() -> None:
    async def looking(ctx: Context, again: bool) -> int:
        if not again:
            waiting = ctx.wait_for_signal(go)
            done, _ = await asyncio.wait([waiting, work(1)], return_when=asyncio.FIRST_COMPLETED)
            assert waiting in done
            waiting.result()
            ctx.continue_as_new(workflow, True)
        return await ctx.wait_for_signal(go, timeout=seconds(1), default=-1)

    flow = App("flow")
    workflow = flow.workflow(looking)
    case = Case(flow, workflow, False)
    case.signal("go", 5)
    assert case.last_activation.unread == {}
    following = case.next_run()
    following.wake()
    assert following.result == -1


def test_what_is_pending_is_let_go() -> None:
    async def busy(ctx: Context) -> None:
        work(1)
        ctx.child("child")
        ctx.child("left alone", on_parent_close="abandon")
        ctx.callback(int)
        ctx.external("x").cancel()
        ctx.wait_for_signal(go)
        ctx.wait_until(lambda: False)
        ctx.sleep(days(1))

        async def never(n: int) -> int:
            await ctx.sleep(days(1))
            return n

        ctx.on_update(change, never)
        await ctx.wait_for_signal(other)
        ctx.continue_as_new(counter, 0)

    case = begin(busy)
    case.update("change", 1, id="u1")
    case.signal("other", 1)
    assert [event for event in case.last if not isinstance(event, events.Continued)] == [
        events.ActivityCancelled(ref=2),
        events.ChildCancelled(ref=3, workflow_id="order-17/1/3", how="terminate"),
        events.ChildCancelled(ref=4, workflow_id="order-17/1/4", how="abandon"),
        events.UpdateFailed(ref=11, update_id="u1", error=events.RUN_ENDED),
    ]
    assert case.run.wakeup_at() is None
    successor = case.last_activation.successor
    assert successor is not None
    assert successor.inherited.update_ids == ("u1",)


def test_arguments_that_do_not_fit_or_are_too_large_are_errors_at_the_call() -> None:
    async def wrong(ctx: Context, size: int) -> str:
        with pytest.raises(PayloadError, match="Expected `int`"):
            ctx.continue_as_new(counter, "five")  # type: ignore[arg-type]  # the mistake that is found
        with pytest.raises(TypeError, match="unexpected"):
            ctx.continue_as_new(counter, 1, colour="red")  # type: ignore[call-arg]  # the mistake that is found
        with pytest.raises(TypeError, match=r"ctx\.continue_as_new needs a workflow, not 'counter'"):
            ctx.continue_as_new("counter", 1)  # type: ignore[arg-type]  # the mistake that is found
        try:
            ctx.continue_as_new(counter, 1, label="x" * size)
        except PayloadError as error:
            return error.reason

    flow = App("flow")
    workflow = flow.workflow(wrong)
    assert "EVERSTEP_MAX_PAYLOAD_BYTES" in Case(flow, workflow, 1000, limit=500).result
    large = Case(flow, workflow, 1000)
    assert large.run.closed == "continued"
    stricter = Engine(flow, Topics(), max_payload_bytes=500)
    assert replay(stricter, large.identity, large.rows).closed == "continued", "a lowered limit stops no replay"


def test_another_workflow_is_a_difference_and_other_arguments_are_not() -> None:
    case = Case(app, counter, 3)
    case.complete(2, 1)

    def engine(fn: Any) -> Engine:
        changed = App("changed")
        changed.workflow(name="counter")(fn)
        return Engine(changed, Topics(), max_payload_bytes=1 << 20)

    async def elsewhere(ctx: Context, n: int, *, label: str = "") -> int:
        await work(n)
        ctx.continue_as_new(old_way)

    async def fails(ctx: Context, n: int, *, label: str = "") -> int:
        await work(n)
        raise ValueError

    async def ends(ctx: Context, n: int, *, label: str = "") -> int:
        return await work(n)

    async def twice(ctx: Context, n: int, *, label: str = "") -> int:
        await work(n)
        ctx.continue_as_new(counter, n - 2, label="")

    for fn, got in ((elsewhere, "of 'other way'"), (fails, "failure"), (ends, "completion")):
        with pytest.raises(CannotRun, match="going on as a new run of 'counter'") as caught:
            replay(engine(fn), case.identity, case.rows)
        assert got in str(caught.value.reason.got)
    assert replay(engine(twice), case.identity, case.rows).argument_differences == 1


def test_ids_that_go_along_are_the_newest_and_those_of_what_is_unread() -> None:
    async def collecting(ctx: Context) -> None:
        for _ in range(300):
            await ctx.wait_for_signal(go)
        ctx.continue_as_new(workflow)

    flow = App("flow")
    workflow = flow.workflow(collecting)
    case = Case(flow, workflow, check=False)
    case.signal("other", 1, id="unread")
    for n in range(300):
        case.signal("go", n, id=f"g{n}")
    following = case.next_run()
    assert following.signal("go", 1, id="g299") is None
    assert following.signal("go", 1, id="g100") is None
    assert following.signal("other", 1, id="unread") is None, "it is still there"
    assert following.signal("go", 1, id="g50") is not None, "so long ago that nobody sends it again"


def sizes(case: Case) -> tuple[int, int]:
    successor = case.last_activation.successor
    assert successor is not None
    birth = Birth(1, case.identity.nonce, "3.11.7", case.now, None)
    return len(msgspec.json.encode(successor)), len(encode_events([of_successor(successor, None, birth)]))


def test_a_thousand_times_on_nothing_has_grown() -> None:
    flow = App("flow")

    async def endless(ctx: Context, n: int) -> None:
        ctx.attributes["n"] = n % 10
        await ctx.wait_for_signal(go)
        ctx.continue_as_new(workflow, n % 10)

    workflow = flow.workflow(endless)
    case = Case(flow, workflow, 0, check=False)
    seen: list[tuple[int, int]] = []
    for n in range(1_000):
        case.signal("go", n, id=f"signal-{n:06}")
        seen.append(sizes(case))
        nonce = case.identity.nonce
        case = case.next_run()
        case.identity = msgspec.structs.replace(case.identity, nonce=nonce)
    assert seen[999] == seen[500]
