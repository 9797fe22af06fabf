"""Random small programs under random inputs: after every activation a replay reaches the same state."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.engine.kit import Case, state

from everstep import App, Context, Retry
from everstep_schemas import events

app = App("property")


@app.activity
async def work(n: int) -> int:
    raise AssertionError("workers run activities")


@app.activity(retry=Retry(max_attempts=2))
async def shaky(n: int) -> int:
    raise AssertionError("workers run activities")


Program = list[Any]


class Machine:
    """Interprets a program of nested lists with the means of asyncio and of `ctx`."""

    def __init__(self, ctx: Context) -> None:
        self.ctx = ctx
        self.queue: asyncio.Queue[int] = asyncio.Queue(2)
        self.semaphore = asyncio.Semaphore(1)
        self.spawned: list[asyncio.Task[None]] = []

    async def run(self, program: Program) -> None:
        for name, argument, inner in program:
            await getattr(self, name)(argument, inner)

    async def do_work(self, n: int, inner: list[Program]) -> None:
        await work(n)

    async def do_shaky(self, n: int, inner: list[Program]) -> None:
        try:
            await shaky(n)
        except Exception as error:
            self.ctx.set_status(f"{error}")

    async def do_sleep(self, n: int, inner: list[Program]) -> None:
        await (asyncio.sleep(n) if n % 2 else self.ctx.sleep_until(self.ctx.now()))

    async def do_signal(self, n: int, inner: list[Program]) -> None:
        await self.ctx.wait_for_signal("s", type=int)

    async def do_offer(self, n: int, inner: list[Program]) -> None:
        await asyncio.wait([self.ctx.wait_for_signal("s"), work(n)], timeout=n)

    async def do_gather(self, n: int, inner: list[Program]) -> None:
        await asyncio.gather(*map(self.run, inner), return_exceptions=n % 2 == 0)

    async def do_group(self, n: int, inner: list[Program]) -> None:
        async with asyncio.TaskGroup() as group:
            for program in inner:
                group.create_task(self.run(program))
            group.create_task(work(n))

    async def do_timeout(self, n: int, inner: list[Program]) -> None:
        try:
            async with asyncio.timeout(n):
                for program in inner:
                    await self.run(program)
        except TimeoutError:
            await work(n)

    async def do_wait_for(self, n: int, inner: list[Program]) -> None:
        for program in inner:
            await asyncio.wait_for(self.run(program), n - 1)

    async def do_as_completed(self, n: int, inner: list[Program]) -> None:
        for one in asyncio.as_completed([*map(self.run, inner), work(n)], timeout=n):
            await one

    async def do_spawn(self, n: int, inner: list[Program]) -> None:
        self.spawned += [asyncio.create_task(self.run(program)) for program in inner]

    async def do_cancel(self, n: int, inner: list[Program]) -> None:
        for task in self.spawned[:n]:
            task.cancel()

    async def do_finally(self, n: int, inner: list[Program]) -> None:
        try:
            for program in inner:
                await self.run(program)
        finally:
            await work(n)

    async def do_shield(self, n: int, inner: list[Program]) -> None:
        await asyncio.shield(work(n))

    async def do_put(self, n: int, inner: list[Program]) -> None:
        await self.queue.put(n)

    async def do_get(self, n: int, inner: list[Program]) -> None:
        self.ctx.set_status(f"got {await self.queue.get()} {self.ctx.random.random()} {self.ctx.uuid4()}")

    async def do_limit(self, n: int, inner: list[Program]) -> None:
        async with self.semaphore:
            await work(n)


@app.workflow
async def interpret(ctx: Context, program: list[Any]) -> int:
    machine = Machine(ctx)
    await machine.run(program)
    return len(machine.spawned)


LEAVES = ["do_work", "do_shaky", "do_sleep", "do_signal", "do_offer", "do_cancel", "do_shield", "do_put", "do_get"]
BRANCHES = ["do_gather", "do_group", "do_timeout", "do_wait_for", "do_as_completed", "do_spawn", "do_finally"]
numbers = st.integers(0, 5)
leaves = st.tuples(st.sampled_from([*LEAVES, "do_limit"]), numbers, st.just(()))
steps = st.recursive(
    leaves,
    lambda inner: st.tuples(
        st.sampled_from(BRANCHES), numbers, st.lists(st.lists(inner, max_size=3), min_size=1, max_size=3)
    ),
    max_leaves=12,
)
inputs = st.lists(
    st.tuples(st.sampled_from(["answer", "answer", "answer", "fail", "wake", "signal", "cancel"]), numbers)
)


def feed(case: Case, kind: str, n: int) -> None:
    """Give the run an input of that kind, if it can have one now."""
    activities = state(case.run)["activities"]
    open_ones = [(seq, one) for seq, one in activities.items() if one[3] == "scheduled"]
    if kind in ("answer", "fail") and open_ones:
        seq, one = open_ones[n % len(open_ones)]
        if kind == "answer":
            case.complete(seq, n, attempt=one[2])
        else:
            case.fail(seq, retryable=n % 2 == 0, attempt=one[2])
    elif kind == "wake" and case.run.wakeup_at() is not None:
        case.wake()
    elif kind == "signal":
        case.signal("s", n)
    elif kind == "cancel":
        case.cancel()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(program=st.lists(steps, min_size=1, max_size=4), inputs=inputs)
def test_a_replay_after_every_activation_reaches_the_same_state(
    program: Program, inputs: list[tuple[str, int]]
) -> None:
    case = Case(app, interpret, program)
    for kind, n in inputs:
        if case.run.closed is None:
            feed(case, kind, n)
    balanced(case)
    case.run.evict()


def balanced(case: Case) -> None:
    """Whatever ends, ends once, and what is pending is what began and has not ended."""
    began = {n for n, e in enumerate(case.history, 1) if isinstance(e, events.ActivityScheduled)}
    ended = [
        e.ref
        for e in case.history
        if isinstance(e, events.ActivityCompleted | events.ActivityCancelled)
        or (isinstance(e, events.ActivityFailed) and e.retry_at is None)
    ]
    assert len(ended) == len(set(ended))
    assert set(state(case.run)["activities"]) == began - set(ended)
