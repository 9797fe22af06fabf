"""What the demo shows: live progress on a terminal, plain lines elsewhere, and the tables at the end."""

import asyncio
import statistics
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from examples.orders.accidents import Takeover
from examples.orders.observer import Observer, Seen
from examples.orders.stories import Story

REFRESH_SECONDS = 0.2
PLAIN_SECONDS = 2.0


def describe(observer: Observer) -> str:
    return ", ".join(f"{count} {state}" for state, count in sorted(observer.counts().items()))


@asynccontextmanager
async def progress(console: Console, observer: Observer) -> AsyncIterator[None]:
    """Shows how far the orders are while the block runs."""
    task = asyncio.create_task(live(console, observer) if console.is_terminal else lines(console, observer))
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def live(console: Console, observer: Observer) -> None:
    now = TextColumn("{task.fields[now]}")
    with Progress(BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), now, console=console) as bar:
        task = bar.add_task("orders", total=len(observer.orders), now="")
        try:
            while True:
                refresh(bar, task, observer)
                await asyncio.sleep(REFRESH_SECONDS)
        finally:
            refresh(bar, task, observer)


def refresh(bar: Progress, task: TaskID, observer: Observer) -> None:
    bar.update(task, completed=observer.closed, now=describe(observer))


async def lines(console: Console, observer: Observer) -> None:
    last = ""
    while True:
        if (now := describe(observer)) != last:
            console.print(f"  {observer.closed} of {len(observer.orders)} closed: {now}", soft_wrap=True)
        last = now
        await asyncio.sleep(PLAIN_SECONDS)


def outcome_table(observer: Observer, stories: Sequence[Story]) -> Table:
    table = Table(title="Orders by outcome; time from submission to end")
    for heading in ("outcome", "orders", "p50", "p95", "p99", "longest"):
        table.add_column(heading, justify="left" if heading == "outcome" else "right")
    for outcome in sorted({story.outcome for story in stories}):
        seen = [seen for seen in observer.orders.values() if seen.outcome == outcome]
        if seen:
            table.add_row(outcome, str(len(seen)), *latencies(seen))
    table.add_section()
    closed = [seen for seen in observer.orders.values() if seen.closed_at is not None]
    table.add_row("all", str(len(closed)), *latencies(closed))
    return table


def latencies(orders: Sequence[Seen]) -> list[str]:
    seconds = sorted(seen.seconds for seen in orders)
    return [f"{percentile(seconds, share):.2f} s" for share in (0.5, 0.95, 0.99, 1.0)]


def percentile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, round(share * (len(ordered) - 1)))]


def figures(observer: Observer, takeover: Takeover, activities: int, repeats: int, fan_out_seconds: float) -> Table:
    seen = [seen for seen in observer.orders.values() if seen.closed_at is not None]
    began = min(seen.submitted_at for seen in seen if seen.submitted_at is not None)
    seconds = max(seen.closed_at for seen in seen if seen.closed_at is not None) - began
    table = Table(title="The run as a whole", show_header=False)
    table.add_row("from the first submission to the last order's end", f"{seconds:.1f} s")
    table.add_row("throughput", f"{len(seen) / seconds:.0f} orders/s, {activities / seconds:.0f} activities/s")
    table.add_row("median time of an order", f"{statistics.median(order.seconds for order in seen):.2f} s")
    table.add_row(f"takeover of the dead orchestrator's {takeover.shards} shards", f"{takeover.seconds:.2f} s")
    table.add_row("payments and refunds asked for again, booked once", str(repeats))
    table.add_row(f"daily summary over {len(seen)} orders", f"{fan_out_seconds:.2f} s")
    return table
