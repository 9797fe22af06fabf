"""The app of these tests: activities that end, or do not end, in every way that matters."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from collections.abc import AsyncIterator
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from everstep import App, NonRetryable, Retry, RetryAfter, activity, provided, seconds

app = App("worker tests")


@dataclass
class Order:
    sku: str
    quantity: int


class CardDeclined(Exception):
    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class Unpayable(NonRetryable):
    pass


class World:
    """What activities of a worker in this process share with their test."""

    def __init__(self) -> None:
        self.gate = threading.Event()  # threads that wait for it end when a test has ended
        self.began: list[str] = []
        self.cancelled: list[str] = []
        self.ended: list[str] = []
        self.opened: list[str] = []
        self.closed: list[str] = []
        self.beats = 0
        self.broken = False
        self.opening = threading.Event()  # what a slow resource waits for
        self.opening.set()


world = World()
leaked: ContextVar[str] = ContextVar("leaked", default="nothing")


@app.activity
async def greet(name: str) -> str:
    return f"hello {name}"


@app.activity
def double(number: int) -> int:
    return 2 * number


@app.activity
async def price(order: Order, *, discount: int = 0) -> int:
    return order.quantity * 100 - discount


@app.activity
async def about_me() -> dict[str, Any]:
    return _about_me()


@app.activity
def about_me_in_a_thread() -> dict[str, Any]:
    return _about_me()


def _about_me() -> dict[str, Any]:
    info = activity.info()
    return {
        "workflow_id": info.workflow_id,
        "run": info.run,
        "seq": info.seq,
        "attempt": info.attempt,
        "idempotency_key": info.idempotency_key,
        "cancelled": activity.is_cancelled(),
        "main_thread": threading.current_thread() is threading.main_thread(),
    }


@app.activity
async def leak(text: str) -> str:
    before = leaked.get()
    leaked.set(text)
    return before


# ---- errors


@app.activity(raises=[CardDeclined])
async def decline(code: int) -> None:
    raise CardDeclined(code)


@app.activity
async def fail(message: str) -> None:
    try:
        raise KeyError("the reason")
    except KeyError as error:
        raise ValueError(message) from error


@app.activity
def fail_in_a_thread(message: str) -> None:
    raise ValueError(message)


@app.activity
async def refuse() -> None:
    raise Unpayable("never")


@app.activity
async def later() -> None:
    raise RetryAfter(seconds(7))


@app.activity(retry=Retry(retry_if=lambda error: "again" in str(error)))
async def picky(message: str) -> None:
    raise ValueError(message)


@app.activity(retry=Retry(retry_if=lambda error: bool(1 / 0)))
async def confused() -> None:
    raise ValueError("no")


@app.activity
async def leave(kind: str) -> None:
    raise {"exit": SystemExit(3), "interrupt": KeyboardInterrupt(), "cancel": asyncio.CancelledError()}[kind]


@app.activity
def leave_in_a_thread(kind: str) -> None:
    if kind == "exit":
        sys.exit(3)
    raise KeyboardInterrupt


@app.activity
async def leave_from_a_task() -> None:
    async def inner() -> None:
        sys.exit(3)

    await asyncio.create_task(inner())


@app.activity
async def unserialisable() -> Any:
    return object()


@app.activity
async def wrong_type() -> int:
    return "five"  # type: ignore[return-value]  # what an author's mistake looks like at run time


@app.activity
async def text_of(size: int) -> str:
    return "x" * size


@app.activity
async def half_a_surrogate_pair(raised: bool) -> str:
    if raised:
        raise ValueError("\ud800")
    return "\ud800"


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no")


@app.activity
async def unprintable() -> None:
    raise Unprintable


@app.activity
async def long_error(size: int) -> None:
    raise ValueError("x" * size)


# ---- time


@app.activity
async def wait(name: str) -> str:
    """Waits until the test opens the gate, or it is cancelled."""
    world.began.append(name)
    try:
        while not world.gate.is_set():  # noqa: ASYNC110 - the gate is for threads too
            await asyncio.sleep(0.005)
    except asyncio.CancelledError:
        world.cancelled.append(name)
        raise
    finally:
        world.ended.append(name)
    return name


@app.activity
def wait_in_a_thread(name: str) -> str:
    world.began.append(name)
    world.gate.wait()
    world.ended.append(name)
    return name


@app.activity
def wait_until_cancelled(name: str) -> str:
    world.began.append(name)
    while not activity.is_cancelled():
        time.sleep(0.005)
    world.cancelled.append(name)
    return name


@app.activity
async def stubborn(name: str) -> str:
    """Does not let itself be cancelled before the gate opens."""
    world.began.append(name)
    while not world.gate.is_set():
        try:
            await asyncio.sleep(0.005)
        except asyncio.CancelledError:
            world.cancelled.append(name)
    world.ended.append(name)
    return name


# ---- heartbeats: each says the details one after the other, waits for the gate, and fails


@app.activity
async def beat(name: str, details: list[Any]) -> None:
    for one in details:
        activity.heartbeat(one)
    await wait.fn(name)
    raise ValueError("stopped")


@app.activity
def beat_in_a_thread(name: str, details: list[Any]) -> None:
    for one in details:
        activity.heartbeat(one)
    wait_in_a_thread.fn(name)
    raise ValueError("stopped")


@app.activity
async def beat_and_fail_at_once(details: Any) -> None:
    activity.heartbeat(details)
    raise ValueError("stopped")


@app.activity(raises=[CardDeclined])
async def beat_and_decline(details: Any) -> None:
    activity.heartbeat(details)
    raise CardDeclined(51)


@app.activity
async def beat_and_return(details: Any) -> None:
    activity.heartbeat(details)


@app.activity
async def beat_until(name: str) -> int:
    """Makes heartbeats until the gate opens; how many."""
    world.began.append(name)
    while not world.gate.is_set():
        activity.heartbeat(world.beats)
        world.beats += 1
        await asyncio.sleep(0.01)
    return world.beats


@app.activity
async def beat_for(seconds_: float) -> str:
    until = time.monotonic() + seconds_
    while time.monotonic() < until:
        activity.heartbeat()
        await asyncio.sleep(0.01)
    return "done"


@app.activity
async def beat_too_much(size: int) -> None:
    activity.heartbeat("x" * size)


@app.activity
async def go_on() -> Any:
    return activity.last_heartbeat(dict[str, int])


@app.activity(queue="other")
async def elsewhere() -> str:
    return "elsewhere"


# ---- resources


@app.provide
async def first() -> AsyncIterator[str]:
    async with asyncio.timeout(None):  # it must be left in the task in which it was entered
        world.opened.append("first")
        yield "first"
    world.closed.append("first")


@app.provide
async def second() -> AsyncIterator[str]:
    if world.broken:
        raise ConnectionError("no database")
    world.opened.append("second")
    yield "second"
    world.closed.append("second")


@app.provide
async def slow() -> AsyncIterator[str]:
    world.opened.append("slow")
    while not world.opening.is_set():  # noqa: ASYNC110 - it is set for threads too
        await asyncio.sleep(0.005)
    yield "slow"


@app.activity
async def use_slow(*, resource: str = provided(slow)) -> str:
    world.began.append(resource)
    return resource


@app.activity
async def use_both(*, a: str = provided(first), b: str = provided(second)) -> str:
    return f"{a} {b}"


@app.activity
def use_in_a_thread(*, b: str = provided(second)) -> str:
    return b


# ---- across processes: the test says where to write


@app.activity
async def note(line: str, wait_for: str | None = None) -> str:
    """Appends a line to a file, and waits until another file is there."""
    _append(line)
    while wait_for is not None and not (_directory() / wait_for).exists():  # noqa: ASYNC110 - made by another process
        await asyncio.sleep(0.01)
    return line


@app.activity
def note_for_ever(line: str) -> None:
    _append(line)
    threading.Event().wait()


def _directory() -> Path:
    return Path(os.environ["WORKER_TESTS_DIRECTORY"])


def _append(line: str) -> None:
    with (_directory() / "notes").open("a") as notes:
        notes.write(f"{line} {os.getpid()}\n")
