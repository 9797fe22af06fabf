"""Updates: validated without a trace, carried out once per id, answered in history."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from msgspec import Raw
from tests.engine.kit import NOW, Case, begin, raw, replay, state

from everstep import App, Context, Signal, Update, days
from everstep._core.engine import CannotRun, Engine
from everstep._core.run import LiveRun
from everstep_schemas import events, wire
from everstep_schemas.names import Topics

go = Signal[int]("go")
tools = App("tools")


@tools.activity
async def work(n: int) -> int:
    raise AssertionError("workers run activities")


@dataclass
class Plan:
    name: str
    cents: int


@dataclass
class Credit:
    cents: int


change_plan = Update[Plan, Credit]("change_plan")


def known(plan: Plan) -> None:
    if plan.cents < 0:
        raise ValueError("a plan cannot cost less than nothing")


async def subscription(ctx: Context) -> list[str]:
    plans: list[str] = []

    @ctx.on_update(change_plan, validate=known)
    async def _(plan: Plan) -> Credit:
        credit = await work(plan.cents)
        plans.append(plan.name)
        return Credit(credit)

    await ctx.wait_for_signal(go)
    return plans


PRO = {"name": "pro", "cents": 5}


def test_an_update_is_an_input_event_and_its_answer_a_command_that_is_published() -> None:
    case = begin(subscription)
    case.update("change_plan", PRO, id="u1")
    assert case.last_events == [
        events.UpdateRequested(name="change_plan", value=raw(PRO), update_id="u1"),
        events.ActivityScheduled(name="work", queue="default", args=Raw(b"[5]"), timeout_seconds=10.0),
    ]
    assert case.run.answer_to("u1") is None
    case.complete(4, 2)
    assert case.last == [events.UpdateCompleted(ref=3, update_id="u1", value=raw({"cents": 2}))]
    (fact,) = case.sent("everstep.update.completed")
    assert (fact["submission_id"], fact["result"], fact["seq"]) == ("u1", {"cents": 2}, 6)
    assert case.run.answer_to("u1") == (6, case.last[0])
    case.signal("go", 1)
    assert case.result == ["pro"]
    assert case.run.answer_to("u1") is not None, "also when the run has closed"


def test_one_id_is_carried_out_once() -> None:
    case = begin(subscription)
    case.update("change_plan", PRO, id="u1")
    assert case.update("change_plan", PRO, id="u1") is None
    assert case.update("other", 1, id="u1") is None, "whatever comes under that id"
    assert case.refused is None
    case.complete(4, 2)
    assert case.update("change_plan", PRO, id="u1") is None
    assert case.refused is None
    assert case.replayed().answer_to("u1") == case.run.answer_to("u1")
    case.update("change_plan", PRO, id="u2")
    assert case.kinds == ["ActivityScheduled"]


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("change_plan", {"name": "pro", "cents": -1}, "a plan cannot cost less than nothing"),
        ("change_plan", {"name": "pro"}, "does not fit: Object missing required field `cents` - at `$`"),
        ("other", 1, "the run takes no update 'other'; those it takes: 'change_plan'"),
    ],
)
def test_what_is_refused_leaves_no_trace(name: str, value: Any, reason: str) -> None:
    case = begin(subscription)
    before = state(case.run)
    assert case.update(name, value, id="u1") is None
    assert reason in str(case.refused)
    assert state(case.run) == before
    assert case.update("change_plan", PRO, id="u1") is not None, "the id is still free"


def test_an_update_before_its_handler_or_before_the_run_begins_is_refused() -> None:
    async def late(ctx: Context) -> None:
        await work(1)

        async def handler(plan: Plan) -> Credit:
            return Credit(1)

        ctx.on_update(change_plan, handler)
        await ctx.wait_for_signal(go)

    case = begin(late)
    assert case.update("change_plan", PRO) is None
    assert case.refused == "the run takes no update 'change_plan'; those it takes: none"
    case.complete(2, 1)
    assert case.update("change_plan", PRO) is not None
    assert case.kinds == ["UpdateCompleted"]


def test_plain_names_take_and_give_plain_values() -> None:
    async def plain(ctx: Context) -> None:
        async def double(n: Any) -> Any:
            return {"twice": n * 2}

        ctx.on_update("double", double)
        await ctx.wait_for_signal(go)

    case = begin(plain)
    case.update("double", 4)
    assert case.last == [events.UpdateCompleted(ref=3, update_id="update-1", value=raw({"twice": 8}))]


class Silent(Exception):
    def __str__(self) -> str:
        raise KeyError


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ValueError(), "ValueError"),
        (ValueError("\ud800" + "x" * 9_000), "characters left out"),
        (Silent(), "str() of this"),
        (SystemExit(3), "3"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (asyncio.CancelledError(), "CancelledError"),
        (GeneratorExit(), "GeneratorExit"),
    ],
    ids=lambda one: type(one).__name__,
)
def test_whatever_a_validator_raises_is_a_refusal(error: BaseException, words: str) -> None:
    async def validating(ctx: Context) -> None:
        async def handler(n: int) -> int:
            return n

        def refuse(n: int) -> None:
            raise error

        ctx.on_update(Update[int, int]("u"), handler, validate=refuse)
        await ctx.wait_for_signal(go)

    case = begin(validating)
    assert case.update("u", 1) is None
    assert words in str(case.refused)
    assert case.refused is not None
    case.refused.encode()
    case.signal("go", 1)
    assert case.run.closed == "completed"


Use = Callable[[Context, "Held"], Any]


class Held:
    """What the code of the run holds on to."""

    def __init__(self, ctx: Context) -> None:
        self.loop = asyncio.get_running_loop()
        self.event = asyncio.Event()
        self.future: asyncio.Future[int] = self.loop.create_future()
        self.waiting = ctx.wait_for_signal("never")
        self.sleeping = ctx.sleep(days(1))
        self.working = work(1)
        self.random = ctx.random
        self.task = asyncio.ensure_future(self.nap(ctx))
        self.stream = ctx.signals(go)

    async def nap(self, ctx: Context) -> None:
        await ctx.sleep(days(2))


async def coroutine() -> int:
    return 1


# What a validator or a query tries, and may not: it is refused, and nothing has happened.
COMMANDS: dict[str, Use] = {
    "activity": lambda ctx, held: work(1),
    "by name": lambda ctx, held: ctx.activity("x"),
    "child": lambda ctx, held: ctx.child("x"),
    "external": lambda ctx, held: ctx.external("x"),
    "sleep": lambda ctx, held: ctx.sleep(days(1)),
    "signal": lambda ctx, held: ctx.wait_for_signal(go),
    "receive": lambda ctx, held: held.stream.receive(),
    "callback": lambda ctx, held: ctx.callback(int),
    "wait_until": lambda ctx, held: ctx.wait_until(lambda: True),
    "status": lambda ctx, held: ctx.set_status("x"),
    "milestone": lambda ctx, held: ctx.milestone("x"),
    "attribute": lambda ctx, held: ctx.attributes.update(a=1),
    "patched": lambda ctx, held: ctx.patched("x"),
    "retire": lambda ctx, held: ctx.retire_patch("x"),
    "side_effect": lambda ctx, held: ctx.side_effect(lambda: 1),
    "map": lambda ctx, held: ctx.map(work, [1]),
    "batches": lambda ctx, held: ctx.map_batches(coroutine, [1], size=1),  # type: ignore[arg-type]  # never called
    "first": lambda ctx, held: ctx.first(held.waiting),
    "poll": lambda ctx, held: ctx.poll(coroutine, until=bool),
    "saga": lambda ctx, held: ctx.saga(),
    "expose": lambda ctx, held: ctx.expose(x=1),
    "on_query": lambda ctx, held: ctx.on_query("x", lambda: 1),
    "on_update": lambda ctx, held: ctx.on_update("x", lambda n: work(1)),
    "on_signal": lambda ctx, held: ctx.on_signal(go, lambda n: None),
    "on_unreadable": lambda ctx, held: ctx.on_unreadable_signal(lambda n: None),
    "call_later": lambda ctx, held: held.loop.call_later(1, print),
    "give back": lambda ctx, held: held.waiting.cancel(),
}
# What leaves nothing behind, because it is undone.
HARMLESS: dict[str, Use] = {
    "uuid4": lambda ctx, held: ctx.uuid4(),
    "random": lambda ctx, held: ctx.random.random(),
    "held random": lambda ctx, held: [held.random.random() for _ in range(700)],
    "create_future": lambda ctx, held: [held.loop.create_future()],
    "Event": lambda ctx, held: asyncio.Event(),
    "result": lambda ctx, held: held.waiting.done() and held.waiting.result(),
    "pending": lambda ctx, held: held.stream.pending(),
    "log": lambda ctx, held: ctx.log.info("looking"),
    "info": lambda ctx, held: ctx.info,
    "attributes": lambda ctx, held: dict(ctx.attributes),
}
# What cannot be undone: it is noticed, and the run is as good as evicted.
CHANGES: dict[str, Use] = {
    "create_task": lambda ctx, held: held.loop.create_task(held.event.wait()),
    "call_soon": lambda ctx, held: held.loop.call_soon(print),
    "ensure_future": lambda ctx, held: asyncio.ensure_future(held.event.wait()),
    "task.cancel": lambda ctx, held: held.task.cancel(),
    "sleeping.cancel": lambda ctx, held: held.sleeping.cancel(),
    "working.cancel": lambda ctx, held: held.working.cancel(),
}


def looking(name: str) -> Case:
    """A run that answers an update after trying something."""
    use = (COMMANDS | HARMLESS | CHANGES)[name]

    async def looked_at(ctx: Context) -> list[Any]:
        held = Held(ctx)

        async def handler(n: int) -> int:
            return n

        ctx.on_update(Update[int, int]("u"), handler, validate=lambda n: use(ctx, held))
        first: int = await ctx.wait_for_signal(go)
        return [first, str(ctx.uuid4()), held.random.random(), hash(held.loop.create_future())]

    case = begin(looked_at)
    case.signal("never", 5)
    return case


def same_as_untouched(case: Case) -> None:
    untouched = looking("info")
    assert state(case.run) == state(untouched.run)
    for one in (case, untouched):
        one.signal("go", 1)
    assert case.result == untouched.result


@pytest.mark.parametrize("name", COMMANDS)
def test_a_validator_that_tries_to_do_something_is_refused_and_nothing_has_happened(name: str) -> None:
    case = looking(name)
    assert case.update("u", 1) is None
    assert "it leaves no event" in str(case.refused)
    same_as_untouched(case)


@pytest.mark.parametrize("name", HARMLESS)
def test_what_a_validator_may_do_leaves_nothing_behind(name: str) -> None:
    case = looking(name)
    case.update("u", 1)
    other = looking("info")
    other.update("u", 1)
    assert state(case.run) == state(other.run)
    for one in (case, other):
        one.signal("go", 1)
    assert case.result == other.result


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
@pytest.mark.parametrize("name", CHANGES)
def test_a_validator_that_has_changed_the_run_is_found_and_the_run_loses_nothing(name: str) -> None:
    case = looking(name)
    with pytest.raises(CannotRun, match="has changed what the run does next") as caught:
        case.run.accept(wire.Update(workflow_id="order-17", name="u", value=raw(1), update_id="u1"), case.now)
    assert caught.value.reason.kind == "nondeterminism"
    case.run.evict()
    case.run = case.replayed()
    same_as_untouched(case)


def test_a_validator_that_awaits_is_refused() -> None:
    async def validating(ctx: Context) -> None:
        async def handler(n: int) -> int:
            return n

        async def validate(n: int) -> None:
            await work(n)

        ctx.on_update(Update[int, int]("u"), handler, validate=validate)
        await ctx.wait_for_signal(go)

    case = begin(validating)
    assert case.update("u", 1) is None
    assert case.refused == "the validator of update 'u' awaits something; it only looks: write `def`"


@pytest.mark.parametrize(
    ("how", "type"),
    [
        ("raise", "ValueError"),
        ("wrong result", "everstep.errors.PayloadError"),
        ("too large", "everstep.errors.PayloadError"),
        ("plain", "TypeError"),
        ("exit", "SystemExit"),
        ("cancelled", "asyncio.exceptions.CancelledError"),
    ],
)
def test_a_handler_that_fails_fails_its_update_and_not_the_run(how: str, type: str) -> None:
    async def failing(ctx: Context) -> str:
        async def handler(n: int) -> int:
            match how:
                case "raise":
                    raise ValueError(n)
                case "wrong result":
                    return "seven"  # type: ignore[return-value]  # the mistake that is found
                case "too large":
                    return int("9" * 2_000)
                case "exit":
                    raise SystemExit
                case _:
                    handle = work(1)
                    handle.cancel()
                    return await handle

        fn: Any = (lambda n: n) if how == "plain" else handler
        ctx.on_update(Update[int, int]("u"), fn)
        got: int = await ctx.wait_for_signal(go)
        return str(got)

    case = begin(failing, limit=1_000)
    case.update("u", 1)
    failed = case.last[-1]
    assert isinstance(failed, events.UpdateFailed)
    assert failed.error.type == type
    (fact,) = case.sent("everstep.update.failed")
    assert fact["submission_id"] == "update-1"
    case.signal("go", 3)
    assert case.result == "3"


@pytest.mark.parametrize("end", ["return", "raise", "cancel", "terminate", "time out"])
def test_a_handler_that_has_not_ended_when_the_run_closes_is_answered(end: str) -> None:
    async def never_ending(ctx: Context) -> None:
        async def handler(n: int) -> int:
            await ctx.sleep(days(n))
            return n

        ctx.on_update(Update[int, int]("u"), handler)
        await ctx.wait_for_signal(go)
        if end == "raise":
            raise ValueError

    case = begin(never_ending, begin={"timeout_seconds": 60.0})
    case.update("u", 100, id="u1")
    ends: dict[str, Callable[[], Any]] = {"cancel": case.cancel, "terminate": case.terminate, "time out": case.wake}
    ends.get(end, lambda: case.signal("go", 1))()
    assert events.UpdateFailed(ref=3, update_id="u1", error=events.RUN_ENDED) in case.last
    assert len(case.sent("everstep.update.failed")) == 1
    answer = case.run.answer_to("u1")
    assert answer is not None
    assert answer[1].update_id == "u1"


def test_handlers_run_side_by_side_in_the_order_in_which_they_were_asked() -> None:
    case = begin(subscription)
    for n in (1, 2, 3):
        case.update("change_plan", {"name": f"p{n}", "cents": n})
    first, second, third = case.pending()
    for seq in (second, first, third):
        case.complete(seq, 0)
    case.signal("go", 1)
    assert case.result == ["p2", "p1", "p3"]


def test_a_handler_can_change_what_the_function_waits_for() -> None:
    async def waits(ctx: Context) -> int:
        total = 0

        @ctx.on_update(Update[int, int]("add"))
        async def _(n: int) -> int:
            nonlocal total
            total += n
            return total

        await ctx.wait_until(lambda: total >= 5)
        return total

    case = begin(waits)
    case.update("add", 2)
    case.update("add", 3)
    assert case.kinds == ["UpdateCompleted", "ConditionMet", "Completed"]
    assert case.result == 5


def test_code_that_has_lost_a_handler_cannot_replay() -> None:
    case = begin(subscription)
    case.update("change_plan", PRO)

    async def without(ctx: Context) -> list[str]:
        await ctx.wait_for_signal(go)
        return []

    app = App("changed")
    app.workflow(name="subscription")(without)
    with pytest.raises(CannotRun, match="takes no update 'change_plan', which history holds"):
        replay(Engine(app, Topics(), max_payload_bytes=1 << 20), case.identity, case.rows)


def test_another_answer_is_a_difference_of_arguments_and_another_end_is_one_of_code() -> None:
    async def doubling(ctx: Context) -> None:
        async def handler(n: int) -> int:
            return n * 2

        ctx.on_update(Update[int, int]("u"), handler)
        await ctx.wait_for_signal(go)

    async def tripling(ctx: Context) -> None:
        async def handler(n: int) -> int:
            return n * 3

        ctx.on_update(Update[int, int]("u"), handler)
        await ctx.wait_for_signal(go)

    async def failing(ctx: Context) -> None:
        async def handler(n: int) -> int:
            raise ValueError

        ctx.on_update(Update[int, int]("u"), handler)
        await ctx.wait_for_signal(go)

    def replayed(fn: Any) -> LiveRun:
        app = App("changed")
        app.workflow(name="doubling")(fn)
        return replay(Engine(app, Topics(), max_payload_bytes=1 << 20), case.identity, case.rows)

    case = begin(doubling)
    case.update("u", 2, id="u1")
    again = replayed(tripling)
    assert again.argument_differences == 1
    assert again.answer_to("u1") == case.run.answer_to("u1"), "what was answered holds"
    with pytest.raises(CannotRun, match="the answer to update 3"):
        replayed(failing)


def test_names_and_identities_are_checked() -> None:
    async def wrong(ctx: Context) -> str:
        async def handler(n: int) -> int:
            return n

        bad: list[Any] = ["", "\0", 5]
        for name in bad:
            with pytest.raises(ValueError, match="update"):
                ctx.on_update(name, handler)
            with pytest.raises(ValueError, match="query"):
                ctx.on_query(name, lambda: 1)
        return "found"

    assert begin(wrong).result == "found"
    case = begin(subscription)
    with pytest.raises(ValueError, match="without an id"):
        case.run.accept(wire.Update(workflow_id="order-17", name="change_plan", value=raw(PRO)), NOW)


def test_an_update_that_was_carried_out_by_an_earlier_run_is_refused() -> None:
    async def relay(ctx: Context, again: bool) -> None:
        async def handler(n: int) -> int:
            return n

        ctx.on_update(Update[int, int]("u"), handler)
        await ctx.wait_for_signal(go)
        if not again:
            ctx.continue_as_new(workflow, True)

    app = App("relay")
    workflow = app.workflow(relay)
    case = Case(app, workflow, False)
    case.update("u", 1, id="u1")
    case.signal("go", 1)
    following = case.next_run()
    assert following.update("u", 1, id="u1") is None
    assert following.refused == "duplicate: update 'u1' was carried out by an earlier run of this id"
    assert following.update("u", 1, id="u2") is not None
