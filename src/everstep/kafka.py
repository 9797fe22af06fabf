"""What every Kafka client of Everstep has in common."""

from __future__ import annotations

from typing import Any

from aiokafka.helpers import create_ssl_context

from everstep.settings import Settings

# Room in a record beside the largest payload: ids, headers, and an error's message, traceback and cause chain.
ENVELOPE_BYTES = 256 << 10


def connection(settings: Settings) -> dict[str, Any]:
    """The keyword arguments by which any aiokafka client reaches the brokers; needs `kafka_bootstrap`."""
    settings.require("kafka_bootstrap")
    protocol = settings.kafka_security_protocol
    arguments: dict[str, Any] = {
        "bootstrap_servers": settings.kafka_bootstrap.split(","),
        "security_protocol": protocol,
    }
    if protocol.endswith("SSL"):
        arguments["ssl_context"] = create_ssl_context(
            cafile=settings.kafka_ssl_cafile or None,
            certfile=settings.kafka_ssl_certfile or None,
            keyfile=settings.kafka_ssl_keyfile or None,
        )
    if protocol.startswith("SASL"):
        arguments["sasl_mechanism"] = settings.kafka_sasl_mechanism
        arguments["sasl_plain_username"] = settings.kafka_sasl_username
        arguments["sasl_plain_password"] = settings.kafka_sasl_password
    return arguments


def max_record_bytes(settings: Settings) -> int:
    """The largest record of every topic but the dead letters': a producer's `max_request_size` must allow it."""
    return settings.max_payload_bytes + ENVELOPE_BYTES


def max_dead_letter_bytes(settings: Settings) -> int:
    """A dead letter is a whole record of another topic and the reason."""
    return 2 * max_record_bytes(settings)
