"""The commands of the getting-started guide, typed as it says, on the session's servers."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import pytest

GUIDE = Path(__file__).parents[2] / "docs" / "getting-started.md"
DEV = "everstep dev order:app"

pytestmark = [pytest.mark.process, pytest.mark.timeout(180)]


@pytest.fixture
def environment(kafka_bootstrap: str, postgres_dsn: str, topic_prefix: str) -> dict[str, str]:
    """What `everstep stack up` would have exported, and a prefix of the test's own."""
    return {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "EVERSTEP_KAFKA_BOOTSTRAP": kafka_bootstrap,
        "EVERSTEP_POSTGRES_DSN": postgres_dsn,
        "EVERSTEP_TOPIC_PREFIX": topic_prefix,
    }


@contextmanager
def dev(directory: Path, environment: Mapping[str, str]) -> Iterator[None]:
    """`everstep dev`, from the moment its orchestrator and its worker are ready until a Ctrl-C."""
    process = subprocess.Popen(
        DEV.split(), cwd=directory, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert process.stdout is not None
    try:
        ready = (line for line in process.stdout if '"event": "ready"' in line or '"event": "worker ready"' in line)
        assert len(list(islice(ready, 2))) == 2
        yield
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate()


def commands() -> list[str]:
    """All but those that bring the servers up, run the code, and end."""
    typed = re.findall(r"^    (everstep .*)$", GUIDE.read_text(), re.MULTILINE)
    return [command for command in typed if command != DEV]


def test_the_commands_do_what_the_guide_says(tmp_path: Path, environment: dict[str, str]) -> None:
    (tmp_path / "order.py").write_text(re.findall(r"^```python\n(.*?)^```$", GUIDE.read_text(), re.M | re.S)[0])
    answers = {}
    with dev(tmp_path, environment):
        for command in commands():
            done = subprocess.run(
                ["bash", "-c", command], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, f"{command}: {done.stderr}"
            answers[command] = done.stdout
    results = [answer.strip() for command, answer in answers.items() if "--wait" in command or " result " in command]
    assert results == ['"shipped"', '"out of stock"', '"declined"']
    assert "signal ShippingConfirmed received" in answers["everstep history order-17"]
