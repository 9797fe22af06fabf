"""What replay would not show a workflow again is refused, and the run is stalled; nobody else notices anything."""

# ruff: noqa: S311, S605, S606, SIM115  # what ruff warns of is what is refused

from __future__ import annotations

import _thread
import asyncio
import copy
import glob
import inspect
import linecache
import logging
import os
import pickle
import random
import secrets
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import urllib.request
import uuid
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest
import structlog
from tests.engine.kit import Case, Recorder, replay

from everstep import App, Context, NondeterminismError, _doors, seconds
from everstep._core.engine import CannotRun, Engine, StallReason
from everstep._core.stepping import outside
from everstep_schemas import events
from everstep_schemas.names import Topics

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).name
NOWHERE = Path("/nowhere")
app = App("doors")


def early(function: Any) -> Any:
    """The function as a module has it that took it before the doors were installed."""
    return getattr(function, _doors._MARK)


@app.activity
async def work(n: int) -> int:
    raise AssertionError("workers run activities")


def begin(body: Callable[[Context], Any], **more: Any) -> Case:
    """A run of this body."""

    async def workflow(ctx: Context) -> Any:
        done = body(ctx)
        return await done if inspect.isawaitable(done) else done

    local = App("local")
    return Case(local, local.workflow(name="body")(workflow), **more)


def stalled(body: Callable[[Context], Any]) -> StallReason:
    with pytest.raises(CannotRun) as caught:
        begin(body, check=False)
    return caught.value.reason


ACTIVITY = "activity"
NOW = "ctx.now()"
DOORS: list[Any] = [
    # What the code does, what is named, and what to do instead.
    (lambda: time.time(), "time.time()", NOW),
    (lambda: time.time_ns(), "time.time_ns()", NOW),
    (lambda: time.monotonic(), "time.monotonic()", NOW),
    (lambda: time.monotonic_ns(), "time.monotonic_ns()", NOW),
    (lambda: time.perf_counter(), "time.perf_counter()", NOW),
    (lambda: time.perf_counter_ns(), "time.perf_counter_ns()", NOW),
    (lambda: time.process_time(), "time.process_time()", NOW),
    (lambda: time.clock_gettime(time.CLOCK_REALTIME), "time.clock_gettime()", NOW),
    (lambda: time.localtime(), "time.localtime()", NOW),
    (lambda: time.gmtime(None), "time.gmtime()", NOW),
    (lambda: time.ctime(), "time.ctime()", NOW),
    (lambda: time.asctime(), "time.asctime()", NOW),
    (lambda: time.strftime("%H"), "time.strftime()", NOW),
    (lambda: time.sleep(1000), "time.sleep()", "ctx.sleep("),
    (lambda: random.random(), "random.random()", "ctx.random"),
    (lambda: random.choice([1, 2]), "random.choice()", "ctx.random"),
    (lambda: random.shuffle([1, 2]), "random.shuffle()", "ctx.random"),
    (lambda: random.seed(7), "random.seed()", "ctx.random"),
    (lambda: random.Random(), "random.Random() without a seed", "ctx.random"),
    (lambda: random.Random(7).seed(), "random.Random() without a seed", "ctx.random"),
    (lambda: early(random.choice)([1, 2]), "random.getrandbits()", "ctx.random"),
    (lambda: random.SystemRandom().random(), "random.SystemRandom.random()", ACTIVITY),
    (lambda: random.SystemRandom().choice([1, 2]), "random.SystemRandom.getrandbits()", ACTIVITY),
    (lambda: uuid.uuid1(), "uuid.uuid1()", "ctx.uuid4()"),
    (lambda: uuid.uuid4(), "uuid.uuid4()", "ctx.uuid4()"),
    (lambda: early(uuid.uuid4)(), "os.urandom(), called by uuid.uuid4,", ACTIVITY),
    (lambda: os.urandom(8), "os.urandom()", ACTIVITY),
    (lambda: secrets.token_hex(), "secrets.token_hex()", ACTIVITY),
    (lambda: secrets.choice([1, 2]), "secrets.choice()", ACTIVITY),
    (lambda: secrets.randbits(8), "secrets.randbits()", ACTIVITY),
    (lambda: early(secrets.token_hex)(), "secrets.token_bytes(), called by secrets.token_hex,", ACTIVITY),
    (lambda: random.SystemRandom().randbytes(8), "random.SystemRandom.randbytes()", ACTIVITY),
    (lambda: open("/nowhere"), "open('/nowhere')", "ctx.side_effect(lambda: …)"),
    (lambda: NOWHERE.read_text(), "open('/nowhere'), called by pathlib", ACTIVITY),
    (lambda: NOWHERE.write_text("x"), "open('/nowhere'), called by pathlib", ACTIVITY),
    (lambda: open(__file__, "a"), "open('", ACTIVITY),
    (lambda: os.open("/nowhere", os.O_RDONLY), "open('/nowhere')", ACTIVITY),
    (lambda: os.listdir("/nowhere"), "os.listdir('/nowhere')", ACTIVITY),
    (lambda: os.scandir("/nowhere"), "os.scandir('/nowhere')", ACTIVITY),
    (lambda: os.remove("/nowhere"), "os.remove('/nowhere')", ACTIVITY),
    (lambda: os.rename("/nowhere", "/there"), "os.rename('/nowhere')", ACTIVITY),
    (lambda: os.mkdir("/nowhere"), "os.mkdir('/nowhere')", ACTIVITY),
    (lambda: shutil.rmtree("/nowhere"), "shutil.rmtree('/nowhere')", ACTIVITY),
    (lambda: glob.glob("/nowhere/*"), "glob.glob('/nowhere/*')", ACTIVITY),
    (lambda: tempfile.mkdtemp(), "called by tempfile.", ACTIVITY),
    (lambda: tempfile.NamedTemporaryFile(), "called by tempfile.", ACTIVITY),
    (lambda: sqlite3.connect("/nowhere"), "sqlite3.connect('/nowhere')", ACTIVITY),
    (lambda: socket.socket(), "socket.__new__()", ACTIVITY),
    (lambda: socket.gethostname(), "socket.gethostname()", ACTIVITY),
    (lambda: socket.create_connection(("127.0.0.1", 1)), "socket.getaddrinfo(), called by socket.", ACTIVITY),
    (lambda: urllib.request.urlopen("http://127.0.0.1:1/?key=s3cret"), "urllib.Request()", ACTIVITY),
    (lambda: subprocess.run(["true"], check=True), "subprocess.Popen(), called by subprocess.run,", ACTIVITY),
    (lambda: os.system("true"), "os.system()", ACTIVITY),
    (lambda: os.fork(), "os.fork()", ACTIVITY),
    (lambda: os.execv("/nowhere", ["x"]), "os.exec()", ACTIVITY),
    (lambda: os.posix_spawn("/nowhere", ["x"], {}), "os.posix_spawn()", ACTIVITY),
    (lambda: threading.Thread(target=print).start(), "threading.Thread.start()", "asyncio.gather"),
    (lambda: threading.Timer(0, print).start(), "threading.Thread.start()", "asyncio.gather"),
    (lambda: _thread.start_new_thread(print, ()), "_thread.start_new_thread()", "asyncio.gather"),
    (lambda: ThreadPoolExecutor().submit(print), "threading.Thread.start(), called by concurrent", "asyncio.gather"),
    (lambda: ProcessPoolExecutor().submit(print), "called by concurrent.futures.process", ACTIVITY),
    (lambda: os.environ.update(EVERSTEP_TEST="x"), "os.putenv()", "arguments"),
    (lambda: os.chdir("/"), "os.chdir()", "arguments"),
    (lambda: asyncio.to_thread(print), "loop.run_in_executor(), called by asyncio.threads.to_thread,", ACTIVITY),
    (lambda: asyncio.get_running_loop().run_in_executor(None, print), "loop.run_in_executor()", ACTIVITY),
    (lambda: asyncio.open_connection("::1", 1), "loop.create_connection(), called by asyncio.streams", ACTIVITY),
    (lambda: asyncio.create_subprocess_exec("true"), "loop.subprocess_exec(), called by asyncio", ACTIVITY),
    (lambda: asyncio.get_running_loop().call_soon_threadsafe(print), "loop.call_soon_threadsafe()", ACTIVITY),
    (lambda: asyncio.get_running_loop().close(), "loop.close()", "its function returns"),
    (lambda: asyncio.get_running_loop().stop(), "loop.stop()", "its function returns"),
    (lambda: asyncio.get_running_loop().set_debug(True), "loop.set_debug()", ACTIVITY),
]
each_door = pytest.mark.parametrize(
    ("use", "named", "instead"), [pytest.param(*door, id=f"{number}-{door[1]}") for number, door in enumerate(DOORS)]
)


@each_door
def test_a_door_is_closed_and_the_run_stalled(use: Callable[[], Any], named: str, instead: str) -> None:
    reason = stalled(lambda ctx: use())
    assert reason.kind == "nondeterminism"
    assert reason.got is not None
    assert reason.got.startswith(named) or (named.startswith("called by") and named in reason.got)
    place, _, advice = reason.got.partition(" is not possible within a workflow ")[2].partition(": ")
    line = f":{use.__code__.co_firstlineno} in <lambda>)"
    assert HERE in place
    assert line in place or named.startswith("loop."), "an `async` library function runs where it is awaited"
    assert instead in advice
    assert reason.message == f"{reason.got}. Deploy code without it and the run goes on"
    assert "s3cret" not in reason.message


@each_door
def test_code_that_catches_the_error_is_stalled_nevertheless(use: Callable[[], Any], named: str, instead: str) -> None:
    heard: list[BaseException] = []

    async def body(ctx: Context) -> str:
        try:
            doing = use()
            if inspect.isawaitable(doing):
                await doing
        except Exception as error:
            heard.append(error)
        return "all is well"

    assert stalled(body).kind == "nondeterminism"
    assert isinstance(heard[0], NondeterminismError)


def test_the_first_violation_is_told() -> None:
    def body(ctx: Context) -> None:
        for use in (time.time, random.random):
            with pytest.raises(NondeterminismError):
                use()

    assert (stalled(body).got or "").startswith("time.time()")


def test_code_that_goes_on_and_on_after_a_violation_is_not_run_on() -> None:
    async def body(ctx: Context) -> None:
        with pytest.raises(NondeterminismError):
            time.time()
        while True:  # noqa: ASYNC110  # this code is to go on and on
            await asyncio.sleep(0)

    assert (stalled(body).got or "").startswith("time.time()")


def test_a_run_loses_nothing_and_goes_on_with_code_that_fits() -> None:
    async def order(ctx: Context) -> int:
        paid = await work(1)
        time.time()
        return paid

    async def mended(ctx: Context) -> int:
        paid = await work(1)
        ctx.now()
        return paid

    bad, good = App("bad"), App("good")
    for one in (bad, good):
        one.activity(name="work")(work.fn)
    case = Case(bad, bad.workflow(order), check=False)
    rows = list(case.rows)
    answer = case.run.accept(case.completion(2, 7), case.now)
    assert isinstance(answer, events.ActivityCompleted)
    with pytest.raises(CannotRun):
        case.run.apply(answer, case.now)
    case.run.evict()
    assert replay(case.engine, case.identity, rows).next_seq == 3, "the code before the violation still replays"

    good.workflow(name="order")(mended)
    again = replay(Engine(good, Topics(), max_payload_bytes=1 << 20), case.identity, rows)
    activation = again.apply(answer, case.now)
    assert (activation.closed, activation.rows[0].seq) == ("completed", 3)


def test_a_recorded_run_whose_code_has_come_to_do_it_is_stalled_on_replay() -> None:
    app = App("next")

    @app.workflow(name="waits")
    async def waits(ctx: Context) -> None:
        time.time()
        await work(1)

    @app.workflow(name="waits", version=2)
    async def waited(ctx: Context) -> None:
        await work(1)

    case = Case(app, waited, check=False)
    engine = Engine(app, Topics(), max_payload_bytes=1 << 20)
    with pytest.raises(CannotRun) as caught:
        replay(engine, msgspec.structs.replace(case.identity, version=1), case.rows)
    assert caught.value.reason.kind == "nondeterminism"


# ---- what may pass


def test_modules_may_be_imported_with_all_they_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "imported_by_a_workflow.py").write_text(
        "import random, time, threading\n"
        "AT = time.time()\n"
        "with open(__file__) as source:\n"
        "    TEXT = source.read() + str(random.random())\n"
        "thread = threading.Thread(target=int)\n"
        "thread.start()\n"
        "thread.join()\n"
        "def late(): return time.time()\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def body(ctx: Context) -> bool:
        import imported_by_a_workflow  # type: ignore[import-not-found]  # written above

        return bool(imported_by_a_workflow.AT and imported_by_a_workflow.TEXT)

    assert begin(body, check=False).result is True

    def calls(ctx: Context) -> None:
        import imported_by_a_workflow

        imported_by_a_workflow.late()

    assert "imported_by_a_workflow.py:8 in late)" in (stalled(calls).got or "")


def _traceback() -> str:
    linecache.clearcache()
    try:
        raise LookupError("no")
    except LookupError:
        return traceback.format_exc()


def _warning() -> str:
    linecache.clearcache()
    return warnings.formatwarning("look", UserWarning, __file__, 1)


def _unraisable() -> str:
    class Fails:
        def __del__(self) -> None:
            raise ValueError("in a finaliser")

    hook, sys.unraisablehook = sys.unraisablehook, sys.__unraisablehook__
    try:
        Fails()
    finally:
        sys.unraisablehook = hook
    return "told"


def _logged(tmp: Path) -> str:
    logger = logging.getLogger("within a workflow")
    logger.addHandler(logging.FileHandler(tmp / "log", delay=True))
    logger.propagate = False
    logger.error("written")
    logger.handlers.pop().close()
    structlog.get_logger().debug("written")
    return "logged"


@pytest.mark.parametrize(
    "use",
    [
        pytest.param(lambda tmp: str(ZoneInfo.no_cache("Europe/Berlin").utcoffset(datetime(2024, 7, 1))), id="zone"),
        pytest.param(lambda tmp: datetime(2024, 7, 1, tzinfo=UTC).astimezone().isoformat(), id="local zone"),
        pytest.param(lambda tmp: datetime.strptime("2024-07-01 4PM", "%Y-%m-%d %I%p").hour, id="strptime"),
        pytest.param(lambda tmp: "LookupError" in _traceback(), id="traceback"),
        pytest.param(lambda tmp: _warning(), id="warning"),
        pytest.param(lambda tmp: _unraisable(), id="finaliser"),
        pytest.param(_logged, id="logging"),
        pytest.param(lambda tmp: "ä".encode("cp037").hex(), id="codec"),
        pytest.param(lambda tmp: random.Random(7).choice("abc"), id="seeded"),
        pytest.param(lambda tmp: uuid.uuid5(uuid.NAMESPACE_URL, "x").hex, id="uuid5"),
        pytest.param(lambda tmp: time.strftime("%H", time.gmtime(0)) + time.ctime(0)[-4:], id="explicit time"),
        pytest.param(lambda tmp: os.environ.get("PATH") is not None, id="environment"),
        pytest.param(lambda tmp: str(threading.Lock()) is not None, id="lock"),
    ],
)
def test_what_does_no_harm_may_pass(use: Callable[[Path], Any], tmp_path: Path) -> None:
    def body(ctx: Context) -> Any:
        return use(tmp_path)

    assert begin(body, check=False).result == use(tmp_path)


def test_a_run_may_log_and_fail_with_a_traceback(tmp_path: Path) -> None:
    class Clocked(Recorder):
        """A sink that reads clocks and writes files, as a real one does."""

        def bind(self, **fields: object) -> Clocked:
            time.time()
            return self

        def info(self, event: str, /, **fields: object) -> None:
            (tmp_path / "log").write_text(f"{time.time()} {event} {random.random()}")

    async def body(ctx: Context) -> None:
        ctx.log.info("hello")
        linecache.clearcache()
        raise LookupError("in a workflow")

    case = begin(body, log=Clocked())
    assert "hello" in (tmp_path / "log").read_text()
    assert 'raise LookupError("in a workflow")' in case.error.traceback


def test_outside_opens_the_doors_for_everstep_s_own_code() -> None:
    def body(ctx: Context) -> bool:
        loop = asyncio.get_running_loop()
        with outside():
            read = time.time()
        assert asyncio.get_running_loop() is loop
        return read > 0 and ctx.now().year == 2023

    assert begin(body).result is True


# ---- everybody else


def test_outside_of_a_step_everything_is_as_it_was(tmp_path: Path) -> None:
    assert abs(time.time() - datetime.now(UTC).timestamp()) < 60
    assert time.localtime(0).tm_year in (1969, 1970)
    assert (tmp_path / "x").write_text("x") == 1
    assert uuid.uuid4() != uuid.uuid4()
    assert secrets.token_hex() != secrets.token_hex()
    thread = threading.Thread(target=time.monotonic)
    thread.start()
    thread.join()
    random.seed(7)
    drawn = [random.random(), random.choice(range(100)), random.getrandbits(8), early(random.choice)(range(100))]
    mine = random.Random(7)
    assert drawn == [mine.random(), mine.choice(range(100)), mine.getrandbits(8), mine.choice(range(100))]


def test_a_thread_of_the_process_goes_on_while_a_step_runs() -> None:
    read = threading.Event()
    go = threading.Event()

    def other() -> None:
        go.wait()
        time.time()
        Path(__file__).read_bytes()
        read.set()

    thread = threading.Thread(target=other)
    thread.start()

    def body(ctx: Context) -> bool:
        go.set()
        return read.wait(60)

    assert begin(body, check=False).result is True
    thread.join()


def test_a_dispatcher_passes_for_the_function() -> None:
    dispatcher: Any = time.monotonic
    assert isinstance(dispatcher, _doors.Dispatcher)
    assert type("Stopwatch", (), {"clock": dispatcher})().clock() > 0, "a builtin does not turn into a method"
    for name in ("__name__", "__qualname__", "__module__", "__doc__"):
        assert getattr(dispatcher, name) == getattr(early(dispatcher), name)
    assert pickle.loads(pickle.dumps(dispatcher)) is dispatcher  # noqa: S301  # our own bytes
    assert copy.deepcopy(dispatcher) is dispatcher
    assert repr(dispatcher) == "<built-in function monotonic>"


def test_every_function_of_random_and_secrets_has_a_door() -> None:
    shared = {name for name in random.__all__ if name[0].islower()}
    assert {f"random.{name}" for name in shared} <= set(_doors._INSTEAD)
    made = {name for name in secrets.__all__ if name[0].islower()} - {"compare_digest"}
    assert {f"secrets.{name}" for name in made} <= set(_doors._INSTEAD)


def test_installing_again_does_nothing() -> None:
    before = time.time, random.choice, threading.Thread.start, random.Random.seed
    _doors.install()
    assert (time.time, random.choice, threading.Thread.start, random.Random.seed) == before


def test_a_process_that_only_imports_everstep_is_untouched() -> None:
    program = """
import random, sys, threading, time
before = [time.time, time.sleep, random.choice, random.Random.seed, threading.Thread.start, type(random._inst)]
hooks = []
sys.addaudithook(lambda event, args: hooks.append(event) if event == "sys.addaudithook" else None)
import everstep, everstep.client, everstep.cli
assert before == [time.time, time.sleep, random.choice, random.Random.seed, threading.Thread.start, type(random._inst)]
assert hooks == [] and "everstep._doors" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, timeout=60)


def test_a_run_in_eviction_may_let_go_of_what_it_holds() -> None:
    closing: list[float] = []

    async def body(ctx: Context) -> None:
        try:
            await ctx.sleep(seconds(5))
        finally:
            closing.append(time.time())

    case = begin(body, check=False)
    case.run.evict()
    assert len(closing) == 1


def test_the_orchestrator_closes_the_doors_before_it_imports_the_app(tmp_path: Path) -> None:
    (tmp_path / "probing.py").write_text("from time import time\nprint(type(time).__name__)\n")
    settings = {"EVERSTEP_KAFKA_BOOTSTRAP": "127.0.0.1:1", "EVERSTEP_POSTGRES_DSN": "postgresql://127.0.0.1:1/none"}
    done = subprocess.run(
        [sys.executable, "-m", "everstep_orchestrator", "probing:app"],
        cwd=tmp_path,
        env=os.environ | settings,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (2, "Dispatcher\n"), done.stderr
