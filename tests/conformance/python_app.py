"""The activities that `everstep conformance` calls, on the Python worker."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta
from typing import Any, Literal

from everstep import App, RetryAfter, activity

app = App("conformance")


class Declined(Exception): ...


@app.activity
async def echo(value: Any) -> Any:
    return value


@app.activity
async def pair(first: int, second: int) -> list[int]:
    return [first, second]


@app.activity(raises=[Declined])
async def decline(message: str) -> None:
    raise Declined(message)


@app.activity
async def fail(message: str) -> None:
    raise OSError(message) from ValueError(f"the cause of {message}")


@app.activity
async def retry_after(seconds: float) -> None:
    raise RetryAfter(timedelta(seconds=seconds))


@app.activity
async def sleep(seconds: float) -> float:
    began = time.time()
    await asyncio.sleep(seconds)
    return began


@app.activity
async def beat(count: int, every: float, then: Literal["return", "fail", "hang"]) -> int:
    for done in range(1, count + 1):
        activity.heartbeat({"done": done})
        await asyncio.sleep(every)
    if then == "fail":
        raise OSError(f"failed after {count} heartbeats")
    if then == "hang":
        await asyncio.Event().wait()
    return count


@app.activity
async def until_cancelled() -> None:
    await asyncio.Event().wait()


@app.activity
async def attempt_info() -> dict[str, Any]:
    info = activity.info()
    return {
        "workflow_id": info.workflow_id,
        "run": info.run,
        "idempotency_key": info.idempotency_key,
        "attempt": info.attempt,
        "last_heartbeat": activity.last_heartbeat(Any),
    }


@app.activity
async def big(size: int) -> str:
    return "x" * size
