"""Claim: a read as of an epoch costs hardly more than one of the latest version.

Keys with ten versions each, one an epoch; the epochs that are read lie in the middle of every chain. Through the
client over gRPC, in batches (`get_many`) and one at a time (`get`), and in this process at the table. Both kinds
alternate in short windows, so that they see the same machine; the median over the windows counts. One key with a
million versions follows (hot_key.py).
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Final

import uvloop
from tidegrid.client import Grid, Map
from tidegrid.grid.model.errors import GridError
from tidegrid.grid.model.ids import Epoch, Position
from tidegrid.grid.model.keys import encode_key
from tidegrid.grid.store.table import Table
from tidegrid.grid.store.version import PUT

from bench import hot_key
from bench.process import GridServer, grid_server, opened
from bench.report import Figure, Progress
from bench.steady_writer import VALUE

KEYS: Final = 10_000
VERSIONS: Final = 10
BATCH_KEYS: Final = 1_000
WINDOWS: Final = 60  # of each kind
SINGLE_READS: Final = 100  # in a window
MAP: Final = "bench.versions"

Read = Callable[[int | None], Awaitable[None]]
"""Reads one window's keys: as of an epoch, or the latest."""


def run(progress: Progress) -> list[Figure]:
    progress("at the table, in this process")
    figures = [_at_the_table()]
    with grid_server(triggers=None) as server:
        figures += uvloop.run(_through_the_client(server, progress))
    return figures + hot_key.run(progress)


def _figure(what: str, as_of: list[float], latest: list[float], reads: int, note: str) -> Figure:
    """Of the seconds of each window."""
    return Figure(
        f"reads_as_of, {what}",
        statistics.median(as_of) / reads * 1e6,
        "us/read",
        "the latest version, us",
        statistics.median(latest) / reads * 1e6,
        at_most=1.3,
        note=f"{VERSIONS} versions a key, read as of the middle; {note}",
    )


async def _through_the_client(server: GridServer, progress: Progress) -> list[Figure]:
    async with opened(server) as grid:
        progress(f"{KEYS:,} keys get {VERSIONS} versions")
        target = await grid.create_map(MAP)
        middle = await _filled(grid, target)
        keys = itertools.cycle(range(KEYS))

        async def batch(epoch: int | None) -> None:
            await target.get_many(list(itertools.islice(keys, BATCH_KEYS)), as_of=epoch)

        async def single(epoch: int | None) -> None:
            for key in itertools.islice(keys, SINGLE_READS):
                await target.get(key, as_of=epoch)

        progress("get_many")
        batches = await _alternating(batch, middle)
        progress("get")
        singles = await _alternating(single, middle)
    return [
        _figure("get_many", *batches, BATCH_KEYS, f"batches of {BATCH_KEYS:,} keys"),
        _figure("get", *singles, SINGLE_READS, "one at a time"),
    ]


async def _filled(grid: Grid, target: Map) -> int:
    """Returns the epoch by which half of the versions were there, after a check that reads see them."""
    middle = 0
    for version in range(1, VERSIONS + 1):
        highest = 0
        for outcome in await target.put_many((key, {**VALUE, "version": version}) for key in range(KEYS)):
            if isinstance(outcome, GridError):
                raise outcome
            highest = max(highest, outcome.epoch)
        await grid.wait_closed(highest)
        middle = highest if version == VERSIONS // 2 else middle
    for epoch, expected in ((middle, VERSIONS // 2), (None, VERSIONS)):
        entry = await target.get(KEYS - 1, as_of=epoch)
        if entry is None or entry.version != expected:
            raise GridError(f"version {expected} was written, and {entry} is read")
    return middle


async def _alternating(read: Read, epoch: int) -> tuple[list[float], list[float]]:
    """Seconds of windows as of `epoch`, and of the latest."""
    as_of: list[float] = []
    latest: list[float] = []
    for window in range(2 * WINDOWS + 4):
        at, took = (epoch, as_of) if window % 2 else (None, latest)
        started = time.perf_counter()
        await read(at)
        took.append(time.perf_counter() - started)
    return as_of[2:], latest[2:]  # the first ones warm up


def _at_the_table() -> Figure:
    table = Table()
    keys = [encode_key((key,)) for key in range(KEYS)]
    for version in range(1, VERSIONS + 1):
        stamp = (Epoch(version), Position(version), 1_700_000_000_000)
        table.apply(keys, [b"v" * 100] * KEYS, bytes((PUT,)) * KEYS, [version] * KEYS, stamp)
    as_of: list[float] = []
    latest: list[float] = []
    for _ in range(WINDOWS):
        started = time.process_time()
        for key in keys:
            table.latest(key)
        between = time.process_time()
        for key in keys:
            table.as_of(key, Epoch(VERSIONS // 2))
        as_of.append(time.process_time() - between)
        latest.append(between - started)
    return _figure("the table alone (CPU)", as_of, latest, KEYS, "no client, no server")
