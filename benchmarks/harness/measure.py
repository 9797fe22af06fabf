"""One workload on one system: start it, warm it up, measure, end it. Prints one JSON line."""

import argparse
import asyncio
import contextlib
import json
import os
import platform
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.harness.accounting import TICK, HostTicks, MemorySampler, host_ticks
from benchmarks.harness.peer import Peer
from benchmarks.harness.workloads import DEFAULT_N, Figures, Runner, marks, open_gate

WARM_UP = 20
WARM_UP_SECONDS = 60.0


@dataclass
class Usage:
    """CPU up to now: of the machine, of the system by component, of the driver."""

    at: float
    host: HostTicks
    system: dict[str, float]
    driver: float


class Measurement:
    """Runs a workload's phases and keeps the figures."""

    def __init__(self, peer: Peer, workload: str, n: int, limit_seconds: float) -> None:
        self._peer = peer
        self._workload = workload
        self._n = n
        self._limit_seconds = limit_seconds
        self._tag = f"{workload.lower()}-{os.getpid()}"
        self._sampler = MemorySampler(peer.processes)
        self.figures: Figures = {"peer": peer.name, "workload": workload, "n": n, "ok": False, "durable": peer.durable}

    async def run(self) -> Figures:
        self._make_directory()
        try:
            await self._start()
            before = await self._prepare()
            await self._measure()
            self._account(before)
        except TimeoutError:
            self.figures["error"] = f"not finished after {self._limit_seconds:.0f} s"
        except Exception as error:  # whatever a system does, its figures say so
            self.figures["error"] = f"{type(error).__name__}: {error}"[:400]
        self._sampler.stop()
        self.figures.update(peak_mb=self._sampler.peak, peak_mb_total=sum(self._sampler.peak.values()))
        self._peer.down()
        if self.figures["ok"] and not os.environ.get("PEER_KEEP"):
            shutil.rmtree(self._peer.dir, ignore_errors=True)
        return self.figures

    def _make_directory(self) -> None:
        shutil.rmtree(self._peer.dir, ignore_errors=True)
        self._peer.dir.mkdir(parents=True)
        self._peer.dir.chmod(0o777)  # a database may run as another user

    async def _start(self) -> None:
        await self._peer.up()
        await self._peer.start_worker()
        self.figures["versions"] = self._peer.versions()
        if not self._peer.embedded:
            self._peer.runner = Runner(await self._peer.make_client())
        await asyncio.wait_for(self._peer.call("warm", WARM_UP, self._tag), WARM_UP_SECONDS)
        self._sampler.start()

    async def _prepare(self) -> Usage:
        """What was used before the part that counts, which for W4 begins after its setup."""
        before = self._usage()
        if self._workload in ("W4", "W6"):
            self.figures.update(await self._phase(f"{self._workload}.setup"))
            self.figures["setup_s"] = time.perf_counter() - before.at
        return self._usage() if self._workload == "W4" else before

    async def _measure(self) -> None:
        if self._workload == "W6":
            await self._measure_recovery()
        else:
            self.figures.update(await self._phase("W4.go" if self._workload == "W4" else self._workload))

    async def _measure_recovery(self) -> None:
        self._peer.kill_worker()
        open_gate()
        began = time.perf_counter()
        await self._peer.start_worker()
        self.figures["boot_s"] = time.perf_counter() - began
        await self._phase("W6.go")
        self.figures.update(wall_s=time.perf_counter() - began, ops=self._n, re_run=marks() - self.figures["mid_way"])

    async def _phase(self, phase: str) -> Figures:
        return await asyncio.wait_for(self._peer.call(phase, self._n, self._tag), self._limit_seconds)

    def _usage(self) -> Usage:
        driver = time.process_time() - self._sampler.cpu
        return Usage(time.perf_counter(), host_ticks(), self._peer.cpu(), driver)

    def _account(self, before: Usage) -> None:
        after, figures = self._usage(), self.figures
        host, whole = after.host.since(before.host), after.at - before.at
        cpu = {component: used - before.system.get(component, 0.0) for component, used in after.system.items()}
        total, driver = sum(cpu.values()), after.driver - before.driver
        figures.update(
            cpu_s=cpu,
            client_cpu_s=None if self._peer.embedded else driver,
            cpu_s_per_1k=total / figures["ops"] * 1e3,
            steal_pct=100 * host.stolen / max(1, host.total),
            other_cores=max(0.0, host.busy / TICK - total - driver) / whole,  # used by processes that are not ours
            ok=True,
        )
        if self._workload not in ("W4", "W6"):
            figures["cores_used"] = (total + (0 if self._peer.embedded else driver)) / figures["wall_s"]


def rounded(value: Any) -> Any:
    """Floats to four digits, however deep."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    return {key: rounded(item) for key, item in value.items()} if isinstance(value, dict) else value


def main(peer: Peer) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("workload", choices=sorted(DEFAULT_N))
    parser.add_argument("--n", type=int, help="workflows (W3: activities)")
    parser.add_argument("--limit", type=float, default=240, help="seconds allowed per phase")
    chosen = parser.parse_args()
    measurement = Measurement(peer, chosen.workload, chosen.n or DEFAULT_N[chosen.workload], chosen.limit)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        figures = runner.run(measurement.run())
        print(json.dumps(rounded({**figures, "python": platform.python_version()})), flush=True)
        os._exit(0 if figures["ok"] else 1)  # outstanding calls of a failed run must not hold us


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop for the driver, where a system's environment has it."""
    with contextlib.suppress(ImportError):
        import uvloop

        return uvloop.new_event_loop
    return None
