"""Figures over rounds, and the table."""

import os
import platform
import statistics
from typing import Any

from benchmarks.harness.systems import ALL
from benchmarks.harness.workloads import Figures

Runs = list[Figures]
Summary = dict[str, dict[str, dict[str, Any]]]  # system, workload, figure

SHOWN = {
    "W1": ("wf_per_s", "act_per_s", "cpu_s_per_1k", "peak_mb_total"),
    "W2": ("wf_ms_p50", "wf_ms_p95", "wf_ms_p99", "step_ms_p50", "step_ms_p99"),
    "W3": ("wall_s", "us_per_item", "cpu_s_per_1k"),
    "W3x10": ("wall_s", "us_per_item", "cpu_s_per_1k"),
    "W4": ("wall_s", "events_per_s", "cpu_s_per_1k"),
    "W5": ("late_ms_p50", "late_ms_p99", "wall_s"),
    "W6": ("wall_s", "boot_s", "mid_way", "re_run"),
}
NOT_FIGURES = ("round", "n", "ops", "ok")


def summarise(runs: Runs) -> Summary:
    """Median, least and most of each figure over the rounds that went well, and why others did not."""
    values: dict[tuple[str, str], dict[str, list[float]]] = {}
    summary: Summary = {}
    for run in runs:
        system, workload = run["peer"], run["workload"]
        entry = summary.setdefault(system, {}).setdefault(workload, {})
        if not run["ok"]:
            entry["error"] = run["error"]
            continue
        figures = values.setdefault((system, workload), {})
        for name, value in run.items():
            if isinstance(value, int | float) and name not in NOT_FIGURES:
                figures.setdefault(name, []).append(value)
    for (system, workload), figures in values.items():
        summary[system][workload] |= {name: spread(measured) for name, measured in figures.items()}
    return summary


def spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "n": len(values)}


def print_table(summary: Summary) -> None:
    machine = host()
    print(f"\n{machine['cpus']} cores ({machine['cpu']}), {machine['mem_gb']} GiB, Python {machine['python']}")
    for workload in ALL:
        rows = [(system, entries[workload]) for system, entries in summary.items() if workload in entries]
        if rows:
            print(f"\n**{workload}**: median (least–most)\n")
            print(f"| system | {' | '.join(SHOWN[workload])} |\n{'|---' * (len(SHOWN[workload]) + 1)}|")
        for system, entry in rows:
            print(f"| {system} | {' | '.join(cell(entry.get(name)) for name in SHOWN[workload])} |{failure(entry)}")


def cell(figure: dict[str, float] | None) -> str:
    return "{median:.4g} ({min:.4g}–{max:.4g})".format(**figure) if figure else "–"


def failure(entry: dict[str, Any]) -> str:
    return f" FAILED: {entry['error'][:80]}" if "error" in entry else ""


def host() -> dict[str, Any]:
    with open("/proc/cpuinfo") as file:
        cpu = next((line.split(":")[1].strip() for line in file if line.startswith("model name")), platform.machine())
    return {
        "cpus": os.cpu_count(),
        "cpu": cpu,
        "mem_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }
