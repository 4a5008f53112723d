"""A real `tidegrid serve` process for the tests of the command line, and commands run against it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tidegrid.grid.app import invocation
from tidegrid.grid.app.main import app
from typer.testing import CliRunner

TRIGGERS = """
from tidegrid.triggers import Context, Event, Put, Reject, Write, reference, stream, table, trigger

table("orders.raw", key=("shop", "number:int"))
table("orders", like="orders.raw")
stream("large")
reference("shops", key=("shop",))
table("anything")

@trigger(on="orders.raw", emits=("orders", "large"))
def translate(write: Write, grid: Context):
    row = write.value
    if row["amount"] == "":
        raise Reject("no amount")
    amount = int(row["amount"])
    shop = grid.get("shops", write.key[0])
    yield Put("orders", write.key, {"amount": amount, "town": shop and shop["town"]})
    if amount > 100:
        yield Event("large", write.key, {"amount": amount})
"""


class Served:
    """A serving process. `start` returns when it says that it is ready."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.process: subprocess.Popen[str] | None = None
        self.ready: dict[str, Any] = {}

    def start(self, *options: str) -> Served:
        command = [sys.executable, "-m", "tidegrid.grid.app", "serve", "--port", "0", "--json", *options]
        self.process = subprocess.Popen(
            command, cwd=self.directory, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            pytest.fail(f"serve ended: {self.process.communicate()[1]}")
        self.ready = json.loads(line)
        return self

    @property
    def address(self) -> str:
        return str(self.ready["nodes"][0]["address"])

    def stop(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """Returns exit code and stderr."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(number)
        _, errors = self.process.communicate()
        code = self.process.returncode
        self.process = None
        return code, errors

    def end(self) -> None:
        if self.process is not None:
            self.stop(signal.SIGKILL)


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str

    @property
    def record(self) -> Any:
        (line,) = self.out.splitlines()
        return json.loads(line)

    @property
    def records(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def error(self) -> Any:
        return json.loads(self.err.splitlines()[-1])["error"]


def call(server: Served | str, *arguments: str, given: str | bytes | None = None) -> Result:
    address = server if isinstance(server, str) else server.address
    done = CliRunner().invoke(app, list(arguments), input=given, env={"TIDEGRID_SERVER": address})
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return Result(done.exit_code, done.stdout, done.stderr)


@contextmanager
def running(server: Served, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A command in a process of its own, killed at the end if it is still there."""
    environment = {**os.environ, "TIDEGRID_SERVER": server.address}
    command = [sys.executable, "-m", "tidegrid.grid.app", *arguments]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture(scope="session")
def loop() -> Iterator[asyncio.Runner]:
    """One event loop for all commands that run in this process: gRPC's poller belongs to the first it has seen."""
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(autouse=True)
def one_loop(loop: asyncio.Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(invocation, "run_on_loop", loop.run)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One server for the tests of a module: three nodes, with the triggers above."""
    directory = tmp_path_factory.mktemp("grid")
    (directory / "shop.py").write_text(TRIGGERS)
    server = Served(directory)
    try:
        yield server.start("--nodes", "3", "--triggers", "shop.py", "--data", "data")
    finally:
        server.end()


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Served]:
    """Not started yet, in a folder of its own, with the triggers beside it."""
    (tmp_path / "shop.py").write_text(TRIGGERS)
    server = Served(tmp_path)
    try:
        yield server
    finally:
        server.end()


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("TIDEGRID_")]:
        monkeypatch.delenv(name)
