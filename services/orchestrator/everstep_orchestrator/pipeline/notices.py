"""Messages that belong to no activation: what the rules owe, conditions, dead letters, what is handed on."""

from __future__ import annotations

from everstep._core import notices
from everstep._core.notices import Outline
from everstep_orchestrator.pipeline.incoming import Dead, Record
from everstep_schemas import cloudevents
from everstep_schemas.wire import Forwarded, LifecycleType, Outgoing, encoder


class Notices(notices.Notices):
    """Builds the messages of one shard."""

    def held(self, run: Outline, seq: int, now: int) -> Outgoing:
        """The run waits for an orchestrator that has its code."""
        return self._condition(LifecycleType.HELD, "held", run, seq, None, now)

    def resumed(self, run: Outline, seq: int, now: int) -> Outgoing:
        """The run goes on."""
        return self._condition(LifecycleType.RESUMED, "resumed", run, seq, None, now)

    def forwarded(self, shard: int, message: Forwarded) -> Outgoing:
        """Hands a submission to the shard that it belongs to."""
        return Outgoing(
            topic=self._topics.inbox,
            partition=shard,
            key=message.workflow_id.encode(),
            value=encoder.encode(message),
            headers=cloudevents.headers("everstep.inbox.forwarded", message.source, message.traceparent),
        )

    def dead(self, record: Record, why: Dead) -> Outgoing:
        """The original bytes, where they stood and why they could not be used."""
        own = {
            "everstep_reason": why.reason,
            "everstep_detail": why.detail,
            "everstep_topic": record.topic,
            "everstep_partition": str(record.partition),
            "everstep_offset": str(record.offset),
        }
        headers = ((name, value.encode(errors="backslashreplace")[:1000]) for name, value in own.items())
        return Outgoing(
            topic=self._topics.dlq,
            key=record.key,
            value=record.value or b"",
            headers=(*headers, *((name, value) for name, value in record.headers if value is not None)),
        )

    def unpublishable(self, message: Outgoing, why: str) -> Outgoing:
        """A message of ours that Kafka refuses, in the same form."""
        own = {"everstep_reason": "unpublishable", "everstep_detail": why, "everstep_topic": message.topic}
        headers = ((name, value.encode(errors="backslashreplace")[:1000]) for name, value in own.items())
        return Outgoing(
            topic=self._topics.dlq, key=message.key, value=message.value, headers=(*headers, *message.headers)
        )
