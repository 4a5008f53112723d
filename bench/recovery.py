"""Claim: entries/s at restart, from a checkpoint and a tail of the log.

The flights are loaded with the trigger on: raw and typed rows. Two thirds go in before an orderly stop, which saves a
checkpoint; the last third after it, and then kill -9. The clock runs from starting the process again, interpreter and
imports included, until a client is told that the node is ready; every entry must be there.
"""

from __future__ import annotations

import time
from pathlib import Path

import uvloop
from tidegrid.grid.model.errors import GridError

from bench.child import data_directory
from bench.flights_rows import flight_rows, key_of
from bench.process import GridServer, grid_server, opened
from bench.report import Figure, Progress
from examples.flights.data import Row

FLIGHTS = 336_776
BEFORE_CHECKPOINT = FLIGHTS * 2 // 3
TARGET_PER_SECOND = 300_000


def run(progress: Progress) -> list[Figure]:
    rows = flight_rows(FLIGHTS)
    with data_directory("recovery") as directory:
        data = directory / "data"
        progress(f"loading {BEFORE_CHECKPOINT:,} flights, then an orderly stop")
        with grid_server(data) as server:
            uvloop.run(_load(server, rows[:BEFORE_CHECKPOINT], planes=True))
        progress(f"loading {FLIGHTS - BEFORE_CHECKPOINT:,} more, then kill -9")
        with grid_server(data) as server:
            entries = uvloop.run(_load(server, rows[BEFORE_CHECKPOINT:]))
            server.kill()
        progress(f"restart with {entries:,} entries")
        seconds = _restart(data, entries)
    note = f"{entries:,} entries in {seconds:.2f} s from exec to ready; a third of them in the tail"
    return [
        Figure("recovery", entries / seconds, "entries/s", "target", TARGET_PER_SECOND, at_least=1, note=note),
    ]


def _restart(data: Path, entries: int) -> float:
    started = time.perf_counter()
    with grid_server(data) as server:
        ready, found = uvloop.run(_ready(server))
        if found != entries:
            raise GridError(f"{found:,} of {entries:,} entries are there after the restart")
        return ready - started


async def _ready(server: GridServer) -> tuple[float, int]:
    async with opened(server) as grid:
        ready = time.perf_counter()
        (member,) = await grid.status()
        assert member.status is not None
        return ready, sum(partition.entries for partition in member.status.partitions)


async def _load(server: GridServer, rows: list[Row], *, planes: bool = False) -> int:
    """Returns how many entries the node holds then."""
    async with opened(server, planes=planes) as grid:
        async for outcomes in grid.map("flights.raw").put_stream((key_of(row), row) for row in rows):
            for error in outcomes.errors.values():
                raise error
        (member,) = await grid.status()
        assert member.status is not None
        return sum(partition.entries for partition in member.status.partitions)
