"""A workflow that interprets small programs of nested lists with all that `asyncio` and `ctx` offer."""

from __future__ import annotations

import asyncio
from typing import Any

from everstep import (
    App,
    Backoff,
    ChildError,
    CompensationError,
    Context,
    EverstepError,
    Failures,
    Retry,
    Signal,
    seconds,
)
from everstep_schemas.events import OnParentClose

app = App("property")
STEADY = Backoff(seconds(2), factor=1.0, jitter=0.0)


@app.activity
async def work(n: int) -> int:
    raise AssertionError("workers run activities")


@app.activity(
    retry=Retry(max_attempts=2),
    timeout=seconds(20),
    total_timeout=seconds(60),
    queue_timeout=seconds(30),
    heartbeat_timeout=seconds(5),
)
async def shaky(n: int) -> int:
    raise AssertionError("workers run activities")


Program = list[Any]
CLOSING: list[OnParentClose] = ["terminate", "cancel", "abandon"]


handled = Signal[int]("s")


class Machine:
    """Runs programs. What they share is what makes them meet: a count, a queue, a place."""

    def __init__(self, ctx: Context) -> None:
        self.ctx = ctx
        self.count = 0
        self.queue: asyncio.Queue[int] = asyncio.Queue(2)
        self.semaphore = asyncio.Semaphore(1)
        self.spawned: list[asyncio.Task[None]] = []

    async def run(self, program: Program) -> None:
        for name, argument, inner in program:
            await getattr(self, name)(argument, inner)

    # ---- activities, time, signals

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

    async def do_forget(self, n: int, inner: list[Program]) -> None:
        """Waits that nobody looks at, one of them taken back."""
        self.ctx.wait_for_signal("s")
        self.ctx.wait_for_signal("s").cancel()

    async def do_offer(self, n: int, inner: list[Program]) -> None:
        await asyncio.wait([self.ctx.wait_for_signal("s"), work(n)], timeout=n)

    async def do_handle(self, n: int, inner: list[Program]) -> None:
        async def run(value: int) -> None:
            for program in inner:
                await self.run(program)

        def count(value: int) -> None:
            self.count += 1

        self.ctx.on_signal(handled, run if n % 2 else count)

    # ---- asyncio

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

    # ---- other runs, callbacks, conditions

    async def do_child(self, n: int, inner: list[Program]) -> None:
        child = self.ctx.child("child", n, on_parent_close=CLOSING[n % 3])
        if n % 2:
            child.signal("s", n)
        try:
            await child
        except ChildError as error:
            self.ctx.milestone(f"{error.workflow_id} {type(error.cause).__name__}")

    async def do_external(self, n: int, inner: list[Program]) -> None:
        other = self.ctx.external("other")
        request = other.cancel("why not") if n % 2 else other.signal("s", n)
        if n > 2:
            await request

    async def do_callback(self, n: int, inner: list[Program]) -> None:
        beats = seconds(3) if n % 2 else None
        callback = self.ctx.callback(int, timeout=seconds(n) if n else None, heartbeat_timeout=beats)
        try:
            self.count += await callback
        except EverstepError as error:
            self.ctx.set_status(f"{error}")

    async def do_condition(self, n: int, inner: list[Program]) -> None:
        await self.ctx.wait_until(lambda: self.count >= n, timeout=seconds(9) if n % 2 else None)

    async def do_count(self, n: int, inner: list[Program]) -> None:
        self.count += n

    # ---- queries and updates

    async def do_answer(self, n: int, inner: list[Program]) -> None:
        async def update(value: int) -> int:
            for program in inner:
                await self.run(program)
            return value + self.count

        def validate(value: int) -> None:
            if value > 3:
                raise ValueError(value)

        self.ctx.on_update("u", update, validate=validate)
        self.ctx.expose(count=lambda: self.count)

    # ---- many things

    async def do_map(self, n: int, inner: list[Program]) -> None:
        limit = n or None
        if n % 2:
            await self.ctx.map(work, range(n), concurrency=limit, tolerate=Failures(n // 2))
        else:
            await self.ctx.map(self.run, inner, concurrency=limit)

    async def do_each(self, n: int, inner: list[Program]) -> None:
        async for one in self.ctx.map(shaky, range(n), concurrency=2, tolerate=Failures(ratio=0.5)):
            self.count += one.ok

    async def do_first(self, n: int, inner: list[Program]) -> None:
        await self.ctx.first(self.ctx.wait_for_signal("s"), work(n), *map(self.run, inner))

    async def do_poll(self, n: int, inner: list[Program]) -> None:
        await self.ctx.poll(lambda: work(n), until=lambda got: got > 2, every=STEADY, timeout=seconds(20))

    async def do_retry(self, n: int, inner: list[Program]) -> None:
        async def block() -> None:
            for program in inner:
                await self.run(program)
            await work(n)

        await self.ctx.retry(block, Retry(2, STEADY))

    async def do_saga(self, n: int, inner: list[Program]) -> None:
        try:
            async with self.ctx.saga() as saga:
                saga.on_failure(work, -1)
                await saga.step(work(n), undo=work)
                for program in inner:
                    await self.run(program)
                if n % 2:
                    raise ValueError(n)
        except (ValueError, CompensationError) as error:
            self.ctx.set_status(type(error).__name__)

    # ---- saying and deciding

    async def do_say(self, n: int, inner: list[Program]) -> None:
        self.ctx.attributes["n"] = n
        self.ctx.attributes["said"] = [f"{self.count}"]
        if n % 2:
            del self.ctx.attributes["n"]

    async def do_effect(self, n: int, inner: list[Program]) -> None:
        try:
            self.count += self.ctx.side_effect(lambda: 6 // n)
        except EverstepError as error:
            self.ctx.milestone(f"{error}")

    async def do_patched(self, n: int, inner: list[Program]) -> None:
        if self.ctx.patched(f"change {n}"):
            await work(n)

    async def do_raise(self, n: int, inner: list[Program]) -> None:
        raise RuntimeError(n)

    async def do_continue(self, n: int, inner: list[Program]) -> None:
        self.ctx.continue_as_new(interpret, inner[0] if inner else [], n)


@app.workflow(retry=Retry(max_attempts=2, backoff=STEADY))
async def interpret(ctx: Context, program: list[Any], count: int = 0) -> int:
    machine = Machine(ctx)
    machine.count = count
    await machine.run(program)
    return len(machine.spawned)
