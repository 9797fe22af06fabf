"""A real Kafka and a real PostgreSQL on this machine, for demos, tests, benchmarks and development.

    async with stack.open() as s:          # temporary, ends with this process
        ... s.kafka_bootstrap, s.postgres_dsn

    await stack.LocalStack().up()          # stays until `down`

`EVERSTEP_STACK` chooses where the servers come from: `embedded` (packages from pip), `docker` (official images) or
`system` (what is installed). Everything listens on loopback only, on free ports, with durability settings on.
"""

from everstep.stack._port import Server, StackError
from everstep.stack._stack import WAYS, LocalStack, Stack, Status, chosen_way, environment, external, open

__all__ = [
    "WAYS",
    "LocalStack",
    "Server",
    "Stack",
    "StackError",
    "Status",
    "chosen_way",
    "environment",
    "external",
    "open",
]
