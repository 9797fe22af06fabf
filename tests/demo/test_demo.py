"""The demo as its user runs it: as a command, to the end and with a Ctrl-C in its middle."""

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ADDRESS = re.compile(r"127\.0\.0\.1:(\d+)")

pytestmark = [pytest.mark.process, pytest.mark.timeout(400)]


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """One that the database's user can enter, whoever that is; pytest's own lets in nobody else."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o711)
        yield Path(name)


@contextmanager
def demo(directory: Path, **environment: str) -> Iterator["subprocess.Popen[str]"]:
    """In a session of its own, like a command in a terminal; its temporary files go to `directory`."""
    with subprocess.Popen(
        [sys.executable, "-m", "examples.orders.demo"],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(directory), **environment},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def output_until(process: "subprocess.Popen[str]", text: str) -> str:
    """What it prints up to the line that holds `text`, or to its end."""
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if text in line:
            break
    return "".join(lines)


def ports_that_answer(output: str) -> list[int]:
    return [port for port in sorted({int(port) for port in ADDRESS.findall(output)}) if answers(port)]


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_every_order_ends_as_it_should(tmp_path: Path, kafka_bootstrap: str, postgres_dsn: str) -> None:
    """On servers that belong to someone else, with names of its own."""
    addresses = {"EVERSTEP_KAFKA_BOOTSTRAP": kafka_bootstrap, "EVERSTEP_POSTGRES_DSN": postgres_dsn}
    with demo(tmp_path, **addresses) as process:
        output = output_until(process, "no such line")
        assert process.wait() == 0, output
    assert "SIGKILL to orchestrator-1" in output
    assert "SIGKILL to worker-1" in output
    assert "All 380 orders ended as they should." in output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("moment", ["SIGKILL to orchestrator-1", "SIGKILL to worker-1"])
def test_ctrl_c_leaves_no_port_and_no_file_behind(open_directory: Path, moment: str) -> None:
    with demo(open_directory) as process:
        output = output_until(process, moment)
        assert len(ports_that_answer(output)) >= 5, output
        os.killpg(process.pid, signal.SIGINT)
        assert "Stopped." in output_until(process, "no such line")
        assert process.wait() == 130
    assert ports_that_answer(output) == []
    assert list(open_directory.iterdir()) == []
