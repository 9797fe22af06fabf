"""Kafka's jars for the embedded way: an exact list with checksums, fetched once per user by jgo.

`kafka-jars.txt` names every artifact, so nothing is resolved at run time and what is put on the class path is what the
list says, byte by byte. `python -m everstep.stack._jars VERSION` prints the list for another version of Kafka.
"""

from __future__ import annotations

import hashlib
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from everstep.stack._paths import cache_directory, exclusive
from everstep.stack._port import StackError

if TYPE_CHECKING:
    from jgo.maven import Artifact, MavenContext

LOGGER = (
    "org.slf4j:slf4j-simple"  # prints the broker's log; starts faster than log4j, which Kafka brings without binding
)


@dataclass(frozen=True)
class Jar:
    """One line of the list."""

    group: str
    name: str
    version: str
    sha256: str

    def line(self) -> str:
        return f"{self.sha256} {self.group}:{self.name}:{self.version}"


def pinned() -> list[Jar]:
    """The checked-in list."""
    text = resources.files("everstep.stack").joinpath("kafka-jars.txt").read_text()
    return [_jar(line) for line in text.splitlines() if not line.startswith("#")]


def _jar(line: str) -> Jar:
    sha256, coordinates = line.split()
    group, name, version = coordinates.split(":")
    return Jar(group, name, version, sha256)


def kafka_version() -> str:
    """The version of Kafka in the list."""
    return next(jar.version for jar in pinned() if jar.name.startswith("kafka_"))


def fetch(directory: Path) -> list[Path]:
    """The jars of the list in `directory`, downloaded where missing or damaged. `StackError` if that cannot be done."""
    with exclusive(directory, wait=True), ThreadPoolExecutor(8) as pool:
        context = _maven(directory)
        return list(pool.map(lambda jar: _fetch_one(context, jar), pinned()))


def _fetch_one(context: MavenContext, jar: Jar) -> Path:
    artifact = context.project(jar.group, jar.name).at_version(jar.version).artifact()
    path = artifact.cached_path
    assert path is not None  # noqa: S101 - the context has a cache
    if path.exists() and _sha256(path) == jar.sha256:
        return path
    path.unlink(missing_ok=True)  # a download that was cut short
    _download(artifact)
    if (found := _sha256(path)) != jar.sha256:
        path.unlink()
        raise StackError(
            f"{jar.name} {jar.version} has SHA-256 {found}, not {jar.sha256} as listed: something between "
            "this machine and the repository alters downloads; it was not used"
        )
    return path


def _download(artifact: Artifact) -> Path:
    import requests

    try:
        return artifact.resolve()
    except (requests.RequestException, RuntimeError) as error:
        raise StackError(
            f"could not download {artifact.filename} of Kafka: {error}. The first start needs a network; a mirror is "
            "set under [repositories] in jgo's configuration file"
        ) from error


def _maven(directory: Path) -> MavenContext:
    from jgo.maven import MavenContext

    return MavenContext(repo_cache=directory, remote_repos=_mirrors() or None, timeout=60)


def _mirrors() -> dict[str, str]:
    """The repositories that the user configured for jgo, by name; none for its default."""
    from jgo.config import GlobalSettings

    return dict(GlobalSettings.load().repositories)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _resolve(version: str, directory: Path) -> list[Jar]:
    """The list for a version of Kafka, as its published dependencies say."""
    context = _maven(directory)
    kafka = context.project("org.apache.kafka", "kafka_2.13").at_version(version).artifact()
    _, transitive = context.resolver.resolve([context.create_dependency(str(kafka.component))])
    facade = next(found for found in transitive if found.artifactId == "slf4j-api")
    logger = context.project(*LOGGER.split(":")).at_version(facade.version).artifact()
    artifacts = [kafka, logger, *(found.artifact for found in transitive)]
    return [Jar(a.groupId, a.artifactId, a.version, _sha256(_download(a))) for a in artifacts]


def main() -> None:
    """Print the list for the version on the command line."""
    jars = _resolve(sys.argv[1], cache_directory() / "kafka-jars")
    print(f"# Apache Kafka {sys.argv[1]} and what it needs; printed by `python -m everstep.stack._jars {sys.argv[1]}`")
    print("\n".join(sorted((jar.line() for jar in jars), key=lambda line: line.split()[1])))


if __name__ == "__main__":
    main()
