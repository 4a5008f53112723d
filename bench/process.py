"""A grid of our own: `tidegrid serve` as a child process on a free loopback port, so that client and server share nothing.

The data is in a temporary directory of the same disk as the yardsticks'. `kill` is kill -9, for benches of recovery.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tidegrid.client import Grid, connect

from bench.child import LOOPBACK, accepts, child, data_directory, free_port
from bench.flights_rows import planes_by_tail

FLIGHTS_TRIGGERS = Path(__file__).parents[1] / "examples" / "flights" / "flights.py"
START_SECONDS_MAX = 120.0  # a restart reads the log before it is ready


@dataclass(frozen=True, slots=True)
class GridServer:
    port: int
    process: subprocess.Popen[bytes]

    @property
    def address(self) -> str:
        return f"{LOOPBACK}:{self.port}"

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


def program() -> str:
    """The `tidegrid` of this environment."""
    return str(Path(sys.executable).parent / "tidegrid")


@contextlib.contextmanager
def grid_server(
    data: Path | None = None, triggers: Path | None = FLIGHTS_TRIGGERS, options: Sequence[str] = (), nodes: int = 1
) -> Iterator[GridServer]:
    """`nodes` of them in one process. Without `data`, in a directory that goes when the block is left."""
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(data_directory("grid"))
        port = free_port(nodes)
        command = [program(), "serve", "--port", str(port), "--data", str(data or directory / "data")]
        command += ["--peer-port", "0", "--nodes", str(nodes), *options]
        if triggers is not None:
            command += ["--triggers", str(triggers)]
        process = stack.enter_context(child("tidegrid", command, lambda: accepts(port), directory))
        yield GridServer(port, process)


@contextlib.asynccontextmanager
async def opened(server: GridServer, *, planes: bool = False) -> AsyncIterator[Grid]:
    """A client of the server; `planes`: with the reference map loaded and in force, as the flights trigger wants it."""
    async with connect(server.address, deadline=START_SECONDS_MAX) as grid:
        if planes:
            outcomes = await grid.map("planes").put_many(((tail,), row) for tail, row in planes_by_tail().items())
            await grid.wait_closed(max(outcome.epoch for outcome in outcomes))
        yield grid
