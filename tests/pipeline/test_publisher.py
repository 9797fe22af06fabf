"""The publisher where no broker is needed."""

from __future__ import annotations

import asyncio

from everstep_orchestrator.kafka.publisher import Publisher, Ticket
from everstep_schemas.wire import Outgoing


class NoTopic:
    """A topic that nobody creates."""

    def __init__(self) -> None:
        self.asked = 0

    async def partitions(self, topic: str) -> int:
        self.asked += 1
        return 0


async def test_many_commands_that_wait_for_a_topic_ask_for_it_once_at_a_time() -> None:
    topics = NoTopic()
    publisher = Publisher({}, topics, max_request_bytes=1 << 20, acked=lambda: None, refused=_unexpected)
    for number in range(100):
        publisher.publish(0, number, [Outgoing("missing", b"{}")])
    for _ in range(10):
        await asyncio.sleep(0)
    assert topics.asked == 1
    await publisher.close()


def _unexpected(ticket: Ticket, message: Outgoing, why: str) -> None:
    raise AssertionError(why)
