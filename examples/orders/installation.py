"""What the demo runs on: the two servers, Everstep's database and topics, the shop's tables, and the processes."""

import os
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from everstep import stack
from everstep.cli.migrate import migrate
from everstep.settings import Settings
from examples.orders import ledger, stories
from examples.orders.processes import Process, Service


@dataclass
class Installation:
    """Servers that are ready for orders, and the environment in which processes find them."""

    way: str
    dsn: str
    settings: Settings
    addresses: dict[str, str]
    environment: dict[str, str]
    logs: Path

    def service(self, kind: str, number: int) -> Service:
        return Service(f"{kind}-{number}", f"everstep_{kind}", self.environment, self.logs)

    def submitter(self) -> Process:
        where = ["--bootstrap", self.settings.kafka_bootstrap, "--prefix", self.settings.topic_prefix]
        arguments = ["examples.orders.submit", *where, str(stories.FILE)]
        return Process("submit", arguments, self.environment, self.logs)


@asynccontextmanager
async def install(logs: Path) -> AsyncIterator[Installation]:
    """Starts the servers for the length of the block and creates what Everstep and the shop keep there."""
    async with stack.open() as servers:
        names = {} if servers.way in stack.WAYS else own_names()
        addresses = {**stack.environment(servers), **names}
        settings = Settings.from_environment(addresses)
        await migrate(settings)
        shop_dsn = await create_shop(servers.postgres_dsn, f"{settings.postgres_schema}_shop")
        environment = {**os.environ, **addresses, "SHOP_DSN": shop_dsn}
        yield Installation(servers.way, servers.postgres_dsn, settings, addresses, environment, logs)


def own_names() -> dict[str, str]:
    """Servers that belong to someone else may hold another demo already."""
    name = f"demo_{secrets.token_hex(3)}"
    return {"EVERSTEP_TOPIC_PREFIX": name, "EVERSTEP_POSTGRES_SCHEMA": name}


async def create_shop(dsn: str, schema: str) -> str:
    """Creates the shop's tables and returns the DSN under which it finds them."""
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(f"CREATE SCHEMA {schema}; SET search_path TO {schema}; {ledger.TABLES}")
    finally:
        await connection.close()
    return f"{dsn}{'&' if '?' in dsn else '?'}search_path={schema}"
