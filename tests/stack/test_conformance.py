"""What every way of getting a stack has to do, on real servers.

Each test opens servers of its own: all of them stop or kill something, or look at what is left.
"""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from everstep import stack
from everstep.stack import LocalStack, Stack

pytestmark = pytest.mark.integration

TOPIC = "conformance"
OWNER = Path(__file__).with_name("owner.py")


async def test_serves_kafka_and_sql_and_keeps_both_over_kill_and_stop(way: str) -> None:
    async with stack.open(way) as s:
        await create_topic(s)
        expected: list[bytes] = []
        for turn, how in enumerate(("kill", "stop")):
            expected.append(f"record {turn}".encode())
            await produce(s, expected[-1])
            await insert(s, turn)
            addresses = (s.kafka_bootstrap, s.postgres_dsn)
            for server in (s.kafka, s.postgres):
                await getattr(server, how)()
                assert not listens(server.address)
                assert not await server.running()
                await server.start()
                assert await server.running()
            assert (s.kafka_bootstrap, s.postgres_dsn) == addresses
            assert await consume(s, len(expected)) == expected
            assert await rows(s) == list(range(turn + 1))


async def test_is_durable_and_private_and_creates_no_topic_by_itself(way: str) -> None:
    async with stack.open(way) as s:
        for setting in ("fsync", "synchronous_commit", "full_page_writes"):
            assert await query(s, f"SHOW {setting}") == "on"
        for server in (s.kafka, s.postgres):
            assert listens(server.address)
            assert not listens(server.address, host=outward_address())
        assert await automatic_creation(s) == "false"
        stranger = s.postgres_dsn.replace(str(urlsplit(s.postgres_dsn).password), "wrong")
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(stranger)


async def test_closing_leaves_no_port_and_no_data(way: str, temporary: Path) -> None:
    async with stack.open(way) as s:
        addresses = (s.kafka_bootstrap, s.postgres_dsn)
    assert not any(listens(address) for address in addresses)
    assert not left_behind(temporary)


@pytest.mark.process
async def test_nothing_outlives_an_owner_that_is_killed(way: str, temporary: Path) -> None:
    owner = await asyncio.create_subprocess_exec(sys.executable, OWNER, way, stdout=subprocess.PIPE)
    assert owner.stdout is not None
    environment = json.loads(await owner.stdout.readline())
    assert all(listens(address) for address in environment.values())
    owner.kill()
    await owner.wait()
    await until(lambda: not any(listens(address) for address in environment.values()))
    await until(lambda: not left_behind(temporary))


@pytest.mark.process
async def test_nothing_is_left_of_a_start_that_is_interrupted(way: str, temporary: Path) -> None:
    owner = await asyncio.create_subprocess_exec(
        sys.executable, OWNER, way, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    await until(lambda: any(temporary.glob("everstep-*/*")))
    owner.send_signal(signal.SIGINT)
    _, complaint = await owner.communicate()
    assert b"KeyboardInterrupt" in complaint
    await until(lambda: not left_behind(temporary))


async def test_stays_up_with_its_data_until_taken_down(way: str, directory: Path) -> None:
    local = LocalStack(directory, way)
    try:
        s = await local.up()
        await create_topic(s)
        await produce(s, b"kept")
        await insert(s, 1)
        again = await LocalStack(directory, way).up()
        assert stack.environment(again) == stack.environment(s)
        assert (await local.status()).kafka
        assert await local.down()
        assert not any(listens(address) for address in stack.environment(s).values())
        status = await local.status()
        assert not status.kafka
        assert not status.postgres
        assert not await local.down()
        s = await local.up()
        assert await consume(s, 1) == [b"kept"]
        assert await rows(s) == [1]
    finally:
        await local.down()


@pytest.mark.process
async def test_up_survives_its_command_and_open_uses_what_is_up(way: str, directory: Path) -> None:
    local = LocalStack(directory, way)
    try:
        up = await asyncio.create_subprocess_exec(sys.executable, OWNER, way, str(directory), stdout=subprocess.PIPE)
        printed, _ = await up.communicate()
        async with stack.open(way, directory) as s:
            assert stack.environment(s) == json.loads(printed)
            assert await query(s, "SELECT 1") == 1
        status = await local.status()
        assert status.kafka
        assert status.postgres
    finally:
        await local.down()


async def test_open_with_a_directory_keeps_the_data_and_ends_the_servers(way: str, directory: Path) -> None:
    async with stack.open(way, directory) as s:
        await insert(s, 7)
        address = s.postgres_dsn
        with pytest.raises(stack.StackError, match="another process uses"):
            await LocalStack(directory, way).up()
    assert not listens(address)
    async with stack.open(way, directory) as s:
        assert await rows(s) == [7]


async def create_topic(s: Stack) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=s.kafka_bootstrap)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(TOPIC, 1, 1)])
    finally:
        await admin.close()


async def produce(s: Stack, value: bytes) -> None:
    async with AIOKafkaProducer(bootstrap_servers=s.kafka_bootstrap, acks="all") as producer:
        await producer.send_and_wait(TOPIC, value)


async def consume(s: Stack, count: int) -> list[bytes]:
    async with AIOKafkaConsumer(TOPIC, bootstrap_servers=s.kafka_bootstrap, auto_offset_reset="earliest") as consumer:
        return [(await consumer.getone()).value for _ in range(count)]


async def automatic_creation(s: Stack) -> str:
    admin = AIOKafkaAdminClient(bootstrap_servers=s.kafka_bootstrap)
    await admin.start()
    try:
        [response] = await admin.describe_configs([ConfigResource(ConfigResourceType.BROKER, "1")])
        [(_code, _message, _type, _name, entries)] = response.resources
        return next(str(entry[1]) for entry in entries if entry[0] == "auto.create.topics.enable")
    finally:
        await admin.close()


async def insert(s: Stack, value: int) -> None:
    await query(s, "CREATE TABLE IF NOT EXISTS kept (value int)")
    await query(s, "INSERT INTO kept VALUES ($1)", value)


async def rows(s: Stack) -> object:
    return await query(s, "SELECT array_agg(value ORDER BY value) FROM kept")


async def query(s: Stack, sql: str, *arguments: object) -> object:
    connection = await asyncpg.connect(s.postgres_dsn)
    try:
        return await connection.fetchval(sql, *arguments)
    finally:
        await connection.close()


def listens(address: str, host: str = "127.0.0.1") -> bool:
    port = int(address.rsplit(":", 1)[1].partition("/")[0])
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((host, port)) == 0


def outward_address() -> str:
    """An address of this machine that others could reach, else loopback's second one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # reserved for documentation; connecting a datagram socket sends nothing
            return str(probe.getsockname()[0])
        except OSError:
            return "127.0.0.2"


def left_behind(temporary: Path) -> list[Path]:
    return list(temporary.glob("everstep-*"))


async def until(condition: Callable[[], bool]) -> None:
    """Wait for other processes; pytest's own timeout is the limit."""
    while not condition():  # noqa: ASYNC110 - another process sets no event
        await asyncio.sleep(0.02)
