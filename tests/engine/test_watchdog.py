"""Code that never yields is broken, and the run is stalled with the line; code that blocks in C ends the process."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.engine.kit import Case

from everstep import App, Context
from everstep._core.engine import CannotRun
from everstep._watchdog import Watchdog

# pytest-timeout's other method would use the same signal.
pytestmark = pytest.mark.timeout(60, method="thread")
ROOT = Path(__file__).parents[2]
app = App("watchdog")


@pytest.fixture
def watchdog() -> Iterator[Watchdog]:
    guard = Watchdog(limit_seconds=0.1)
    before = signal.getsignal(signal.SIGALRM)
    guard.start()
    yield guard
    guard.stop()
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


@app.activity
async def work(n: int) -> int:
    raise AssertionError("workers run activities")


@app.workflow
async def spins(ctx: Context) -> None:
    n = 0
    while True:
        n += 1


@app.workflow
async def catches(ctx: Context) -> None:
    n = 0
    while n < 3:
        try:
            while True:
                json.dumps([1, 2, 3])
        except BaseException:
            n += 1


@app.workflow
async def locks_itself_out(ctx: Context) -> None:
    lock = threading.Lock()
    with lock:
        lock.acquire()


@app.workflow
async def spins_later(ctx: Context) -> None:
    await work(1)
    while True:
        pass


@app.workflow
async def polite(ctx: Context) -> int:
    return await work(1)


@pytest.mark.parametrize("workflow", [spins, catches, locks_itself_out])
def test_code_that_never_yields_is_broken_and_the_line_is_named(watchdog: Watchdog, workflow: object) -> None:
    with pytest.raises(CannotRun) as caught:
        Case(app, workflow, guard=watchdog, check=False)  # type: ignore[arg-type]  # one of these workflows
    reason = caught.value.reason
    assert reason.kind == "blocked"
    assert "test_watchdog.py:" in reason.message


def test_other_runs_go_on(watchdog: Watchdog) -> None:
    case = Case(app, polite, guard=watchdog)
    victim = Case(app, spins_later, guard=watchdog, check=False)
    with pytest.raises(CannotRun):
        victim.complete(2, 1)
    victim.run.evict()
    case.complete(2, 5)
    assert case.result == 5


def test_closing_code_that_never_yields_is_broken_too(watchdog: Watchdog) -> None:
    @app.workflow
    async def lingers(ctx: Context) -> None:
        try:
            await work(1)
        finally:
            while True:
                pass

    case = Case(app, lingers, guard=watchdog, check=False)
    case.run.evict()
    assert case.run.next_seq == 3


def test_an_idle_process_is_not_woken(watchdog: Watchdog) -> None:
    case = Case(app, polite, guard=watchdog)
    assert signal.getitimer(signal.ITIMER_REAL)[1] > 0
    deadline = time.monotonic() + 10
    while signal.getitimer(signal.ITIMER_REAL)[1] > 0:
        assert time.monotonic() < deadline
        signal.sigtimedwait([], 0.01)
    case.complete(2, 5)
    assert signal.getitimer(signal.ITIMER_REAL)[1] > 0, "the next step switches it on again"


def test_only_lines_of_the_authors_are_interrupted(watchdog: Watchdog) -> None:
    loop = asyncio.new_event_loop()
    # While the step lasts, no frame of this module is on top of the stack.
    loop.call_soon(watchdog.enter)
    loop.call_later(0.3, watchdog.leave)
    loop.call_later(0.3, loop.stop)
    loop.run_forever()
    loop.close()
    assert watchdog._ticks > 4, "the limit has passed"
    assert watchdog._broken is None


UNBREAKABLE = """
import contextlib, threading
from everstep import App, Context
from everstep._watchdog import Watchdog
from tests.engine.kit import Case

app = App("unbreakable")

@app.workflow
async def sums(ctx: Context) -> int:
    return sum(range(10**15))

@app.workflow
async def catches(ctx: Context) -> None:
    lock = threading.Lock()
    lock.acquire()
    while True:
        with contextlib.suppress(BaseException):
            lock.acquire()

guard = Watchdog(limit_seconds=0.2, fatal_seconds=0.6)
guard.start()
Case(app, {name}, guard=guard, check=False)
"""


@pytest.mark.parametrize("name", ["sums", "catches"])
def test_what_cannot_be_broken_ends_the_process_and_says_where_it_stood(name: str) -> None:
    program = UNBREAKABLE.replace("{name}", name)
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, timeout=60, check=False)
    assert done.returncode == 1
    assert b"Timeout" in done.stderr
    assert f"in {name}\n".encode() in done.stderr
