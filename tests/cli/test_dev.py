"""`everstep dev`: everything runs, runs again when the code changes, and is gone after Ctrl-C."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from .conftest import Everstep

pytestmark = [pytest.mark.integration, pytest.mark.process]

APP = """
from everstep import App, Context

app = App("dev")

@app.activity
async def greet(name: str) -> str:
    return f"{word} {{name}}"

@app.workflow
async def hello(ctx: Context, name: str) -> str:
    return await greet(name)
"""


class Lines:
    """What a process writes, as it comes."""

    def __init__(self, stream: asyncio.StreamReader) -> None:
        self._stream = stream
        self._seen: list[str] = []

    async def until(self, *texts: str) -> None:
        """Reads until every one of the texts has stood in a line."""
        left = set(texts)
        while left:
            line = (await self._stream.readline()).decode()
            assert line, f"ended without {left}: {''.join(self._seen)}"
            self._seen.append(line)
            left = {text for text in left if text not in line}


@pytest.fixture
def everstep(everstep: Everstep, postgres_dsn: str, kafka_bootstrap: str, topic_prefix: str) -> Everstep:
    everstep.set(
        {
            "EVERSTEP_KAFKA_BOOTSTRAP": kafka_bootstrap,
            "EVERSTEP_POSTGRES_DSN": postgres_dsn,
            "EVERSTEP_TOPIC_PREFIX": topic_prefix,
            "EVERSTEP_LOG_FORMAT": "json",
        }
    )
    return everstep


READY = ('"event": "ready"', '"event": "worker ready"')


async def test_it_runs_reloads_and_leaves_nothing(everstep: Everstep, tmp_path: Path, topic_prefix: str) -> None:
    code = tmp_path / f"app_{topic_prefix}.py"
    code.write_text(APP.replace("{word}", "hello").replace("{{name}}", "{name}"))
    dev = await everstep.begin("dev", f"app_{topic_prefix}:app", cwd=tmp_path)
    try:
        assert dev.stdout is not None
        assert dev.stderr is not None
        told, noted = Lines(dev.stdout), Lines(dev.stderr)
        await noted.until(*READY)
        assert (await everstep("start", "hello", '"you"', "--id", "a", "--wait")).out == '"hello you"\n'
        await told.until("a  hello started", 'a  completed with "hello you"')

        os.kill(await _worker_of(dev.pid), signal.SIGKILL)
        await noted.until("the worker was ended by SIGKILL; it starts again", '"event": "worker ready"')

        code.write_text("this is no Python\n")
        await noted.until(f"{code.name} changed: restarting")
        await noted.until("it starts again when a file changes", "SyntaxError")
        code.write_text(APP.replace("{word}", "good morning").replace("{{name}}", "{name}"))
        await noted.until(*READY)
        assert (await everstep("start", "hello", '"you"', "--id", "b", "--wait")).out == '"good morning you"\n'
        await told.until("b  hello started", 'b  completed with "good morning you"')

        dev.send_signal(signal.SIGINT)
        await noted.until("stopping")
        assert await dev.wait() == 0
    finally:
        if dev.returncode is None:
            dev.terminate()
            await dev.wait()
    assert f"app_{topic_prefix}:app" not in await _processes()


async def _worker_of(dev: int) -> int:
    lines = (line.split(maxsplit=2) for line in (await _processes("pid=,ppid=,args=")).splitlines())
    return next(int(pid) for pid, parent, args in lines if int(parent) == dev and "everstep_worker" in args)


async def _processes(columns: str = "args=") -> str:
    ps = await asyncio.create_subprocess_exec("ps", "-A", "-o", columns, stdout=asyncio.subprocess.PIPE)
    return (await ps.communicate())[0].decode()
