"""Closes the doors through which a workflow's code could see what replay would not show it again.

A workflow's code runs in the same process as everything else, so the doors stay where they are and ask who comes: when
a run's loop is the running one, the code that calls is a workflow's, and it is refused. Anywhere else, in the service's
own code and in activities, they are open.

Files, sockets and processes have one audit hook. CPython tells it of each, whatever library the call came through. What
CPython does not report (clocks, randomness, threads) is replaced by a dispatcher, once, in its module. A reference that
was taken before, as `from time import time` does, and `datetime.now()`, a method of a class in C, pass by: `everstep
check` finds those.

A refusal raises `NondeterminismError` into the author's code and notes the violation on the run, which is stalled even
if the code catches the error. Some may pass, because what they find does not decide what a workflow does: imports, and
all that a module does while it is imported; tracebacks and warnings, which read source lines; time zones; logging;
debuggers.
"""

from __future__ import annotations

import asyncio
import functools
import importlib
import os
import random
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from everstep._core import places
from everstep._core.loop import RunLoop

_get_running_loop = asyncio._get_running_loop
_MARK = "__everstep_original__"


@dataclass(frozen=True)
class Group:
    """Doors of one kind: what they lead to, what to do instead, CPython's audit events, and functions by name.

    `shows_path`: the first argument of the events is a path, which helps to see what was meant and is no secret.
    """

    what: str
    instead: str
    events: tuple[str, ...] = ()
    functions: tuple[str, ...] = ()
    shows_path: bool = False


def _in(module: str, names: str) -> tuple[str, ...]:
    return tuple(f"{module}.{name}" for name in names.split())


GROUPS = (
    Group(
        "clocks",
        "use ctx.now(), the instant of the event that the code reacts to",
        functions=_in(
            "time",
            "time time_ns monotonic monotonic_ns perf_counter perf_counter_ns process_time process_time_ns thread_time"
            " thread_time_ns clock_gettime clock_gettime_ns localtime gmtime ctime asctime strftime",
        ),
    ),
    Group("pauses", "await ctx.sleep(…), which is durable and holds up nothing else", ("time.sleep",), ("time.sleep",)),
    Group(
        "randomness",
        "use ctx.random, or random.Random(seed) with a seed that replay gives again",
        functions=_in(
            "random",
            "random uniform triangular randint choice randrange sample shuffle choices normalvariate lognormvariate"
            " expovariate vonmisesvariate gammavariate gauss betavariate binomialvariate paretovariate weibullvariate"
            " getstate setstate getrandbits randbytes seed",
        ),
    ),
    Group("unique ids", "use ctx.uuid4()", functions=_in("uuid", "uuid1 uuid4 uuid6 uuid7 uuid8")),
    Group(
        "secrets",
        "make secrets in an activity; what only has to be random comes from ctx.random",
        functions=(
            *_in("os", "urandom getrandom"),
            *_in("secrets", "choice randbelow randbits token_bytes token_hex token_urlsafe"),
        ),
    ),
    Group(
        "files and databases in files",
        "do it in an activity, or keep what it gives with ctx.side_effect(lambda: …)",
        (
            "open",
            "mmap.__new__",
            "sqlite3.connect",
            *_in("glob", "glob glob/2"),
            *_in("pathlib.Path", "glob rglob"),
            *_in("tempfile", "mkdtemp mkstemp"),
            *_in("shutil", "copyfile copymode copystat copytree chown make_archive move rmtree unpack_archive"),
            *_in(
                "os",
                "chflags chmod chown fwalk getxattr link listdir listxattr lockf mkdir remove removexattr rename rmdir"
                " scandir setxattr symlink truncate utime walk memfd_create",
            ),
            *_in("fcntl", "fcntl flock ioctl lockf"),
        ),
        shows_path=True,
    ),
    Group(
        "the network",
        "do it in an activity",
        (
            *_in(
                "socket",
                "__new__ bind connect getaddrinfo gethostbyaddr gethostbyname gethostname getnameinfo getservbyname"
                " getservbyport sendmsg sendto sethostname",
            ),
            "urllib.Request",
            *_in("http.client", "connect send"),
            *_in("ftplib", "connect sendcmd"),
            *_in("imaplib", "open send"),
            *_in("poplib", "connect putline"),
            *_in("smtplib", "connect send"),
            "webbrowser.open",
        ),
    ),
    Group(
        "processes",
        "do it in an activity",
        (
            "subprocess.Popen",
            "pty.spawn",
            "_posixsubprocess.fork_exec",
            *_in("os", "system exec posix_spawn spawn fork forkpty kill killpg startfile"),
        ),
    ),
    Group(
        "threads",
        "use asyncio.gather or a TaskGroup to wait for several things at once, an activity for what blocks or computes",
        _in("_thread", "start_new_thread start_joinable_thread"),
        _in("_thread", "start_new_thread start_new start_joinable_thread"),
    ),
    Group(
        "the environment of the process",
        "every run of this process shares it: pass values on as arguments",
        _in("os", "putenv unsetenv chdir"),
    ),
)

_EVENTS = {event: group.instead for group in GROUPS for event in group.events}
_INSTEAD = {name: group.instead for group in GROUPS for name in group.functions}
_PATHS = frozenset(event for group in GROUPS if group.shows_path for event in group.events)
# Where an explicit time goes; with it these only convert.
_CONVERTS = {"time.localtime": 0, "time.gmtime": 0, "time.ctime": 0, "time.asctime": 0, "time.strftime": 1}
# On behalf of these, what a door leads to does not decide what a workflow does.
_HARMLESS = frozenset(
    (
        *("importlib", "_frozen_importlib", "_frozen_importlib_external", "zipimport", "pkgutil", "zoneinfo"),
        *("traceback", "linecache", "tokenize", "warnings", "logging", "structlog"),
        *("bdb", "pdb", "pydevd", "debugpy", "_pydevd_bundle", "_pydev_bundle", "coverage"),
    )
)
_MOST_SHOWN = 200
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_installed = False


def install() -> None:
    """Close the doors for all workflow code of this process; again does nothing.

    Call it before the author's modules are imported, so that names which they import are dispatchers already.
    """
    global _installed
    if _installed:
        return
    _installed = True
    for name in _INSTEAD:
        module_name, _, function = name.rpartition(".")
        _replace(importlib.import_module(module_name), function)
    _close_methods()
    sys.addaudithook(_hook)


def _hook(event: str, args: tuple[Any, ...]) -> None:
    if event in _EVENTS and type(_get_running_loop()) is RunLoop:
        if event == "open" and _is_pythons_own(args):
            return
        shown = repr(args[0])[:_MOST_SHOWN] if event in _PATHS and args else ""
        _refuse(f"{event}({shown})", _EVENTS[event])


def _is_pythons_own(args: tuple[Any, ...]) -> bool:
    """Whether it may be C code of CPython's that reads: a source line for a traceback, or a time zone."""
    match args:
        case (str(path), _, int(flags)) if not flags & _WRITES:
            zones = sys.modules.get("zoneinfo")
            return path.endswith(".py") or (zones is not None and path.startswith(tuple(zones.TZPATH)))
    return False


def _refuse(what: str, instead: str, *, unless: frozenset[str] = _HARMLESS) -> None:
    loop = _get_running_loop()
    if isinstance(loop, RunLoop) and not any(places.package(frame) in unless for frame in places.frames()):
        loop.scope.violate(places.refusal(what, instead))


# ---- functions


class Dispatcher:
    """Stands in the place of a module's function and is, to all but a workflow's code, that function.

    An object and no function, since builtins do not turn into methods either: `class C: clock = time.time` goes on.
    """

    def __init__(self, original: Callable[..., Any], name: str) -> None:
        functools.update_wrapper(self, original)
        setattr(self, _MARK, original)
        self._original = original
        self._name = name
        self._time_at = _CONVERTS.get(name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if type(_get_running_loop()) is RunLoop and not self._converts(args):
            _refuse(f"{self._name}()", _INSTEAD[self._name])
        return self._original(*args, **kwargs)

    def _converts(self, args: tuple[Any, ...]) -> bool:
        at = self._time_at
        return at is not None and len(args) > at and args[at] is not None

    def __reduce__(self) -> str:
        """Copied and pickled by name, as functions are."""
        return self._name.rpartition(".")[2]

    def __repr__(self) -> str:
        return repr(self._original)


def _replace(module: ModuleType, name: str) -> None:
    original = getattr(module, name, None)  # not every Python and not every system has all of them
    if original is not None and not hasattr(original, _MARK):
        setattr(module, name, Dispatcher(original, f"{module.__name__}.{name}"))


# ---- methods, which serve references of any age

Guarded = Callable[..., Any]


def _close_methods() -> None:
    _guard(threading.Thread, "start", "threading.Thread.start()", _INSTEAD["_thread.start_new_thread"])
    for name in ("random", "getrandbits", "randbytes"):
        _guard(random.SystemRandom, name, f"random.SystemRandom.{name}()", _INSTEAD["os.urandom"])
    _set(random.Random, "seed", _seed(random.Random.seed))
    shared: Any = random._inst  # what `random.choice` and the others are methods of
    shared.__class__ = _SharedRandom


class _SharedRandom(random.Random):
    """The class of the generator that all share, so that it also asks who comes after `from random import choice`."""

    def random(self) -> float:
        if type(_get_running_loop()) is RunLoop:
            _refuse("random.random()", _INSTEAD["random.random"])
        return super().random()

    def getrandbits(self, k: int, /) -> int:
        if type(_get_running_loop()) is RunLoop:
            _refuse("random.getrandbits()", _INSTEAD["random.random"])
        return super().getrandbits(k)


def _guard(owner: type, name: str, what: str, instead: str) -> None:
    original = getattr(owner, name)

    @functools.wraps(original)
    def guarded(self: Any, *args: Any, **kwargs: Any) -> Any:
        if type(_get_running_loop()) is RunLoop:
            _refuse(what, instead)
        return original(self, *args, **kwargs)

    _set(owner, name, guarded)


def _seed(original: Guarded) -> Guarded:
    @functools.wraps(original)
    def seed(self: random.Random, a: Any = None, version: int = 2) -> None:
        if a is None and type(_get_running_loop()) is RunLoop:
            # Names of temporary files are none of the run's business; what is done with them is refused anyway.
            _refuse("random.Random() without a seed", _INSTEAD["random.random"], unless=_HARMLESS | {"tempfile"})
        original(self, a, version)

    return seed


def _set(owner: type, name: str, guarded: Guarded) -> None:
    setattr(guarded, _MARK, getattr(owner, name))
    setattr(owner, name, guarded)
