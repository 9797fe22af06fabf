"""The client's two ways to an installation: its HTTP API, or Kafka alone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from everstep._client.transport import Transport
from everstep.settings import Settings


def transport_of(settings: Settings) -> Transport:
    """The way to an installation that `settings` name: HTTP if there is an address for it, else Kafka."""
    # Each brings a client library that the other does without.
    if settings.api_url:
        from everstep._client.http import HttpTransport

        return HttpTransport(settings)
    from everstep._client.kafka import KafkaTransport

    return KafkaTransport(settings)


@asynccontextmanager
async def connected(settings: Settings) -> AsyncIterator[Transport]:
    """An open transport, closed at the end."""
    opened = transport_of(settings)
    await opened.open()
    try:
        yield opened
    finally:
        await opened.close()
