"""Activities that run in processes, and end, or do not end, in every way that matters.

They share nothing with their test but files in a directory that they are given.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import structlog
from tests.worker.flow import CardDeclined

from everstep import App, Retry, activity

app = App("worker tests of processes")
imported_by = os.getpid()


@app.activity(executor="process")
def about_me() -> dict[str, Any]:
    info = activity.info()
    return {
        "workflow_id": info.workflow_id,
        "attempt": info.attempt,
        "idempotency_key": info.idempotency_key,
        "cancelled": activity.is_cancelled(),
        "main_thread": threading.current_thread() is threading.main_thread(),
        "last": activity.last_heartbeat(dict[str, int]),
    }


@app.activity(executor="process")
def process_id() -> int:
    assert imported_by == os.getpid(), "the app was imported before this process was there"
    return os.getpid()


@app.activity(executor="process")
def total(numbers: list[int], *, times: int = 1) -> int:
    return sum(numbers) * times


@app.activity(executor="process")
def fail(message: str) -> None:
    try:
        raise KeyError("the reason")
    except KeyError as error:
        raise ValueError(message) from error


@app.activity(executor="process", raises=[CardDeclined])
def decline(code: int) -> None:
    raise CardDeclined(code)


@app.activity(executor="process", retry=Retry(retry_if=lambda error: "again" in str(error)))
def picky(message: str) -> None:
    raise ValueError(message)


@app.activity(executor="process")
def text_of(size: int) -> str:
    return "x" * size


@app.activity(executor="process")
def wrong_type() -> int:
    return "five"  # type: ignore[return-value]  # what an author's mistake looks like at run time


@app.activity(executor="process")
def leave(how: str) -> None:
    match how:
        case "exit code 7":
            os._exit(7)
        case "SIGABRT":
            os.abort()
        case "SystemExit":
            sys.exit(3)
        case _:
            os.kill(os.getpid(), signal.Signals[how])


@app.activity(executor="process")
def wait(directory: str, name: str) -> str:
    """Until there is a file `go`; the file `name` says which process waits, and `name-ended` that it was cleared up."""
    _write(directory, name, str(os.getpid()))
    try:
        while not (Path(directory) / "go").exists():
            time.sleep(0.01)
    finally:
        _write(directory, f"{name}-ended", f"cancelled: {activity.is_cancelled()}")
    return name


@app.activity(executor="process")
def stubborn(directory: str, name: str) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _write(directory, name, str(os.getpid()))
    while True:
        time.sleep(0.01)


@app.activity(executor="process")
def start_another(directory: str, name: str) -> None:
    """Has a process of its own, whose id is in the file `name-child`."""
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as child:
        _write(directory, f"{name}-child", str(child.pid))
        stubborn.fn(directory, name)


@app.activity(executor="process")
def beat(directory: str, name: str, details: list[Any]) -> None:
    for one in details:
        activity.heartbeat(one)
    wait.fn(directory, name)
    raise ValueError("stopped")


@app.activity(executor="process")
def say() -> None:
    print("printed by an activity", flush=True)
    logging.getLogger("shop").warning("logged by a library")
    structlog.get_logger("shop").info("logged by an activity", colour="blue")


def _write(directory: str, name: str, text: str) -> None:
    """Whole, or not at all."""
    path = Path(directory) / f"{name}.part"
    path.write_text(text)
    path.rename(path.with_suffix(""))
