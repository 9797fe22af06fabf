"""Names and numbers that every part must agree on: topics, shards, tokens, identities, and what an id may be."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

MAX_NAME_BYTES = 512
_QUEUE = re.compile(r"[A-Za-z0-9._-]{1,200}")


@dataclass(frozen=True, slots=True)
class Topics:
    """The Kafka topics of one installation."""

    prefix: str = "everstep"

    @property
    def submissions(self) -> str:
        return f"{self.prefix}.submissions"

    @property
    def inbox(self) -> str:
        return f"{self.prefix}.inbox"

    @property
    def control(self) -> str:
        return f"{self.prefix}.control"

    @property
    def lifecycle(self) -> str:
        return f"{self.prefix}.lifecycle"

    @property
    def dlq(self) -> str:
        return f"{self.prefix}.dlq"

    def activities(self, queue: str) -> str:
        return f"{self.prefix}.activities.{queue}"

    def worker_group(self, queue: str) -> str:
        return f"{self.prefix}.worker.{queue}"

    @property
    def orchestrator_group(self) -> str:
        return f"{self.prefix}.orchestrator"


def why_bad_name(text: str) -> str | None:
    """Why `text` cannot be an id or a name (1–512 bytes of UTF-8 without control characters), or None if it can."""
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        return "is not valid Unicode (it holds half of a surrogate pair)"
    if not 1 <= size <= MAX_NAME_BYTES:
        return f"has {size} bytes; 1 to {MAX_NAME_BYTES} are allowed"
    if any(unicodedata.category(c) == "Cc" for c in text):
        return "holds a control character"
    return None


def why_bad_queue(text: str) -> str | None:
    """Why `text` cannot be a queue: queues name topics, so only letters, digits, '.', '_' and '-', 200 at most."""
    return (
        None if _QUEUE.fullmatch(text) else "may only hold letters, digits, '.', '_' and '-', and 200 of them at most"
    )


_M = 0x5BD1E995
_MASK = 0xFFFFFFFF


def murmur2(data: bytes) -> int:
    """The 32-bit hash of Kafka's default partitioner (org.apache.kafka.common.utils.Utils.murmur2)."""
    length = len(data)
    h = 0x9747B28C ^ length
    for i in range(0, length & ~3, 4):
        k = int.from_bytes(data[i : i + 4], "little") * _M & _MASK
        k = (k ^ k >> 24) * _M & _MASK
        h = h * _M & _MASK ^ k
    if rest := data[length & ~3 :]:
        h = (h ^ int.from_bytes(rest, "little")) * _M & _MASK
    h = (h ^ h >> 13) * _M & _MASK
    return h ^ h >> 15


def partition_of(key: bytes, partitions: int) -> int:
    """The partition that Java's and aiokafka's default partitioners choose for a key."""
    return (murmur2(key) & 0x7FFFFFFF) % partitions


def shard_of(workflow_id: str, shards: int) -> int:
    """The shard of a workflow id, which is the partition of a record with that key."""
    return partition_of(workflow_id.encode(), shards)


@dataclass(frozen=True, slots=True)
class Token:
    """What an attempt's answer echoes, so that it can only ever meet the attempt it belongs to."""

    shard: int
    run_key: int
    seq: int
    attempt: int
    nonce: str

    def __str__(self) -> str:
        return f"{self.shard:x}.{self.run_key:x}.{self.seq:x}.{self.attempt:x}.{self.nonce}"

    @staticmethod
    def parse(text: str) -> Token | None:
        """The token in `text`, or None if it is none."""
        parts = text.split(".")
        if len(parts) != 5:
            return None
        try:
            shard, run_key, seq, attempt = (int(part, 16) for part in parts[:4])
        except ValueError:
            return None
        return Token(shard, run_key, seq, attempt, parts[4])


def idempotency_key(workflow_id: str, run: int, seq: int) -> str:
    """The same for every attempt of one activity, and never the same for two."""
    return f"{workflow_id}/{run}/{seq}"


KEY_BITS = 48


def run_key(shard: int, number: int) -> int:
    """A run's key: the shard in the high bits, the shard's rising counter in the low 48."""
    return shard << KEY_BITS | number


def shard_of_key(key: int) -> int:
    return key >> KEY_BITS
