"""The six workloads, written once against a small client; every system under test brings its own.

A system is either a *service*, whose client runs in the driver and talks over the network, or *embedded*: a library
inside the application, whose client runs in the application's process (`serve_embedded`) and obeys the driver over a
pipe.
"""

import asyncio
import json
import os
import sys
import time
from collections.abc import Sequence
from typing import Any

TIMER_SECONDS = 2.0
MARKS_SETTLE_SECONDS = 5.0  # W6: no new mark for so long means that no more will come
DEFAULT_N = {"W1": 2000, "W2": 200, "W3": 1000, "W4": 1000, "W5": 1000, "W6": 1000}

Figures = dict[str, Any]


class Client:
    """Starts workflows of these kinds and gives their results:

    seq    (i)    -> [{"i": i, "s": 0}, {"i": i, "s": 1}, {"i": i, "s": 2}]: three echo activities in sequence
    stamps (None) -> [t0, t1, t2]: three activities in sequence, each returning time.time()
    fan    (k)    -> the sum of i over k parallel echo activities {"i": i}
    wait   (None) -> mark(), then the payload of the external event "go"
    timer  (s)    -> [t0, t1]: stamp, durable sleep of s seconds, stamp
    gated  (i)    -> seq, but the second activity calls mark() and blocks until gate_open()
    """

    concurrent_starts = concurrent_results = 1_000_000  # how many calls may be outstanding

    async def start(self, kind: str, wid: str, arg: Any) -> Any:
        """Starts one and returns the token for its result."""
        raise NotImplementedError

    async def result(self, token: Any) -> Any:
        raise NotImplementedError

    async def signal(self, wid: str, payload: Any) -> None:
        raise NotImplementedError

    async def finish(self, wids: Sequence[str], tokens: Sequence[Any] | None) -> None:
        """W6: waits until every workflow is complete; `tokens` is None where the client died too."""
        await asyncio.gather(*[self.result(token) for token in tokens or ()])


def mark() -> None:
    """Called when a workflow reaches the point of interest; the driver counts the bytes of a file."""
    file = os.open(os.environ["PEER_MARK"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, b".")
    os.close(file)


def marks() -> int:
    try:
        return os.stat(os.environ["PEER_MARK"]).st_size
    except FileNotFoundError:
        return 0


def open_gate() -> None:
    """Lets the gated activities end, in every process."""
    os.close(os.open(os.environ["PEER_GATE"], os.O_CREAT))


def gate_open() -> bool:
    return os.path.exists(os.environ["PEER_GATE"])


def percentiles(values: Sequence[float], *points: float) -> list[float]:
    ordered = sorted(values)
    return [ordered[min(len(ordered) - 1, round(point / 100 * (len(ordered) - 1)))] for point in points]


def seq_result(i: int) -> list[dict[str, int]]:
    return [{"i": i, "s": s} for s in range(3)]


class Runner:
    """Runs the phases of a workload against one client; keeps what W4 and W6 need between their phases."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._kept: dict[str, Any] = {}
        self._starts = asyncio.Semaphore(client.concurrent_starts)
        self._results = asyncio.Semaphore(client.concurrent_results)

    async def run(self, phase: str, n: int, tag: str) -> Figures:
        figures: Figures = await getattr(self, phase.replace(".", "_").lower())(n, tag)
        return figures

    async def warm(self, n: int, tag: str) -> Figures:
        await asyncio.gather(*[self._one("seq", f"{tag}-warm{i}", i, seq_result(i)) for i in range(n)])
        await self._one("stamps", f"{tag}-warmed", None)
        return {}

    async def w1(self, n: int, tag: str) -> Figures:
        began = time.perf_counter()
        await asyncio.gather(*[self._one("seq", f"{tag}-{i}", i, seq_result(i)) for i in range(n)])
        wall = time.perf_counter() - began
        return {"wall_s": wall, "ops": 3 * n, "wf_per_s": n / wall, "act_per_s": 3 * n / wall}

    async def w2(self, n: int, tag: str) -> Figures:
        whole: list[float] = []
        step: list[float] = []
        began = time.perf_counter()
        for i in range(n):
            this_began = time.perf_counter()
            stamps = await self._one("stamps", f"{tag}-{i}", None)
            whole.append((time.perf_counter() - this_began) * 1e3)
            step += [(stamps[1] - stamps[0]) * 1e3, (stamps[2] - stamps[1]) * 1e3]
        figures: Figures = {"wall_s": time.perf_counter() - began, "ops": 3 * n}
        for name, values in (("wf", whole), ("step", step)):
            p50, p95, p99 = percentiles(values, 50, 95, 99)
            figures |= {f"{name}_ms_p50": p50, f"{name}_ms_p95": p95, f"{name}_ms_p99": p99}
        return figures

    async def w3(self, n: int, tag: str) -> Figures:
        began = time.perf_counter()
        await self._one("fan", f"{tag}-fan", n, n * (n - 1) // 2)
        wall = time.perf_counter() - began
        return {"wall_s": wall, "ops": n, "act_per_s": n / wall, "us_per_item": wall / n * 1e6}

    async def w4_setup(self, n: int, tag: str) -> Figures:
        wids = [f"{tag}-{i}" for i in range(n)]
        tokens = await asyncio.gather(*[self._start("wait", wid, None) for wid in wids])
        self._kept = dict(zip(wids, tokens, strict=True))
        while marks() < n:  # noqa: ASYNC110 - a file that other processes write
            await asyncio.sleep(0.1)
        await asyncio.sleep(1.5)
        return {}

    async def w4_go(self, n: int, tag: str) -> Figures:
        async def one(wid: str, token: Any) -> None:
            async with self._starts:
                await self._client.signal(wid, {"go": wid})
            _check(wid, await self._result(token), {"go": wid})

        began = time.perf_counter()
        await asyncio.gather(*[one(wid, token) for wid, token in self._kept.items()])
        wall = time.perf_counter() - began
        return {"wall_s": wall, "ops": n, "events_per_s": n / wall}

    async def w5(self, n: int, tag: str) -> Figures:
        began = time.perf_counter()
        results = await asyncio.gather(*[self._one("timer", f"{tag}-{i}", TIMER_SECONDS) for i in range(n)])
        wall = time.perf_counter() - began
        late = [(end - start - TIMER_SECONDS) * 1e3 for start, end in results]
        p50, p99, most = percentiles(late, 50, 99, 100)
        early = sum(lateness < 0 for lateness in late)
        return {"wall_s": wall, "ops": n, "late_ms_p50": p50, "late_ms_p99": p99, "late_ms_max": most, "early": early}

    async def w6_setup(self, n: int, tag: str) -> Figures:
        wids = [f"{tag}-{i}" for i in range(n)]
        tokens = await asyncio.gather(*[self._start("gated", wid, i) for i, wid in enumerate(wids)])
        self._kept = dict(zip(wids, tokens, strict=True))
        last, since = -1, time.monotonic()
        while (now := marks()) < n and time.monotonic() - since < MARKS_SETTLE_SECONDS:
            if now != last:
                last, since = now, time.monotonic()
            await asyncio.sleep(0.1)
        await asyncio.sleep(0.5)
        return {"mid_way": marks()}

    async def w6_go(self, n: int, tag: str) -> Figures:
        wids = list(self._kept) or [f"{tag}-{i}" for i in range(n)]
        await self._client.finish(wids, list(self._kept.values()) or None)
        return {}

    async def _start(self, kind: str, wid: str, arg: Any) -> Any:
        async with self._starts:
            return await self._client.start(kind, wid, arg)

    async def _result(self, token: Any) -> Any:
        async with self._results:
            return await self._client.result(token)

    async def _one(self, kind: str, wid: str, arg: Any, expected: Any = None) -> Any:
        result = await self._result(await self._start(kind, wid, arg))
        if expected is not None:
            _check(wid, result, expected)
        return result


def _check(wid: str, result: Any, expected: Any) -> None:
    if result != expected:
        raise AssertionError(f"{wid}: got {result!r}")


async def serve_embedded(client: Client) -> None:
    """Main loop of an embedded peer's application: one JSON command a line in, one JSON answer out."""
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # keep stray prints away from the protocol
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(os.dup(sys.stdin.fileno()), "rb")
    )
    runner = Runner(client)
    print(json.dumps({"ready": True}), file=out)
    while line := await reader.readline():
        try:
            reply = await runner.run(**json.loads(line))
        except Exception as error:  # the driver decides
            reply = {"error": f"{type(error).__name__}: {error}"[:400]}
        print(json.dumps(reply), file=out)
