"""What processes and the machine used, out of Linux's /proc."""

import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from subprocess import Popen
from typing import Any, NamedTuple

TICK = os.sysconf("SC_CLK_TCK")
SAMPLE_SECONDS = 0.5

# pid: (parent, CPU ticks with those of reaped children)
Processes = dict[int, tuple[int, int]]


def processes() -> Processes:
    found = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                fields = Path("/proc", name, "stat").read_text().rpartition(")")[2].split()
                found[int(name)] = (int(fields[1]), sum(map(int, fields[11:15])))
            except (OSError, IndexError):
                continue
    return found


def tree(root: int, among: Processes) -> list[int]:
    """`root` and all below it."""
    children: dict[int, list[int]] = {}
    for pid, (parent, _) in among.items():
        children.setdefault(parent, []).append(pid)
    todo, seen = [root], []
    while todo:
        pid = todo.pop()
        if pid in among:
            seen.append(pid)
            todo += children.get(pid, [])
    return seen


def cpu_seconds(root: int, among: Processes) -> float:
    return sum(among[pid][1] for pid in tree(root, among)) / TICK


class HostTicks(NamedTuple):
    """Of the whole machine: taken by the hypervisor, all, and used."""

    stolen: int
    total: int
    busy: int

    def since(self, before: "HostTicks") -> "HostTicks":
        return HostTicks(self.stolen - before.stolen, self.total - before.total, self.busy - before.busy)


def host_ticks() -> HostTicks:
    with open("/proc/stat") as file:
        fields = list(map(int, file.readline().split()[1:9]))
    idle = fields[3] + fields[4]
    return HostTicks(fields[7], sum(fields), sum(fields) - idle - fields[7])


def resident_mb(pid: int) -> float:
    """The proportional set size: shared pages count once over all who share them."""
    try:
        with open(f"/proc/{pid}/smaps_rollup") as file:
            return next((int(line.split()[1]) / 1024 for line in file if line.startswith("Pss:")), 0.0)
    except OSError:
        return 0.0


class MemorySampler(threading.Thread):
    """The peak of a system's memory by component, sampled twice a second; `cpu` is what the sampling itself cost."""

    def __init__(self, components: Mapping[str, "Popen[Any]"]) -> None:
        super().__init__(daemon=True)
        self._components = components
        self._ended = threading.Event()
        self.peak: dict[str, float] = {}
        self.cpu = 0.0

    def sample(self) -> None:
        among = processes()
        components = list(self._components.items())
        now = {name: sum(map(resident_mb, tree(process.pid, among))) for name, process in components}
        if sum(now.values()) > sum(self.peak.values()):
            self.peak = now

    def run(self) -> None:
        while not self._ended.wait(SAMPLE_SECONDS):
            self.sample()
            self.cpu = time.thread_time()

    def stop(self) -> None:
        """Takes a last sample: a short run may have had none."""
        self._ended.set()
        self.sample()
