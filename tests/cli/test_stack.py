"""`everstep stack`: servers that outlive the command that started them."""

from __future__ import annotations

import shlex
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import Everstep

pytestmark = [pytest.mark.integration, pytest.mark.process]


@pytest.fixture
def data(everstep: Everstep) -> Iterator[Path]:
    """A data directory of the test's own, which the database's user may enter."""
    path = Path(tempfile.mkdtemp(prefix="test-stack-"))
    path.chmod(0o711)
    everstep.set({"XDG_DATA_HOME": str(path)})
    yield path
    shutil.rmtree(path)


@pytest.mark.timeout(300)
async def test_up_status_down(everstep: Everstep, data: Path) -> None:
    before = await everstep("stack", "status", "--json")
    assert before.code == 1
    assert (before.json["kafka"], before.json["postgres"]) == (False, False)
    up = await everstep("stack", "up")
    try:
        assert up.code == 0, up.err
        exported = dict(shlex.split(line)[1].split("=", 1) for line in up.out.splitlines())
        assert exported.keys() == {"EVERSTEP_KAFKA_BOOTSTRAP", "EVERSTEP_POSTGRES_DSN"}
        status = await everstep("stack", "status", "--json")
        assert (status.code, status.json["environment"]) == (0, exported)
        everstep.set(exported)
        assert (await everstep("migrate")).code == 0
    finally:
        down = await everstep("stack", "down")
    assert (down.code, down.err) == (0, "stopped\n")
    assert (await everstep("stack", "down")).err == "nothing was running\n"
