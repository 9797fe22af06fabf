"""The application as one process to measure and to kill: an orchestrator and a worker as its children."""

import os
import signal
import subprocess
import sys

SERVICES = {"everstep_orchestrator": "BENCH_ORCHESTRATOR_PORT", "everstep_worker": "BENCH_WORKER_PORT"}


def start(module: str, port_variable: str) -> "subprocess.Popen[bytes]":
    environment = {**os.environ, "EVERSTEP_HTTP_PORT": os.environ[port_variable]}
    return subprocess.Popen([sys.executable, "-m", module, "app:app"], env=environment)


def main() -> None:
    children = [start(module, port_variable) for module, port_variable in SERVICES.items()]

    def stop(*_: object) -> None:
        for child in children:
            child.terminate()

    signal.signal(signal.SIGTERM, stop)
    sys.exit(max(abs(child.wait()) for child in children))


if __name__ == "__main__":
    main()
