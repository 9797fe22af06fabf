"""One member as a process of its own: prints every call of its listener as a line of JSON, and does as it is told."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys

import structlog

from everstep_orchestrator.membership import Claim, Membership


class Printer:
    """A listener that lets go of what it is asked to."""

    member: Membership

    def claimed(self, claims: list[Claim]) -> None:
        say("claimed", [[claim.shard, claim.epoch] for claim in claims])

    def lost(self, shards: list[int]) -> None:
        say("lost", shards)

    def hand_over(self, shard: int) -> None:
        say("hand_over", shard)
        self.member.release(shard)

    def lease_expired(self) -> None:
        say("lease_expired", self.member.holds_lease())


def say(what: str, value: object) -> None:
    print(json.dumps([what, value]), flush=True)


async def main(dsn: str, schema: str) -> None:
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    printer = Printer()
    printer.member = Membership(
        dsn,
        schema,
        address="http://127.0.0.1:1",
        workflows={},
        listener=printer,
        loop=loop,
        on_stuck=lambda: os._exit(70),
    )
    printer.member.start()
    while not stop.is_set():
        printer.member.progress()
        await asyncio.wait([asyncio.ensure_future(stop.wait())], timeout=0.5)
    await printer.member.stop()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
