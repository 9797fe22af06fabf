"""The ways of getting a stack, each a parameter of the conformance suite."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from everstep import stack
from everstep.stack import _jars, _paths

RecordProperty = Callable[[str, object], None]


@pytest.fixture(params=list(stack.WAYS))
def way(request: pytest.FixtureRequest, record_property: RecordProperty, lays_out_kafka: bool) -> str:
    """The name of a way that works on this machine; the terminal summary names those that do not."""
    name: str = request.param
    if reason := stack.WAYS[name].missing():
        pytest.skip(f"{name} stack UNTESTED: {reason}")
    record_property("way", f"{name} (Kafka laid out by the tests)" if name == "system" and lays_out_kafka else name)
    return name


@pytest.fixture
def lays_out_kafka(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Where the machine has no Kafka of its own, the system way gets the pinned jars, laid out as in its archive."""
    absent = "Kafka's jars" in (stack.WAYS["system"].missing() or "")
    if absent and stack.WAYS["embedded"].missing() is None:
        libraries = tmp_path_factory.mktemp("kafka") / "libs"
        libraries.mkdir()
        for jar in _jars.fetch(_paths.cache_directory() / "kafka-jars"):
            (libraries / jar.name).symlink_to(jar)
        monkeypatch.setenv("KAFKA_HOME", str(libraries.parent))
    return absent


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where this test and the processes that it starts put temporary files; every user may enter."""
    path = Path(tempfile.mkdtemp(prefix="test-stack-")).resolve()
    path.chmod(0o711)
    monkeypatch.setenv("TMPDIR", str(path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def directory(temporary: Path) -> Path:
    """A place for a stack that is to stay."""
    return temporary / "stack"
