"""Which topics queues have, and the creation of the missing ones."""

from __future__ import annotations

import structlog

from everstep.admin.topics import TopicError, admin_client, ensure_queue
from everstep.settings import Settings
from everstep_schemas.names import Topics

log = structlog.get_logger(__name__)


class Queues:
    """Looks topics up for the publisher; what is missing is created if EVERSTEP_CREATE_TOPICS allows it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._prefix = Topics(settings.topic_prefix).activities("")
        self.missing: dict[str, str] = {}

    async def partitions(self, topic: str) -> int:
        """How many partitions the topic has; 0 while it does not exist, with the reason in `missing`."""
        async with admin_client(self._settings) as admin:
            try:
                if topic.startswith(self._prefix):
                    await ensure_queue(admin, self._settings, topic.removeprefix(self._prefix))
                described = await admin.describe_topics([topic])
            except TopicError as error:
                self._report(topic, str(error))
                return 0
        self.missing.pop(topic, None)
        return len(described[0]["partitions"])

    def _report(self, topic: str, why: str) -> None:
        if self.missing.get(topic) != why:
            log.error("commands wait for a topic", topic=topic, reason=why)
            self.missing[topic] = why
