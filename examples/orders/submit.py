"""The world around the shop: the site that takes orders, the warehouse that ships, customers who change their mind.

    python -m examples.orders.submit --bootstrap 127.0.0.1:9092 examples/orders/orders.jsonl

It knows two Kafka topics and nothing of Everstep: JSON goes to the submissions, without keys or headers, and the
lifecycle topic tells how far an order is. Writes with kcat where that is installed, else with aiokafka.
"""

import argparse
import asyncio
import json
import shutil
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

Message = dict[str, Any]
Plan = dict[tuple[str, str], Message]
Facts = AsyncGenerator[tuple[str, Message]]

STARTED = "everstep.run.started"
STATUS_CHANGED = "everstep.run.status_changed"
WAITING = "waiting on shipping confirmation"


def as_json(message: Message) -> bytes:
    return json.dumps(message, ensure_ascii=False).encode()


class Sender(Protocol):
    async def send(self, message: Message) -> None: ...


class Kcat:
    def __init__(self, pipe: asyncio.StreamWriter) -> None:
        self._pipe = pipe

    async def send(self, message: Message) -> None:
        self._pipe.write(as_json(message) + b"\n")
        await self._pipe.drain()


class Aiokafka:
    def __init__(self, producer: AIOKafkaProducer, topic: str) -> None:
        self._producer = producer
        self._topic = topic

    async def send(self, message: Message) -> None:
        await self._producer.send_and_wait(self._topic, as_json(message))


@asynccontextmanager
async def open_kcat(bootstrap: str, topic: str) -> AsyncIterator[Sender]:
    """One kcat that turns every line it reads into a record; leaving waits until the broker has them all."""
    kcat = await asyncio.create_subprocess_exec(
        "kcat", "-P", "-b", bootstrap, "-t", topic, stdin=asyncio.subprocess.PIPE
    )
    assert kcat.stdin is not None
    try:
        yield Kcat(kcat.stdin)
    finally:
        kcat.stdin.close()
        if await kcat.wait():
            raise SystemExit(f"kcat ended with exit code {kcat.returncode}")


@asynccontextmanager
async def open_aiokafka(bootstrap: str, topic: str) -> AsyncIterator[Sender]:
    async with AIOKafkaProducer(bootstrap_servers=bootstrap) as producer:
        yield Aiokafka(producer, topic)


def open_sender(bootstrap: str, topic: str) -> AbstractAsyncContextManager[Sender]:
    return (open_kcat if shutil.which("kcat") else open_aiokafka)(bootstrap, topic)


def start_of(story: Message) -> Message:
    order = story["order"]
    return {"kind": "start", "workflow": "fulfil_order", "workflow_id": order["order_id"], "args": [order]}


def answer_to(story: Message) -> Message:
    """What the warehouse or the customer does with the order: a signal, or a request to cancel."""
    then, workflow_id = story["afterwards"], story["order"]["order_id"]
    if then["act"] == "cancels":
        return {"kind": "cancel", "workflow_id": workflow_id, "reason": then["reason"]}
    parcel = {"carrier": then["carrier"], "tracking": then["tracking"]}
    signal = {"kind": "signal", "workflow_id": workflow_id, "name": "ShippingConfirmed", "value": parcel}
    return {**signal, "signal_id": f"{workflow_id}/shipped"}


def plan_of(stories: list[Message]) -> Plan:
    told = [story for story in stories if story["afterwards"]]
    return {(story["order"]["order_id"], story["afterwards"]["when"]): answer_to(story) for story in told}


async def take_orders(sender: Sender, stories: list[Message], plan: Plan, pause_seconds: float) -> None:
    """Submits every order. Some parcels leave so early that their confirmation follows the order at once."""
    for story in stories:
        await sender.send(start_of(story))
        if early := plan.pop((story["order"]["order_id"], "submitted"), None):
            await sender.send(early)
        await asyncio.sleep(pause_seconds)


async def answer(sender: Sender, facts: Facts, plan: Plan) -> None:
    """Answers what the orders publish about themselves until everything planned is done."""
    open_answers = {moment for moment in plan if moment[1] != "submitted"}
    while open_answers:
        moment = moment_of(*await anext(facts))
        if moment in open_answers:  # facts may be published twice, answers should not be
            open_answers.remove(moment)
            await sender.send(plan[moment])


def moment_of(fact: str, body: Message) -> tuple[str, str]:
    waiting = fact == STATUS_CHANGED and body["status"] == WAITING
    return body["workflow_id"], "started" if fact == STARTED else "waiting" if waiting else ""


async def lifecycle(bootstrap: str, topic: str) -> Facts:
    async with AIOKafkaConsumer(topic, bootstrap_servers=bootstrap, auto_offset_reset="earliest") as consumer:
        async for record in consumer:
            yield dict(record.headers)["ce_type"].decode(), json.loads(record.value or b"")


async def submit(bootstrap: str, prefix: str, rate: float, stories: list[Message]) -> None:
    plan = plan_of(stories)
    async with (
        open_sender(bootstrap, f"{prefix}.submissions") as sender,
        aclosing(lifecycle(bootstrap, f"{prefix}.lifecycle")) as facts,
        asyncio.TaskGroup() as group,
    ):
        group.create_task(answer(sender, facts, dict(plan)))
        group.create_task(take_orders(sender, stories, plan, 1 / rate))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--bootstrap", required=True, help="host:port of a Kafka broker")
    parser.add_argument("--prefix", default="everstep", help="prefix of the topics")
    parser.add_argument("--rate", type=float, default=40, help="orders per second")
    chosen = parser.parse_args()
    stories = [json.loads(line) for line in chosen.file.read_text().splitlines()]
    asyncio.run(submit(chosen.bootstrap, chosen.prefix, chosen.rate, stories))


if __name__ == "__main__":
    main()
