"""The statements of `queries/membership.sql` on one session."""

from __future__ import annotations

import os
import secrets
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version

import msgspec

from everstep_orchestrator.membership.model import Claim, Code, Member, Seen
from everstep_orchestrator.membership.sharing import Deaths
from everstep_orchestrator.store.connections import Connection
from everstep_schemas.sql import migrations

_code = msgspec.json.Decoder(dict[str, frozenset[int]])


@dataclass(frozen=True, slots=True)
class Self:
    """Who registers. The id is new for every process."""

    id: str
    address: str
    code: Code


class Registry:
    """The register of members and shards, as one member sees and changes it."""

    def __init__(self, connection: Connection, sql: Mapping[str, str], schema: str, me: Self, deaths: Deaths) -> None:
        self._connection = connection
        self._sql = sql
        self._schema = schema
        self._me = me
        self._deaths = deaths
        self._codes: dict[str, Code] = {}
        self._entered = False

    async def renew(self, lease_seconds: float, leaving: bool) -> None:
        """Renew the lease; a session enters first, and again if others have buried this member."""
        if not self._entered or not await self._connection.fetch(
            self._sql["renew"], self._me.id, lease_seconds, leaving
        ):
            await self._enter(lease_seconds, leaving)
            self._entered = True

    async def _enter(self, lease_seconds: float, leaving: bool) -> None:
        """The lock comes first: a row whose lock is free belongs to a dead member.

        Its key is new, as the server may not have noticed yet that the last session is gone.
        """
        lock_key = secrets.randbits(63)
        await self._connection.execute(self._sql["lock"], lock_key)
        await self._connection.execute(
            self._sql["register"],
            self._me.id,
            lock_key,
            lease_seconds,
            leaving,
            self._me.address,
            socket.gethostname(),
            os.getpid(),
            version("everstep"),
            migrations()[-1].number,
            msgspec.json.encode({name: sorted(versions) for name, versions in self._me.code.items()}),
        )

    async def others(self) -> list[Member]:
        """The other members that live. Rows of those that died are removed once they own nothing."""
        rows = await self._connection.fetch(self._sql["members"], self._me.id, list(self._codes))
        for row in rows:
            if row["workflows"] is not None:
                self._codes[row["id"]] = _code.decode(row["workflows"])
        if not all(row["leased"] for row in rows):
            await self._connection.execute(self._sql["bury"])
        now = time.monotonic()
        return [
            Member(row["id"], row["leaving"], self._codes[row["id"]])
            for row in rows
            if not self._deaths.is_dead(
                row["id"],
                leased=row["leased"],
                lock_free=row["lock_free"],
                same_server=row["same_server"],
                now=now,
            )
        ]

    async def shards(self) -> list[Seen]:
        """All shards, in order."""
        rows = await self._connection.fetch(self._sql["shards"])
        return [
            Seen(shard, owner, epoch, None if workflow is None else (workflow, version))
            for shard, owner, epoch, workflow, version in rows
        ]

    async def claim(self, shards: Sequence[int], owners: Sequence[str | None]) -> list[Claim]:
        """Take these shards from the owners that they were seen to have; those that moved meanwhile are left out."""
        rows = await self._connection.fetch(self._sql["claim"], self._me.id, shards, owners)
        return sorted((Claim(*row) for row in rows), key=lambda claim: claim.shard)

    async def release(self, shards: Sequence[int]) -> None:
        """Give up what of these is still ours."""
        if shards:
            await self._connection.execute(self._sql["release"], self._me.id, shards, self._schema)

    async def depart(self) -> None:
        """Give up everything and leave the register."""
        await self.release([row[0] for row in await self._connection.fetch(self._sql["owned"], self._me.id)])
        await self._connection.execute(self._sql["forget"], self._me.id)
