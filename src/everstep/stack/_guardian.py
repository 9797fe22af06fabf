"""Parent of the servers that must not outlive their owner. Run as a script; uses only the standard library.

The owner holds the other end of stdin and never closes it while it lives, so the kernel tells of its death, SIGKILL
included, by end of file. Being the parent, the guardian knows without a race which pids are still its servers. It
stands in a session of its own: a Ctrl-C in the owner's terminal reaches the owner only, which then ends things in
order.

One JSON object per line asks for a server: `{"argv", "environment", "log", "user", "group", "death_signal"}`; the
answer is one line, `{"pid"}` or `{"error"}`. At end of file each server gets its death signal, then SIGKILL; then the
directory named on the command line, if any, is removed.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from typing import Any

GRACE_SECONDS = 10.0

alive: dict[int, int] = {}  # pid: death signal


def launch(order: dict[str, Any]) -> int:
    """Start one server in a session of its own, as the user that the order names."""
    drop = {"user": order["user"], "group": order["group"], "extra_groups": []} if order["user"] is not None else {}
    with open(order["log"], "ab") as log:
        child = subprocess.Popen(  # noqa: S603 - the owner's own command
            order["argv"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=order["environment"],
            cwd="/",
            start_new_session=True,
            **drop,
        )
    child.returncode = 0  # reaped below: Popen must not wait for it nor warn
    return child.pid


def answer(line: str) -> dict[str, Any]:
    """Carry out one line of the owner's."""
    order = json.loads(line)
    try:
        pid = launch(order)
    except OSError as error:
        return {"error": str(error)}
    alive[pid] = order["death_signal"]
    return {"pid": pid}


def reap(*_: object) -> None:
    """Collect every server that ended, so that its pid is never taken for a living one."""
    for pid in list(alive):
        try:
            ended, _status = os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            ended = pid
        if ended:
            del alive[pid]


def end_all() -> None:
    """Death signal to every server, SIGKILL to those that do not heed it."""
    for pid, death_signal in alive.items():
        os.kill(pid, death_signal)
    deadline = time.monotonic() + GRACE_SECONDS
    while alive and time.monotonic() < deadline:
        reap()
        time.sleep(0.01)
    for pid in alive:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def serve() -> None:
    """Answer the owner until it is gone."""
    for line in sys.stdin:
        print(json.dumps(answer(line)), flush=True)
        reap()


def main() -> None:
    """Serve the owner, then leave nothing."""
    signal.signal(signal.SIGCHLD, reap)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    try:
        serve()
    except BrokenPipeError:
        pass
    finally:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        end_all()
        for directory in sys.argv[1:]:
            shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
