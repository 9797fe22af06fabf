"""The system way: the PostgreSQL, Java and Kafka that are installed on this machine, run on data of our own."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from everstep.stack._host import ProcessHost
from everstep.stack._kafka import JVM_FLAGS, Java, KafkaRecipe
from everstep.stack._port import Host, StackError
from everstep.stack._postgres import PostgresRecipe


class System:
    """Installed servers as processes; never the instances that the machine itself runs."""

    name = "system"

    def missing(self) -> str | None:
        absent = [advice for found, advice in _findings() if found is None]
        return "; ".join(absent) or None

    def host(self, directory: Path, *, temporary: bool, detached: bool) -> Host:
        kafka = KafkaRecipe(directory / "kafka", java)
        postgres = PostgresRecipe(directory / "postgres", postgres_binaries)
        return ProcessHost(kafka, postgres, directory, temporary=temporary, detached=detached)


def java() -> Java:
    """Installed Java with the jars of the installed Kafka."""
    executable, libraries = _java(), _kafka_libraries()
    if executable is None or libraries is None:
        raise StackError("Java or Kafka is no longer where it was")
    return Java(executable, f"{libraries}/*", JVM_FLAGS)


def postgres_binaries() -> Path:
    """The directory with `initdb` and `postgres`."""
    found = _postgres()
    if found is None:
        raise StackError("PostgreSQL is no longer where it was")
    return found


def _findings() -> Iterator[tuple[Path | None, str]]:
    yield _postgres(), "PostgreSQL's server programs (initdb, postgres) not found: install PostgreSQL 14 or later"
    yield _kafka_libraries(), "Kafka's jars not found: set KAFKA_HOME, or put kafka-server-start.sh on the PATH"
    yield _java(), "Java not found: set JAVA_HOME, or put java on the PATH"


def _postgres() -> Path | None:
    return next((directory for directory in _postgres_candidates() if (directory / "initdb").exists()), None)


def _postgres_candidates() -> Iterator[Path]:
    for program in ("initdb", "postgres"):
        if found := shutil.which(program):
            yield Path(found).resolve().parent
    for pattern in ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/opt/homebrew/opt/postgresql@*/bin"):
        yield from sorted(Path("/").glob(pattern.lstrip("/")), reverse=True)


def _kafka_libraries() -> Path | None:
    libraries = (home / "libs" for home in _kafka_homes())
    return next((directory for directory in libraries if any(directory.glob("kafka_2.1*.jar"))), None)


def _kafka_homes() -> Iterator[Path]:
    if home := os.environ.get("KAFKA_HOME"):
        yield Path(home)
    for script in ("kafka-server-start.sh", "kafka-server-start"):
        if found := shutil.which(script):
            home_of_script = Path(found).resolve().parent.parent
            yield from (home_of_script, home_of_script / "libexec")
    yield Path("/opt/kafka")


def _java() -> Path | None:
    home = os.environ.get("JAVA_HOME")
    found = shutil.which("java", path=f"{home}/bin") if home else shutil.which("java")
    return Path(found) if found else None
