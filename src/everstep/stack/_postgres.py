"""PostgreSQL as a process: a private cluster on loopback with its durability settings on."""

from __future__ import annotations

import json
import os
import pwd
import secrets
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import asyncpg

from everstep.stack._paths import free_port
from everstep.stack._port import StackError
from everstep.stack._process import Account, Program, in_thread

USER = DATABASE = "everstep"
SETTINGS = {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on", "max_connections": "300"}


def database_account() -> Account | None:
    """Who runs PostgreSQL, which refuses to run as root: this user, else `postgres` where installed, else `nobody`."""
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name: entry for entry in pwd.getpwall()}
    entry = known.get("postgres") or known["nobody"]
    return Account(entry.pw_uid, entry.pw_gid)


class PostgresRecipe:
    """A cluster under `directory`, run by the programs that `find_binaries` finds."""

    name = "PostgreSQL"
    # SIGINT is the fast shutdown: it ends sessions and writes a checkpoint; SIGTERM would wait for clients to leave.
    stop_signal = signal.SIGINT

    def __init__(self, directory: Path, find_binaries: Callable[[], Path]) -> None:
        self.directory = directory
        self.mark = str(directory / "data")
        self._find_binaries = find_binaries
        self._binaries = Path()
        self._data = directory / "data"
        self._settings_file = directory / "settings.json"
        self._settings = self._read_settings()
        self._account = database_account()

    def _read_settings(self) -> dict[str, str]:
        if self._settings_file.exists():
            settings: dict[str, str] = json.loads(self._settings_file.read_text())
            return settings
        return {"port": str(free_port()), "password": secrets.token_urlsafe(12)}

    @property
    def address(self) -> str:
        return dsn(self._settings["password"], self._settings["port"], DATABASE)

    async def prepare(self) -> None:
        self._binaries = await in_thread(self._find_binaries)
        if not self._settings_file.exists():
            await self._lay_out()

    async def _lay_out(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        self._data.mkdir(mode=0o700, exist_ok=True)
        password_file = self.directory / "password"
        password_file.touch(mode=0o600)
        password_file.write_text(self._settings["password"])
        if self._account:
            for path in (self._data, password_file):
                os.chown(path, self._account.user, self._account.group)
        await in_thread(self._initdb, password_file)
        password_file.unlink()
        self._settings_file.touch(mode=0o600)
        self._settings_file.write_text(json.dumps(self._settings))

    def _initdb(self, password_file: Path) -> None:
        self._run(
            "initdb", "-D", str(self._data), "-U", USER, "--pwfile", str(password_file), "--auth-local", "reject",
            # The password never leaves the loopback interface; sent plainly it costs a connection nothing.
            "--auth-host", "password", "-E", "UTF8", "--locale", "C",
        )  # fmt: skip

    def _run(self, program: str, *arguments: str) -> None:
        account = self._account
        drop = {"user": account.user, "group": account.group, "extra_groups": []} if account else {}
        command = [str(self._binaries / program), *arguments]
        done = subprocess.run(  # type: ignore[call-overload]  # noqa: S603 - our own command; mypy cannot match **drop
            command, cwd="/", env=_environment(), capture_output=True, text=True, check=False, **drop
        )
        if done.returncode != 0:
            user = account.user if account else os.geteuid()
            raise StackError(
                f"{program} failed in {self.directory}: {done.stderr.strip() or done.stdout.strip()}\n"
                f"If a permission is missing: PostgreSQL runs as uid {user}, which must be able to enter every "
                "directory on that path; choose another directory."
            )

    def program(self) -> Program:
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": self._settings["port"],
            "unix_socket_directories": "",
            **SETTINGS,
        }
        words = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        return Program(
            argv=(str(self._binaries / "postgres"), "-D", str(self._data), *words),
            log=self.directory / "log",
            # SIGQUIT is the immediate shutdown: it also ends the children at once, which SIGKILL would orphan.
            death_signal=signal.SIGQUIT,
            account=self._account,
            environment=_environment(),
        )

    async def answers(self) -> bool:
        return await postgres_answers(self.address)


def dsn(password: str, port: str, database: str) -> str:
    """Where the cluster's own user reaches a database."""
    return f"postgresql://{USER}:{password}@127.0.0.1:{port}/{database}"


async def postgres_answers(address: str) -> bool:
    """Whether the server takes queries; makes the database of ours if it is not there yet."""
    try:
        connection = await asyncpg.connect(address, database="postgres", timeout=5)
    except (OSError, asyncpg.CannotConnectNowError, TimeoutError):
        return False
    try:
        await _ensure_database(connection)
    finally:
        await connection.close()
    return True


async def _ensure_database(connection: asyncpg.Connection[asyncpg.Record]) -> None:
    if not await connection.fetchval("SELECT true FROM pg_database WHERE datname = $1", DATABASE):
        await connection.execute(f"CREATE DATABASE {DATABASE}")


def _environment() -> dict[str, str]:
    """This environment without what would steer the server, in a locale that every machine has."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "LC_", "LANG"))}
    return {**kept, "LC_ALL": "C"}
