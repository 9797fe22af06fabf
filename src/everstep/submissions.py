"""Writes submissions to Kafka."""

from __future__ import annotations

import asyncio

from aiokafka import AIOKafkaProducer
from aiokafka.errors import UnknownTopicOrPartitionError

from everstep.kafka import connection, max_record_bytes
from everstep.settings import Settings
from everstep_schemas.names import Token, Topics, shard_of
from everstep_schemas.wire import AnySubmission, CallbackSubmission, encoder

_TOPIC_SECONDS = 10.0


class SubmissionProducer:
    """Sends submissions straight to the partition of their shard.

    Many `send`s at once share record batches; those for one workflow id stay in the order in which they were called.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._topic = Topics(settings.topic_prefix).submissions
        self.shards = 0

    async def start(self) -> None:
        """Connects; raises `KafkaError` when that fails or the topic does not exist."""
        self._producer = AIOKafkaProducer(
            **connection(self._settings), enable_idempotence=True, max_request_size=max_record_bytes(self._settings)
        )
        try:
            await self._producer.start()
            self.shards = await self._partitions()
        except BaseException:
            await self._producer.stop()
            raise

    async def _partitions(self) -> int:
        """aiokafka itself hopes for a missing topic much longer than somebody at a terminal does."""
        try:
            async with asyncio.timeout(_TOPIC_SECONDS):
                return len(await self._producer.partitions_for(self._topic))
        except TimeoutError:
            raise UnknownTopicOrPartitionError(f"it knows no topic {self._topic}") from None

    async def stop(self) -> None:
        """Sends what is under way and disconnects."""
        await self._producer.stop()

    async def send(self, submission: AnySubmission) -> None:
        """Returns once the submission is durable in Kafka.

        Raises `KafkaError`: `MessageSizeTooLargeError` when it is too large, `KafkaTimeoutError` when Kafka is away.
        After the latter it may or may not have arrived; to send it again safely, give it a `submission_id` or
        `signal_id`.
        """
        key, shard = self._place(submission)
        await self._producer.send_and_wait(
            self._topic, encoder.encode(submission), key=key.encode(), partition=shard % self.shards
        )

    def _place(self, submission: AnySubmission) -> tuple[str, int]:
        """The key and the shard: a callback's token names the shard of its run."""
        if isinstance(submission, CallbackSubmission):
            token = Token.parse(submission.token)
            return submission.token, 0 if token is None else token.shard
        return submission.workflow_id, shard_of(submission.workflow_id, self.shards)
