"""Workflows whose recorded histories in `golden/` must replay for ever, on every Python.

`python -m tests.engine.golden NAME…` records those named (all, without names) and refuses to overwrite: a history that
no longer replays is a break of compatibility, not a file to renew. Change a workflow here only by adding another.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
from tests.engine import golden_runs
from tests.engine.kit import Case

from everstep import ActivityError, App, Context, Retry, Signal, days, seconds
from everstep._core.engine import HistoryRow, Identity

DIRECTORY = Path(__file__).parent / "golden"
ROOT = DIRECTORY.parents[2]
app = App("golden", include=[golden_runs.app])


class Declined(Exception): ...


shipped = Signal[str]("shipped")
numbers = Signal[int]("numbers")


@app.activity
async def work(n: int) -> int:
    raise AssertionError("workers run activities")


@app.activity(raises=[Declined], retry=Retry(max_attempts=3), queue="pay")
async def pay(amount: int) -> str:
    raise AssertionError("workers run activities")


@app.workflow
async def order(ctx: Context, amount: int) -> str:
    try:
        receipt = await pay(amount)
    except Declined as error:
        return f"declined: {error}"
    ctx.set_status("waiting")
    try:
        carrier = await ctx.wait_for_signal(shipped, timeout=days(7), default=None)
    except asyncio.CancelledError:
        await work(-amount)
        raise
    return f"{receipt} {carrier}"


def order_shipped() -> Case:
    case = Case(app, order, 5)
    case.fail(2)
    case.wake()
    case.fail(2, "Odd", attempt=2, retry_after_seconds=3.0)
    case.wake()
    case.complete(2, "r1", attempt=3)
    case.signal("shipped", "DHL")
    return case


def order_declined() -> Case:
    case = Case(app, order, 5)
    case.fail(2, "Declined", fields=msgspec.Raw(b'["poor"]'))
    return case


def order_given_up() -> Case:
    case = Case(app, order, 5)
    case.complete(2, "r1")
    case.wake()
    return case


def order_cancelled() -> Case:
    case = Case(app, order, 5)
    case.complete(2, "r1")
    case.cancel("changed my mind")
    case.complete_all(0)
    return case


def order_failed() -> Case:
    case = Case(app, order, 5)
    case.fail(2, "Broken", retryable=False)
    return case


@app.workflow
async def concurrency(ctx: Context) -> list[Any]:
    """Everything whose stepping differs between Pythons, with commands that show in which order it happened."""
    said: list[Any] = []
    await gathering(said)
    await waiting(said)
    await grouping(said)
    await limiting(said)
    return said


async def double(n: int) -> int:
    await asyncio.sleep(0)
    return 2 * await work(n)


async def gathering(said: list[Any]) -> None:
    early = work(1)
    await early
    first, second = await asyncio.gather(early, double(2))
    said += [first, second]
    racing = asyncio.create_task(double(50))
    both = asyncio.gather(early, early)
    racing.cancel()
    said += await both
    said += await asyncio.gather(racing, double(3), return_exceptions=True) and ["gathered"]
    said += [await one for one in asyncio.as_completed([double(4), work(5), double(6)])]


async def waiting(said: list[Any]) -> None:
    async def stubborn() -> int:
        try:
            return await work(7)
        except asyncio.CancelledError:
            return await double(8)

    said.append(await asyncio.wait_for(double(9), 60))
    said.append(await asyncio.wait_for(stubborn(), 60))
    for n, limit in ((10, 0), (11, 60)):
        try:
            await asyncio.wait_for(double(n), limit)
        except TimeoutError:
            said.append("late")
    done, pending = await asyncio.wait([work(n) for n in range(20, 40)], return_when=asyncio.FIRST_COMPLETED)
    said.append([await one for one in done])
    for one in pending:
        one.cancel()


async def grouping(said: list[Any]) -> None:
    async def tidy(n: int) -> None:
        try:
            await work(n)
        finally:
            said.append(await double(100 + n))

    try:
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            for n in range(12, 16):
                group.create_task(tidy(n))
            group.create_task(work(16))
    except* ActivityError as errors:
        said.append(len(errors.exceptions))
    try:
        async with asyncio.TaskGroup() as group:
            done = work(17)
            await done
            group.create_task(done)
            group.create_task(double(18))
    except* ActivityError:
        said.append("?")


async def limiting(said: list[Any]) -> None:
    semaphore, condition = asyncio.Semaphore(2), asyncio.Condition()
    queue: asyncio.Queue[int] = asyncio.Queue(1)

    async def limited(n: int) -> None:
        async with semaphore:
            await work(60 + n)
            await queue.put(n)
        async with condition:
            said.append(f"in {n}")
            condition.notify(2)

    async def watching(n: int) -> None:
        async with condition:
            await condition.wait()
            said.append(f"notified {n}")
            await work(80 + n)

    async def consuming() -> None:
        async for n in generated(queue):
            doubled = await double(n)
            said.append(doubled)

    async with asyncio.TaskGroup() as group:
        watchers = [group.create_task(watching(n)) for n in range(3)]
        entering = [group.create_task(limited(n)) for n in range(4)]
        consumer = group.create_task(consuming())
        await asyncio.sleep(5)
        entering[2].cancel()
        watchers[0].cancel()
        await asyncio.sleep(5)
        for task in (*entering, *watchers, consumer):
            task.cancel()


async def generated(queue: asyncio.Queue[int]) -> AsyncIterator[int]:
    try:
        while True:
            yield await queue.get()
    finally:
        await asyncio.shield(work(99))


def concurrently(newest_first: bool) -> Case:
    """Answer what is pending one by one; fail 16; let time pass where nothing is pending, or a limit is to be met."""
    case = Case(app, concurrency)
    while case.run.closed is None:
        pending = case.run._program.scope.activities._pending
        numbers = {seq: json.loads(bytes(one.scheduled.args))[0] for seq, one in pending.items()}
        answerable = {seq: n for seq, n in numbers.items() if n not in (7, 11)}
        if not answerable:
            case.wake()
            continue
        seq = (max if newest_first else min)(answerable)
        if answerable[seq] == 16:
            case.fail(seq, retryable=False)
        else:
            case.complete(seq, answerable[seq])
    return case


@app.workflow
async def streaming(ctx: Context) -> list[Any]:
    got: list[Any] = [str(ctx.uuid4()), ctx.random.randrange(1000), ctx.now().isoformat(), ctx.info.history_events]
    stream = ctx.signals(numbers)
    first, dropped = ctx.wait_for_signal(numbers), ctx.wait_for_signal(numbers)
    dropped.cancel()
    got += [await first, stream.pending()]
    await ctx.sleep(seconds(1.5))
    async for n in stream:
        got.append(n)
        if n == 0:
            return got
    return got


def stream_of_signals() -> Case:
    case = Case(app, streaming)
    for n in (5, 4, 3):
        case.signal("numbers", n)
    case.wake()
    case.signal("numbers", 0)
    return case


@app.workflow
async def fan_out(ctx: Context, count: int) -> int:
    return sum(await asyncio.gather(*(work(n) for n in range(count))))


def split_rows() -> Case:
    case = Case(app, fan_out, 1_500, check=False)
    case.complete(2, 1)
    case.terminate("enough")
    return case


SCRIPTS: dict[str, Callable[[], Case]] = {
    "order_shipped": order_shipped,
    "order_declined": order_declined,
    "order_given_up": order_given_up,
    "order_cancelled": order_cancelled,
    "order_failed": order_failed,
    "concurrency_oldest_first": lambda: concurrently(newest_first=False),
    "concurrency_newest_first": lambda: concurrently(newest_first=True),
    "stream_of_signals": stream_of_signals,
    "split_rows": split_rows,
    **golden_runs.SCRIPTS,
}


def load(path: Path) -> tuple[Identity, list[HistoryRow]]:
    recorded = json.loads(path.read_text())
    rows = [HistoryRow(row["seq"], row["at"], msgspec.json.encode(row["events"])) for row in recorded["rows"]]
    return msgspec.convert(recorded["identity"], Identity), rows


def dump(case: Case) -> str:
    rows = [(row.seq, row.at, row.data.decode().replace(f"{ROOT}/", "")) for row in case.rows]
    lines = [f'{{"seq": {seq}, "at": {at}, "events": {happened}}}' for seq, at, happened in rows]
    return f'{{"identity": {msgspec.json.encode(case.identity).decode()}, "rows": [\n' + ",\n".join(lines) + "\n]}\n"


if __name__ == "__main__":
    for name in sys.argv[1:] or SCRIPTS:
        with (DIRECTORY / f"{name}.json").open("x") as file:
            file.write(dump(SCRIPTS[name]()))
