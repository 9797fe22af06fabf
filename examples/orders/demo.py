"""The demo: a shop's orders on real Kafka and real PostgreSQL, while an orchestrator and a worker are killed.

    python -m examples.orders.demo            # or: make demo
    KEEP=1 python -m examples.orders.demo     # leaves everything running until Ctrl-C

It exits with 1 and lists the differences if any order, any cent or any letter is not as it has to be.
"""

import asyncio
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
from rich.console import Console

from everstep import Client, seconds, words
from everstep.stack import StackError
from everstep_schemas.names import Topics
from examples.orders import checks, display, stories
from examples.orders.accidents import Accident, Takeover
from examples.orders.app import Summary, daily_summary
from examples.orders.checks import Books
from examples.orders.installation import Installation, install
from examples.orders.observer import Observer
from examples.orders.processes import Process, ProcessError, Service, ending
from examples.orders.shop import UNRELIABLE
from examples.orders.stories import Story

LIMIT_SECONDS = 240.0
SUMMARY_ID = "daily-summary-2026-03-02"
ACTIVITIES = "SELECT count(*) FROM {schema}.events WHERE event->>'kind' = 'activity_completed'"

PLAIN_WIDTH = 120
PASSED, FAILED, STOPPED = 0, 1, 130

console = Console(highlight=False, width=None if sys.stdout.isatty() else PLAIN_WIDTH)


@dataclass
class Shop:
    """What runs: two of each, so that one can die."""

    installation: Installation
    orchestrators: list[Service]
    workers: list[Service]
    connection: asyncpg.Connection

    @property
    def api_url(self) -> str:
        return f"http://{self.orchestrators[-1].address}"


@asynccontextmanager
async def open_shop(logs: Path) -> AsyncIterator[Shop]:
    console.print("Starting PostgreSQL and Kafka …")
    async with install(logs) as installation:
        console.print(f"They are up ({installation.way}). Starting two orchestrators and two workers …")
        orchestrators = [installation.service("orchestrator", number) for number in (1, 2)]
        workers = [installation.service("worker", number) for number in (1, 2)]
        with ending(*orchestrators, *workers):
            for service in (*orchestrators, *workers):
                service.start()
            await asyncio.gather(*[service.ready() for service in (*orchestrators, *workers)])
            connection = await asyncpg.connect(installation.dsn)
            try:
                yield Shop(installation, orchestrators, workers, connection)
            finally:
                await connection.close()


async def trade(shop: Shop, observer: Observer) -> Takeover:
    """Submits every order and returns once all have ended; accidents happen meanwhile."""
    submitter, settings = shop.installation.submitter(), shop.installation.settings
    console.print(f"Submitting {len(observer.orders)} orders to the topic {settings.topic_prefix}.submissions …")
    try:
        # Ended out here, where nobody watches it any more: a submitter that is told to stop has not failed.
        with ending(submitter):
            async with asyncio.timeout(LIMIT_SECONDS):
                return await watched_trade(shop, observer, submitter)
    except TimeoutError:
        raise ProcessError(f"not all orders ended in {LIMIT_SECONDS:.0f} s: {display.describe(observer)}") from None


async def watched_trade(shop: Shop, observer: Observer, submitter: Process) -> Takeover:
    settings = shop.installation.settings
    accident = Accident(shop.orchestrators[0], shop.workers[0], shop.connection, settings.postgres_schema)
    async with asyncio.TaskGroup() as group, display.progress(console, observer):
        watching = [
            group.create_task(observer.watch(settings.kafka_bootstrap)),
            *[group.create_task(survivor.go_on()) for survivor in (shop.orchestrators[1], shop.workers[1])],
        ]
        submitter.start()
        submitting = group.create_task(submitter.finish())
        takeover = await accident.happen(observer, console.print)
        await submitting
        await observer.until(lambda: observer.closed == len(observer.orders))
        for task in watching:
            task.cancel()
    return takeover


async def summarise(shop: Shop, order_ids: list[str]) -> Summary:
    """The daily summary, started over HTTP this time."""
    async with Client(api_url=shop.api_url) as client:
        run = await client.start(daily_summary, order_ids, id=SUMMARY_ID)
        return await run.result(timeout=seconds(60))


async def examine(shop: Shop, observer: Observer, told: list[Story], summary: Summary) -> tuple[Books, list[str]]:
    """The books, and everything that is not as it has to be."""
    schema = shop.installation.settings.postgres_schema
    books = await checks.read_books(shop.connection, schema)
    found = checks.differences(told, observer.outcomes, books, summary)
    return books, found + await checks.broken_histories(shop.connection, schema)


async def demonstrate(logs: Path, *, keep: bool) -> bool:
    """Whether everything is as it has to be."""
    told = stories.read()
    async with open_shop(logs) as shop:
        tell_where(shop)
        observer = Observer([story.order.order_id for story in told], Topics(shop.installation.settings.topic_prefix))
        takeover = await trade(shop, observer)
        began = time.monotonic()
        summary = await summarise(shop, list(observer.orders))
        fan_out_seconds = time.monotonic() - began
        books, found = await examine(shop, observer, told, summary)
        console.print(display.outcome_table(observer, told))
        console.print(display.figures(observer, takeover, await activities(shop), books.repeats, fan_out_seconds))
        await tell_one_history(shop, told)
        tell_verdict(found, told, summary)
        if keep:
            tell_where(shop)
            console.print(f"  logs: {logs}", soft_wrap=True)
            console.print("Everything keeps running until Ctrl-C.")
            await until_told_to_stop()
    return not found


async def activities(shop: Shop) -> int:
    count: int = await shop.connection.fetchval(ACTIVITIES.format(schema=shop.installation.settings.postgres_schema))
    return count


async def tell_one_history(shop: Shop, told: list[Story]) -> None:
    order = next(story.order for story in told if story.order.card == UNRELIABLE)
    console.print(f"\nThe history of {order.order_id}, whose bank could not be reached and then lost its answer:")
    async with Client(api_url=shop.api_url) as client:
        history = [(event.seq, event.at, event.event) async for event in client.run(order.order_id).history()]
    for line in words.story(history):
        console.print(f"  {line.at:%H:%M:%S.%f}"[:-3], line.text, markup=False, soft_wrap=True)


def tell_verdict(found: list[str], told: list[Story], summary: Summary) -> None:
    if found:
        console.print(f"\n[bold red]{len(found)} things are not as they have to be:[/]")
        for difference in found:
            console.print(f"  {difference}", markup=False)
        return
    console.print(
        f"\n[bold green]All {len(told)} orders ended as they should.[/] The ledger agrees to the cent: "
        f"{summary.charged_cents / 100:,.2f} charged, {summary.refunded_cents / 100:,.2f} given back, "
        "nothing twice; every customer with a parcel got one letter; no history has a gap."
    )


def tell_where(shop: Shop) -> None:
    for service in filter(Service.running, (*shop.orchestrators, *shop.workers)):
        console.print(f"  {service.name}: metrics http://{service.address}/metrics")
    console.print(
        f"  API: {shop.api_url}/api/v1/runs?limit=5, described in {shop.api_url}/openapi.json", highlight=False
    )
    for name, value in shop.installation.addresses.items():
        console.print(f"  export {name}={value}", soft_wrap=True)


async def until_told_to_stop() -> None:
    """Returns at the first Ctrl-C or SIGTERM."""
    told, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, told.set)
    await told.wait()


async def cancelled_by_signals(work: Coroutine[Any, Any, bool]) -> bool:
    """Lets SIGTERM and SIGHUP end `work` as Ctrl-C does: by cancellation, so that it leaves nothing behind."""
    task = asyncio.create_task(work)
    for number in (signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    return await task


def main() -> int:
    logs = Path(tempfile.mkdtemp(prefix="everstep-demo-"))
    code = FAILED
    try:
        passed = asyncio.run(cancelled_by_signals(demonstrate(logs, keep=bool(os.environ.get("KEEP")))))
        code = PASSED if passed else FAILED
    except* (ProcessError, StackError) as errors:
        for error in errors.exceptions:
            console.print(error, markup=False, highlight=False, soft_wrap=True)
    except* (KeyboardInterrupt, asyncio.CancelledError):
        console.print("Stopped.")
        code = STOPPED
    if code == FAILED:
        console.print(f"The logs of all processes are in {logs}.")
    else:
        shutil.rmtree(logs)
    return code


if __name__ == "__main__":
    sys.exit(main())
