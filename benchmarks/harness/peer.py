"""A system under test: which processes make it up, how they are started, what they used, how they end."""

import asyncio
import json
import os
import pwd
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.harness.accounting import cpu_seconds, processes, tree
from benchmarks.harness.workloads import Client, Figures, Runner

BENCHMARKS = Path(__file__).resolve().parents[1]
STOP_SECONDS = 8.0


class Peer:
    """The processes are known by component; CPU and memory count by component, children included."""

    name = "?"
    durable = True
    embedded = False
    worker = "app"  # the component that W6 kills

    def __init__(self) -> None:
        self.here = Path(sys.argv[0]).resolve().parent
        self.dir = Path(os.environ.get("PEER_DATA") or BENCHMARKS / ".data") / f"{self.name}-{os.getpid()}"
        self.processes: dict[str, subprocess.Popen[Any]] = {}
        self.dead_cpu: dict[str, float] = {}
        self.runner: Runner | None = None
        os.environ["PEER_MARK"] = str(self.dir / "mark")
        os.environ["PEER_GATE"] = str(self.dir / "gate")

    # ---- a system implements these

    async def up(self) -> None:
        """Starts everything but the worker."""

    async def start_worker(self) -> None:
        """Starts the worker and returns when it is ready."""

    async def make_client(self) -> Client:
        """The client of a service."""
        raise NotImplementedError

    def versions(self) -> dict[str, str]:
        return {}

    # ---- for all

    def spawn(self, component: str, argv: list[Any], **options: Any) -> "subprocess.Popen[Any]":
        with open(self.dir / f"{component}.log", "ab") as log:
            options = {"stdin": subprocess.DEVNULL, "stdout": log, **options}
            process = subprocess.Popen([str(word) for word in argv], stderr=log, **options)
        self.processes[component] = process
        return process

    async def spawn_embedded(self, argv: list[Any], **options: Any) -> None:
        process = self.spawn(self.worker, argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, **options)
        assert process.stdout is not None
        await asyncio.to_thread(process.stdout.readline)
        if process.poll() is not None:
            raise RuntimeError(f"{self.worker} did not start, see {self.dir}")

    async def call(self, phase: str, n: int, tag: str) -> Figures:
        if self.runner is not None:
            return await self.runner.run(phase, n, tag)
        process = self.processes[self.worker]
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps({"phase": phase, "n": n, "tag": tag}).encode() + b"\n")
        process.stdin.flush()
        line = await asyncio.to_thread(process.stdout.readline)
        reply: Figures = json.loads(line or '{"error": "the application ended"}')
        if "error" in reply:
            raise RuntimeError(reply["error"])
        return reply

    async def wait_port(self, port: int, limit_seconds: float = 60) -> None:
        deadline = time.monotonic() + limit_seconds
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return
            await asyncio.sleep(0.05)
        raise RuntimeError(f"nothing listens on port {port}, see {self.dir}")

    def cpu(self) -> dict[str, float]:
        among = processes()
        used = dict(self.dead_cpu)
        for component, process in self.processes.items():
            used[component] = used.get(component, 0.0) + cpu_seconds(process.pid, among)
        return used

    def kill_worker(self) -> None:
        process = self.processes.pop(self.worker)
        among = processes()
        victims = tree(process.pid, among)
        self.dead_cpu[self.worker] = self.dead_cpu.get(self.worker, 0.0) + cpu_seconds(process.pid, among)
        for pid in victims:
            os.kill(pid, signal.SIGKILL)
        process.wait()
        deadline = time.monotonic() + 2
        while time.monotonic() < deadline and any(os.path.exists(f"/proc/{pid}") for pid in victims):
            time.sleep(0.001)

    def down(self) -> None:
        for component, process in reversed(list(self.processes.items())):
            process.send_signal(signal.SIGINT if component == "postgres" else signal.SIGTERM)
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                for pid in tree(process.pid, processes()):
                    os.kill(pid, signal.SIGKILL)
                process.wait()


def start_postgres(peer: Peer, port: int, database: str) -> tuple[str, str]:
    """A private cluster with stock settings (fsync and synchronous_commit on), as DSN and version.

    Only the listen address is set. The programs are those of `PGBIN`, else of `pg_config`.
    """
    found = os.environ.get("PGBIN") or subprocess.check_output(["pg_config", "--bindir"], text=True).strip()
    binaries, data = Path(found), peer.dir / "pg"
    data.mkdir()
    options: dict[str, Any] = {}
    if os.geteuid() == 0:  # the server refuses to run as root
        user = pwd.getpwnam("postgres")
        os.chown(data, user.pw_uid, user.pw_gid)
        options = {"user": "postgres", "group": user.pw_gid, "cwd": data}
    initdb = [str(binaries / "initdb"), "-D", str(data), "-U", "bench", "-A", "trust", "--locale=C", "-E", "UTF8"]
    subprocess.run(initdb, check=True, stdout=subprocess.DEVNULL, **options)
    server = [binaries / "postgres", "-D", data, "-p", port, "-h", "127.0.0.1", "-k", data]
    peer.spawn("postgres", server, **options)
    where = ["-h", "127.0.0.1", "-p", str(port)]
    for _ in range(200):
        if subprocess.run([binaries / "pg_isready", "-q", *where], check=False).returncode == 0:
            break
        time.sleep(0.05)
    subprocess.run([binaries / "createdb", *where, "-U", "bench", database], check=True)
    version = subprocess.check_output([binaries / "postgres", "--version"], text=True).split()[2]
    return f"postgresql://bench@127.0.0.1:{port}/{database}", version
