"""What a trigger must not touch, by dotted name: which rule each breaks, and what to use instead.

The longest name that is a prefix of what the code says decides; None: it may be used. `os.path.join` is looked up as
`os.path.join`, `os.path`, `os`. Builtins are `builtins.open` and so on.
"""

from __future__ import annotations

from typing import Final

RULES: Final = {
    "clock": "use write.time_ms, the time of the write",
    "network": "look it up in a reference map with grid.get, or do it in an @effect",
    "files": "keep it in a reference map and look it up with grid.get, or do it in an @effect",
    "processes": "do it in an @effect",
    "randomness": "use grid.random, or make it of write.key and write.version: a replay has to give the same",
    "threads": "a trigger does its work before it returns; what takes long belongs into an @effect",
    "environment": "machines differ in it; write it into the module, or keep it in a reference map",
    "globals": "keep it in a table and look it up with grid.get: what a process keeps is gone when another one takes over",
    "dynamic": "write the code out, so that it can be read before it runs",
    "dropped": "what a function that yields returns goes nowhere: yield it",
}
"""Stable names, and what to do instead."""


def _rows(rule: str | None, names: str) -> dict[str, str | None]:
    return dict.fromkeys(names.split(), rule)


TOUCHED: Final[dict[str, str | None]] = {
    **_rows("clock", "time datetime.datetime.now datetime.datetime.utcnow datetime.datetime.today datetime.date.today"),
    **_rows(None, "time.strptime time.struct_time"),
    **_rows(
        "network",
        "socket socketserver ssl select selectors http.client http.server urllib.request urllib3 requests httpx aiohttp "
        "ftplib smtplib imaplib poplib telnetlib nntplib xmlrpc websocket websockets grpc redis kafka aiokafka pika nats "
        "confluent_kafka psycopg psycopg2 asyncpg pymysql mysql pymongo sqlalchemy boto3 botocore elasticsearch paramiko "
        "tidegrid.client tidegrid.embedded tidegrid.replica tidegrid.effects",
    ),
    **_rows(
        "files",
        "builtins.open builtins.input os io.open io.open_code io.FileIO pathlib.Path pathlib.PosixPath pathlib.WindowsPath "
        "tempfile shutil glob fileinput mmap linecache sqlite3 dbm shelve codecs.open gzip.open bz2.open lzma.open "
        "zipfile.ZipFile tarfile.open importlib.resources pkgutil.get_data sys.stdin",
    ),
    **_rows(
        None,
        "os.PathLike os.fspath os.sep os.linesep os.path.join os.path.split os.path.splitext os.path.basename "
        "os.path.dirname os.path.normpath os.path.normcase os.path.commonprefix os.path.commonpath os.path.isabs",
    ),
    **_rows(
        "processes",
        "subprocess pty os.system os.popen os.fork os.forkpty os.execl os.execle os.execlp os.execv os.execve os.execvp "
        "os.spawnl os.spawnv os.posix_spawn os.kill os.killpg os.abort os._exit",
    ),
    **_rows(
        "randomness",
        "random secrets numpy.random uuid.uuid1 uuid.uuid4 uuid.uuid6 uuid.uuid7 uuid.uuid8 os.urandom os.getrandom "
        "builtins.hash builtins.id",
    ),
    **_rows(
        "threads",
        "threading _thread multiprocessing concurrent asyncio queue sched signal trio anyio gevent eventlet",
    ),
    **_rows(
        "environment",
        "os.environ os.environb os.getenv os.putenv os.unsetenv os.getpid os.getppid os.getlogin os.getuid os.getgid "
        "os.getcwd os.cpu_count os.uname os.name os.getloadavg sys.argv sys.platform sys.executable platform getpass locale "
        "pwd grp uuid.getnode time.tzname time.timezone time.altzone time.daylight",
    ),
    **_rows(
        "dynamic",
        "builtins.eval builtins.exec builtins.__import__ builtins.compile importlib.import_module importlib.reload runpy",
    ),
}

PURE_WITH: Final = {"time.gmtime": 1, "time.strftime": 2, "time.asctime": 1}
"""Functions that take the current time only if they are not given one: with so many arguments they are pure."""

LOCAL_TIME_WITHOUT: Final = {"datetime.datetime.fromtimestamp": 2, "datetime.date.fromtimestamp": 99}
"""Functions that convert to the time zone of the machine unless they are given so many arguments (the last: `tz`)."""

MUTATORS: Final = frozenset(
    _rows(
        None,
        "append appendleft extend extendleft insert remove pop popleft popitem clear sort reverse rotate add discard update "
        "setdefault subtract difference_update intersection_update symmetric_difference_update __setitem__ __delitem__ "
        "move_to_end",
    )
)
"""Methods that change a list, dict, set, deque, Counter or bytearray."""

CONTAINERS: Final = frozenset(
    _rows(
        None,
        "builtins.list builtins.dict builtins.set builtins.bytearray collections.defaultdict collections.deque "
        "collections.Counter collections.OrderedDict array.array",
    )
)


def rule_of(name: str) -> str | None:
    """The rule that `name`, dotted, breaks."""
    while name:
        if name in TOUCHED:
            return TOUCHED[name]
        name = name.rpartition(".")[0]
    return None
