"""Commands as an orchestrator makes them, each of a run of its own."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec import UNSET, Raw

from everstep_schemas.names import Token, idempotency_key, partition_of, run_key
from everstep_schemas.wire import ActivityCommand, ReplyTo

TIMEOUT_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Sent:
    """A record of the queue; `command` is None if it is none."""

    command: ActivityCommand | None
    partition: int
    offset: int

    @property
    def token(self) -> str:
        return self.command.token if self.command else ""

    @property
    def known(self) -> ActivityCommand:
        """The command, where it is known to be one."""
        assert self.command is not None  # noqa: S101 - for the type checker
        return self.command

    def __str__(self) -> str:
        what = f"the command of {self.command.activity!r}" if self.command else "the record"
        return f"{what} at offset {self.offset} of partition {self.partition}"


class Commands:
    """Makes commands that are answered to partitions of the inbox, never to the one that their key suggests."""

    def __init__(self, inbox: str, shards: int) -> None:
        self._inbox = inbox
        self._shards = shards
        self._numbers = itertools.count(1)

    def make(
        self, activity: str, *args: object, kwargs: dict[str, object] | None = None, **fields: Any
    ) -> ActivityCommand:
        number = next(self._numbers)
        workflow_id = f"order-{number}"
        shard = (partition_of(workflow_id.encode(), self._shards) + 1) % self._shards
        command = ActivityCommand(
            workflow_id=workflow_id,
            run=1,
            seq=2,
            attempt=1,
            token=str(Token(shard, run_key(shard, number), 2, 1, "c0ffee")),
            activity=activity,
            idempotency_key=idempotency_key(workflow_id, 1, 2),
            reply_to=ReplyTo(self._inbox, shard),
            workflow="conformance",
            args=Raw(msgspec.json.encode(args)),
            kwargs=UNSET if kwargs is None else Raw(msgspec.json.encode(kwargs)),
            timeout_seconds=TIMEOUT_SECONDS,
        )
        return msgspec.structs.replace(command, **fields)
