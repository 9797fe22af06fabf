"""Where the local stack keeps things on this machine, and which ports it takes."""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

from everstep.stack._port import StackError

# Below the ports that systems hand to outgoing connections (Linux from 32768, macOS from 49152): a port of those could
# be taken by any connection while the server is down, and a client that retries could even end up talking to itself.
PORTS = range(15000, 32000)


def cache_directory() -> Path:
    """What can be fetched or built again; of the machine for root, since the database's user must be able to enter."""
    return _base("XDG_CACHE_HOME", user=".cache", root="/Library/Caches" if sys.platform == "darwin" else "/var/cache")


def data_directory() -> Path:
    """What must stay."""
    root = "/Library/Application Support" if sys.platform == "darwin" else "/var/lib"
    return _base("XDG_DATA_HOME", user=".local/share", root=root)


def _base(variable: str, *, user: str, root: str) -> Path:
    chosen = os.environ.get(variable)
    fallback = Path(root) if os.geteuid() == 0 else Path.home() / user
    return (Path(chosen) if chosen else fallback) / "everstep"


@contextlib.contextmanager
def exclusive(directory: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold `directory`, made if need be, against other processes; `StackError` at once if one has it, unless `wait`."""
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise StackError(f"another process uses the stack in {directory}; end it, or choose another") from None
        yield


def free_port() -> int:
    """A loopback port that nothing listens on now."""
    while True:
        port = random.choice(PORTS)  # noqa: S311 - not a secret
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
