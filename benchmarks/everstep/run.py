"""Everstep as a system to measure: Kafka and PostgreSQL of the embedded stack, and the product's own services.

python run.py W1 --n 2000
"""

import asyncio
import os
import sys
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import asyncpg
import httpx

from everstep import Client as EverstepClient
from everstep import Run
from everstep.cli.migrate import migrate
from everstep.settings import Settings
from everstep.stack._embedded import java, postgres_binaries
from everstep.stack._jars import kafka_version
from everstep.stack._kafka import KafkaRecipe
from everstep.stack._paths import free_port
from everstep.stack._postgres import PostgresRecipe
from everstep.stack._process import ProcessServer, Program

sys.path.append(str(Path(__file__).resolve().parents[2]))

from benchmarks.harness import measure, peer, workloads

CONCURRENCY = 2000  # W6 holds a thousand activities open at once
READY_SECONDS = 60.0


class Client(workloads.Client):
    """Starts and signals over Kafka; results come from the lifecycle topic."""

    def __init__(self, client: EverstepClient) -> None:
        self._client = client

    async def start(self, kind: str, wid: str, arg: Any) -> Run[Any]:
        return await self._client.start(kind, arg, id=wid)

    async def result(self, token: Run[Any]) -> Any:
        return await token.result()

    async def signal(self, wid: str, payload: Any) -> None:
        await self._client.run(wid).signal("go", payload)


class Spawned:
    """Launches a server as a component of the system, so that its CPU counts."""

    def __init__(self, system: peer.Peer, component: str) -> None:
        self._system = system
        self._component = component

    def launch(self, program: Program) -> int:
        account = program.account
        drop = {"user": account.user, "group": account.group, "extra_groups": []} if account else {}
        process = self._system.spawn(
            self._component, list(program.argv), env=dict(program.environment), cwd="/", **drop
        )
        return process.pid

    def close(self) -> None:
        """`Peer.down` ends all components."""


class Everstep(peer.Peer):
    name = "everstep"

    async def up(self) -> None:
        postgres_recipe = PostgresRecipe(self.dir / "postgres", postgres_binaries)
        kafka = ProcessServer(KafkaRecipe(self.dir / "kafka", java), Spawned(self, "kafka"))
        postgres = ProcessServer(postgres_recipe, Spawned(self, "postgres"))
        await asyncio.gather(kafka.start(), postgres.start())
        self._ports = {"BENCH_ORCHESTRATOR_PORT": str(free_port()), "BENCH_WORKER_PORT": str(free_port())}
        os.environ |= {
            **self._ports,
            "EVERSTEP_KAFKA_BOOTSTRAP": kafka.address,
            "EVERSTEP_POSTGRES_DSN": postgres.address,
            "EVERSTEP_CONCURRENCY": str(CONCURRENCY),
            "EVERSTEP_WORKER_ID": "bench",  # a worker that comes back under its name need not wait for its ghost
            "EVERSTEP_LOG_LEVEL": "warning",
        }
        await migrate(Settings.from_environment())
        self._postgres_version = await server_version(postgres.address)

    async def start_worker(self) -> None:
        self.spawn("app", [sys.executable, "services.py"], cwd=self.here)
        async with asyncio.timeout(READY_SECONDS), httpx.AsyncClient() as http:
            for port in self._ports.values():
                while not await answers(http, f"http://127.0.0.1:{port}/readyz"):  # noqa: ASYNC110 - only asking tells
                    await asyncio.sleep(0.02)

    async def make_client(self) -> workloads.Client:
        return Client(await EverstepClient(settings=Settings.from_environment()).__aenter__())

    def versions(self) -> dict[str, str]:
        return {
            "everstep": version("everstep"),
            "kafka": kafka_version(),
            "postgres": self._postgres_version,
            "aiokafka": version("aiokafka"),
        }


async def server_version(dsn: str) -> str:
    connection = await asyncpg.connect(dsn)
    try:
        return str(await connection.fetchval("SHOW server_version"))
    finally:
        await connection.close()


async def answers(http: httpx.AsyncClient, url: str) -> bool:
    with suppress(httpx.TransportError):
        return (await http.get(url)).is_success
    return False


if __name__ == "__main__":
    measure.main(Everstep())
