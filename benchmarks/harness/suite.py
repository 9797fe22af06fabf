"""Runs systems on workloads, several rounds, interleaved; writes results/<date>.json and prints a table.

run_all.py                                    Everstep beside restate-tuned, 3 rounds
run_all.py --quick                            one round of small sizes: does everything work?
run_all.py --systems everstep,dbos-tuned --workloads W1,W2 --rounds 5
"""

import argparse
import contextlib
import datetime
import fcntl
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.harness.accounting import TICK, host_ticks
from benchmarks.harness.peer import BENCHMARKS
from benchmarks.harness.report import Runs, host, print_table, summarise
from benchmarks.harness.systems import ALL, RAW, SYSTEMS, System, prepare
from benchmarks.harness.workloads import DEFAULT_N, Figures

QUIET_CORES = 0.25
QUICK_N = {"W1": 100, "W2": 20, "W3": 100, "W3x10": 1000, "W4": 50, "W5": 50, "W6": 50}


class Suite:
    """One pass over systems and workloads; what a system fails at is recorded once, not waited for again."""

    def __init__(self, chosen: argparse.Namespace) -> None:
        self._chosen = chosen
        self._systems = [SYSTEMS[name] for name in chosen.systems.split(",")]
        self._sizes = sizes(chosen)
        self._gave_up: set[tuple[str, str]] = set()
        self._file = Path(chosen.out or BENCHMARKS / "results" / f"{datetime.date.today().isoformat()}.json")
        self._runs: Runs = []

    def run(self) -> None:
        for system in self._systems:
            prepare(system)
        self._file.parent.mkdir(exist_ok=True)
        raw = self._limits_of_the_machine()
        for round_number in range(self._chosen.rounds):
            for workload in self._chosen.workloads.split(","):
                self._run_round(round_number, workload)
        summary = summarise(self._runs)
        self._write(raw=raw, summary=summary)
        print_table(summary)

    @property
    def all_ok(self) -> bool:
        return not self._gave_up

    def _run_round(self, round_number: int, workload: str) -> None:
        for system in self._systems:
            if workload not in system.workloads or (system.name, workload) in self._gave_up:
                continue
            at = time.strftime("%H:%M:%S")
            figures = self._measure(system, workload) | {"peer": system.name, "workload": workload}
            self._runs.append({**figures, "round": round_number, "at": at})
            if not figures["ok"]:
                self._gave_up.add((system.name, workload))
            print(
                f"{at} round {round_number} {system.name} {workload}: {briefly(figures)}", file=sys.stderr, flush=True
            )
            self._write()

    def _measure(self, system: System, workload: str) -> Figures:
        limit = self._chosen.limit
        command = [system.python, "run.py", workload.removesuffix("x10"), "--n", str(self._sizes[workload])]
        with alone(self._chosen.lock, self._chosen.quiet):
            return call([*command, "--limit", str(limit)], system, 3 * limit + 60)

    def _limits_of_the_machine(self) -> list[Figures]:
        if not self._chosen.raw:
            return []
        prepare(RAW)
        with alone(self._chosen.lock, self._chosen.quiet):
            return [call([RAW.python, "limits.py"], RAW, 300)]

    def _write(self, **more: Any) -> None:
        content = {"date": datetime.date.today().isoformat(), "host": host(), **more, "runs": self._runs}
        self._file.write_text(json.dumps(content, indent=1))


def sizes(chosen: argparse.Namespace) -> dict[str, int]:
    wanted = dict(QUICK_N) if chosen.quick else {**DEFAULT_N, "W3x10": 10 * DEFAULT_N["W3"]}
    return wanted | {workload: int(n) for workload, n in (pair.split("=") for pair in chosen.n)}


def call(argv: list[str], system: System, limit_seconds: float) -> Figures:
    """The last line of what the system's program prints; it stands for a failure if there is none."""
    environment = {**os.environ, **system.environment}
    try:
        done = subprocess.run(
            argv,
            cwd=system.directory,
            env=environment,
            capture_output=True,
            text=True,
            timeout=limit_seconds,
            check=False,
        )
        figures: Figures = json.loads(done.stdout.strip().splitlines()[-1])
    except subprocess.TimeoutExpired:
        return {"ok": False, "error": f"harness limit of {limit_seconds} s"}
    except (IndexError, json.JSONDecodeError):
        return {"ok": False, "error": f"no result: {done.stderr.strip()[-300:]}"}
    return figures


def briefly(figures: Figures) -> str:
    if not figures["ok"]:
        return f"FAILED {figures['error']}"
    shown = ("wall_s", "act_per_s", "wf_ms_p50", "us_per_item", "events_per_s", "late_ms_p50", "boot_s", "cpu_s_per_1k")
    return " ".join(f"{name}={figures[name]}" for name in shown if name in figures)


@contextlib.contextmanager
def alone(lock: str | None, quiet_seconds: float) -> Iterator[None]:
    """Holds the lock file, after waiting at most so long for other processes to calm down."""
    deadline = time.monotonic() + quiet_seconds
    while time.monotonic() < deadline and busy_cores(1) > QUIET_CORES:
        pass
    with open(lock or os.devnull, "a") as file:
        if lock:
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def busy_cores(seconds: float) -> float:
    before = host_ticks()
    time.sleep(seconds)
    return host_ticks().since(before).busy / TICK / seconds


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--systems", default="everstep,restate-tuned", help=f"of {','.join(SYSTEMS)}")
    parser.add_argument("--workloads", default=",".join(ALL))
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--quick", action="store_true", help="one round of small sizes; the figures mean nothing")
    parser.add_argument("--limit", type=int, default=240, help="seconds per phase of a run")
    parser.add_argument("--n", action="append", default=[], metavar="W=N", help="another size, e.g. W1=500")
    parser.add_argument("--lock", help="hold an exclusive flock on this file during every run")
    parser.add_argument("--quiet", type=float, default=0, help="wait up to so many seconds for an idle machine")
    parser.add_argument("--raw", action="store_true", help="also measure the limits of the machine")
    parser.add_argument("--out", help="the file for all figures")
    chosen = parser.parse_args()
    chosen.rounds = chosen.rounds or (1 if chosen.quick else 3)
    if unknown := set(chosen.systems.split(",")) - SYSTEMS.keys() | set(chosen.workloads.split(",")) - set(ALL):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    return chosen


def main() -> None:
    suite = Suite(arguments())
    suite.run()
    sys.exit(0 if suite.all_ok else 1)
