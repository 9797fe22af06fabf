"""What leads out of a run, by name: functions of Python and of libraries, grouped by the rule that finds them."""

from __future__ import annotations

from typing import NamedTuple


class Known(NamedTuple):
    """What it is that a rule finds: how a message goes on after the name, and what to do."""

    rule: str
    does: str
    fix: str


_CLOCK = Known("EV101", "reads the clock", "use ctx.now()")
_RANDOM = Known("EV102", "draws a random number", "use ctx.random")
_ID = Known("EV102", "makes a random id", "use ctx.uuid4()")
_SECRET = Known("EV102", "draws a secret", "draw it in an activity, or use ctx.random where it need not be secret")
_SLEEP = Known("EV103", "blocks the whole orchestrator", "await ctx.sleep(…)")
_FILE = Known("EV104", "uses files", "do it in an activity, or once with ctx.side_effect(lambda: …)")
_ENVIRONMENT = Known("EV105", "differs between machines", "pass the value as an argument, or read it in an activity")
_NETWORK = Known("EV106", "talks to another system", "do it in an activity")
CONCURRENCY = Known(
    "EV107", "leaves the run's own loop", "await activities with asyncio.gather; what computes for long is an activity"
)
OUTPUT = Known("EV108", "writes again at every replay", "use ctx.log")


def _of(known: Known, module: str, names: str) -> dict[str, Known]:
    return {f"{module}.{name}": known for name in names.split()}


def _packages(known: Known, names: str) -> dict[str, Known]:
    return dict.fromkeys(names.split(), known)


# Found wherever the code refers to them.
NAMES: dict[str, Known] = {
    **_of(_CLOCK, "time", "time time_ns monotonic monotonic_ns perf_counter perf_counter_ns process_time"),
    **_of(_CLOCK, "time", "process_time_ns thread_time thread_time_ns clock_gettime clock_gettime_ns"),
    **_of(_CLOCK, "datetime", "datetime.now datetime.utcnow datetime.today date.today"),
    **_of(_CLOCK, "pandas", "Timestamp.now Timestamp.utcnow Timestamp.today"),
    **_of(_CLOCK, "arrow", "now utcnow"),
    **_of(_CLOCK, "pendulum", "now today tomorrow yesterday"),
    **_of(_CLOCK, "django.utils.timezone", "now localtime localdate"),
    **_of(_RANDOM, "random", "random uniform triangular randint choice randrange sample shuffle choices"),
    **_of(_RANDOM, "random", "normalvariate lognormvariate expovariate vonmisesvariate gammavariate gauss"),
    **_of(_RANDOM, "random", "betavariate binomialvariate paretovariate weibullvariate getstate setstate"),
    **_of(_RANDOM, "random", "getrandbits randbytes seed SystemRandom"),
    **_of(_ID, "uuid", "uuid1 uuid4 uuid6 uuid7 uuid8 getnode"),
    **_of(_SECRET, "secrets", "choice randbelow randbits token_bytes token_hex token_urlsafe SystemRandom"),
    **_of(_SECRET, "os", "urandom getrandom"),
    **_of(_SLEEP, "time", "sleep"),
    **_of(_FILE, "builtins", "open"),
    **_of(_FILE, "io", "open open_code FileIO"),
    **_of(_FILE, "os", "open listdir scandir walk fwalk remove unlink rename renames replace mkdir makedirs rmdir"),
    **_of(_FILE, "os", "removedirs link symlink readlink stat lstat access chmod chown truncate utime mkfifo statvfs"),
    **_of(_FILE, "os.path", "exists lexists isfile isdir islink ismount getsize getmtime getatime getctime realpath"),
    **_of(_FILE, "os.path", "samefile"),
    **_of(_FILE, "pathlib.Path", "read_text read_bytes write_text write_bytes open exists is_file is_dir is_symlink"),
    **_of(
        _FILE, "pathlib.Path", "iterdir glob rglob walk mkdir rmdir unlink rename replace touch stat lstat chmod home"
    ),
    **_of(
        _FILE, "pathlib.Path", "cwd resolve absolute expanduser samefile symlink_to hardlink_to owner group copy move"
    ),
    **_of(_ENVIRONMENT, "os", "environ environb getenv getenvb putenv unsetenv getpid getppid getcwd chdir cpu_count"),
    **_of(_ENVIRONMENT, "os", "uname getlogin getuid geteuid getgid getloadavg process_cpu_count"),
    **_of(_ENVIRONMENT, "sys", "argv stdin orig_argv"),
    **_of(_ENVIRONMENT, "builtins", "input"),
    **_of(_ENVIRONMENT, "getpass", "getpass getuser"),
    **_of(_ENVIRONMENT, "locale", "getlocale getdefaultlocale"),
    **_of(_NETWORK, "asyncio", "open_connection start_server open_unix_connection start_unix_server"),
    **_of(_NETWORK, "everstep.client", "Client"),
    **_of(CONCURRENCY, "asyncio", "to_thread run run_coroutine_threadsafe Runner new_event_loop"),
    **_of(CONCURRENCY, "asyncio", "create_subprocess_exec create_subprocess_shell"),
    **_of(CONCURRENCY, "threading", "Thread Timer"),
    **_of(CONCURRENCY, "_thread", "start_new_thread start_new start_joinable_thread"),
    **_of(CONCURRENCY, "os", "system popen fork forkpty kill killpg posix_spawn posix_spawnp abort _exit"),
    **_of(CONCURRENCY, "os", "execl execle execlp execlpe execv execve execvp execvpe spawnl spawnv spawnvp"),
    **_of(OUTPUT, "builtins", "print"),
    **_of(OUTPUT, "sys", "stdout stderr"),
    **_of(OUTPUT, "pprint", "pprint pp"),
}
# Found where the code calls something of theirs.
PACKAGES: dict[str, Known] = {
    **_packages(_RANDOM, "numpy.random"),
    **_packages(_FILE, "shutil tempfile glob fileinput shelve dbm mmap aiofiles"),
    **_packages(_ENVIRONMENT, "platform"),
    **_packages(_NETWORK, "socket socketserver urllib.request http.client http.server ftplib imaplib poplib smtplib"),
    **_packages(_NETWORK, "telnetlib nntplib xmlrpc.client xmlrpc.server webbrowser paramiko asyncssh grpc"),
    **_packages(_NETWORK, "requests httpx httpcore aiohttp urllib3 websockets websocket"),
    **_packages(_NETWORK, "boto3 botocore aiobotocore aioboto3 google.cloud googleapiclient azure"),
    **_packages(_NETWORK, "stripe twilio sendgrid slack_sdk openai anthropic"),
    **_packages(_NETWORK, "sqlite3 aiosqlite psycopg psycopg2 asyncpg pymysql MySQLdb aiomysql mysql.connector pyodbc"),
    **_packages(_NETWORK, "oracledb cx_Oracle pymssql snowflake.connector clickhouse_driver clickhouse_connect"),
    **_packages(_NETWORK, "redis aioredis pymongo motor cassandra elasticsearch opensearchpy"),
    **_packages(_NETWORK, "aiokafka kafka confluent_kafka pika aio_pika nats celery"),
    **_packages(CONCURRENCY, "concurrent.futures multiprocessing subprocess pty anyio.to_thread"),
    **_packages(CONCURRENCY, "anyio.to_process"),
    **_packages(OUTPUT, "logging structlog loguru"),
}
# With a seed, or an explicit time, these give the same on every replay: how many arguments that takes.
ENOUGH = {
    "random.Random": (1, _RANDOM),
    "numpy.random.default_rng": (1, _RANDOM),
    "numpy.random.RandomState": (1, _RANDOM),
    "time.localtime": (1, _CLOCK),
    "time.gmtime": (1, _CLOCK),
    "time.ctime": (1, _CLOCK),
    "time.asctime": (1, _CLOCK),
    "time.strftime": (2, _CLOCK),
}
