"""A redis-server of our own: a free loopback port, data in a temporary directory, every write synced (AOF always)."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass

from tidegrid.grid.model.errors import ConfigurationError

from bench.child import LOOPBACK, accepts, child, data_directory, free_port


@dataclass(frozen=True, slots=True)
class RedisServer:
    port: int

    @property
    def url(self) -> str:
        return f"redis://{LOOPBACK}:{self.port}/0"


@contextlib.contextmanager
def redis_server() -> Iterator[RedisServer]:
    """Raises ConfigurationError when redis-server is not installed."""
    program = shutil.which("redis-server")
    if program is None:
        raise ConfigurationError(
            "this bench measures against redis-server, which is not installed; "
            "on Debian and Ubuntu: apt install redis-server, on macOS: brew install redis"
        )
    port = free_port()
    with data_directory("redis") as directory:
        # No rewrites in the background: they would only slow the yardstick down.
        command = [program, "--bind", LOOPBACK, "--port", str(port), "--dir", str(directory)]
        command += ["--appendonly", "yes", "--appendfsync", "always", "--save", ""]
        command += ["--auto-aof-rewrite-percentage", "0", "--daemonize", "no"]
        with child("redis-server", command, lambda: accepts(port), directory):
            yield RedisServer(port)
