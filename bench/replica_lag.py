"""Claim: the time from sending a write to its row being visible in SQLite, p99, at 5,000 writes/s.

A client puts raw flights at an even rate; `tidegrid replica` follows the typed map into SQLite, in a process of its
own. Rows and position are one transaction, so a write is visible once the position in the database has reached the
epoch of its acknowledgement; a thread with its own connection looks every half millisecond. Afterwards the rows are
counted, so that the position is not taken at its word.
"""

from __future__ import annotations

import asyncio
import bisect
import contextlib
import itertools
import sqlite3
import threading
import time
from pathlib import Path

import uvloop
from tidegrid.client import Map
from tidegrid.grid.model.errors import GridError

from bench.child import child, data_directory
from bench.flights_rows import flight_rows, key_of
from bench.process import GridServer, grid_server, opened, program
from bench.report import Figure, Progress

WRITES_PER_SECOND = 5_000
SECONDS = 8.0
WARM_UP_SECONDS = 2.0
STEP_SECONDS = 0.001
LOOK_SECONDS = 0.0005
CATCH_UP_SECONDS_MAX = 30.0
TICK_MS = 20.0  # the default of `tidegrid serve`
ALLOWANCE_MS = 15.0
POSITION = "SELECT max(epoch) FROM tidegrid_position"

Sent = tuple[float, int]  # when a put was called, and the epoch of its acknowledgement


def run(progress: Progress) -> list[Figure]:
    with grid_server() as server, data_directory("replica") as directory:
        database = directory / "flights.db"
        command = [program(), "replica", "flights", "--to", f"sqlite:///{database}", "--server", server.address]
        with child("replica", command, lambda: _position(database) is not None, directory):
            lags = uvloop.run(_measure(server, database, progress))
    lags.sort()
    p50, p99 = (lags[len(lags) * percent // 100] * 1e3 for percent in (50, 99))
    note = f"{len(lags):,} writes at {WRITES_PER_SECOND:,}/s; p50 {p50:.1f} ms, max {lags[-1] * 1e3:.1f} ms"
    name = f"tick ({TICK_MS:g} ms) + {ALLOWANCE_MS:g} ms"
    return [Figure("replica_lag", p99, "ms (p99)", name, TICK_MS + ALLOWANCE_MS, at_most=1, note=note)]


async def _measure(server: GridServer, database: Path, progress: Progress) -> list[float]:
    rows = itertools.cycle([(key_of(row), row) for row in flight_rows(100_000)])
    async with opened(server, planes=True) as grid:
        raw = grid.map("flights.raw")
        progress("warming up")
        await _write(raw, rows, WARM_UP_SECONDS)
        watch = Watch(database)
        try:
            progress(f"{WRITES_PER_SECOND:,} writes/s for {SECONDS:.0f} s, followed into SQLite")
            sent = await _write(raw, rows, SECONDS)
            await asyncio.to_thread(watch.until, max(epoch for _, epoch in sent))
        finally:
            watch.stop()
    expected = int(WRITES_PER_SECOND * (WARM_UP_SECONDS + SECONDS))
    with contextlib.closing(sqlite3.connect(database)) as reader:
        (count,) = reader.execute("SELECT count(*) FROM flights").fetchone()
    if count != expected:
        raise GridError(f"{count:,} of {expected:,} rows are in SQLite though its position covers them all")
    return [watch.seen(epoch) - when for when, epoch in sent]


async def _write(
    raw: Map, rows: itertools.cycle[tuple[tuple[str | int, ...], dict[str, str]]], seconds: float
) -> list[Sent]:
    """Puts at an even rate, however long each takes."""
    sent: list[Sent] = []

    async def put(when: float) -> None:
        key, row = next(rows)
        sent.append((when, (await raw.put(key, row)).epoch))

    tasks: set[asyncio.Task[None]] = set()
    started = time.perf_counter()
    total = int(WRITES_PER_SECOND * seconds)
    made = 0
    while made < total:
        due = min(total, int((time.perf_counter() - started) * WRITES_PER_SECOND) + 1)
        for _ in range(made, due):
            task = asyncio.create_task(put(time.perf_counter()))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        made = due
        await asyncio.sleep(STEP_SECONDS)
    await asyncio.gather(*tasks)
    return sent


class Watch:
    """Notes when the database first shows each position."""

    def __init__(self, database: Path) -> None:
        self._database = database
        self._epochs: list[int] = []
        self._times: list[float] = []
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def seen(self, epoch: int) -> float:
        """When a position of `epoch` or later was first there."""
        return self._times[bisect.bisect_left(self._epochs, epoch)]

    def until(self, epoch: int) -> None:
        until = time.monotonic() + CATCH_UP_SECONDS_MAX
        while not self._epochs or self._epochs[-1] < epoch:
            if time.monotonic() > until or not self._thread.is_alive():
                raise GridError(f"the replica did not reach epoch {epoch} within {CATCH_UP_SECONDS_MAX:.0f} s")
            time.sleep(LOOK_SECONDS)

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()

    def _look(self) -> None:
        with contextlib.closing(sqlite3.connect(self._database)) as reader:
            while not self._stopped.is_set():
                (epoch,) = reader.execute(POSITION).fetchone()
                now = time.perf_counter()
                if epoch is not None and (not self._epochs or epoch > self._epochs[-1]):
                    self._times.append(now)
                    self._epochs.append(epoch)
                time.sleep(LOOK_SECONDS)


def _position(database: Path) -> int | None:
    """The epoch that the replica has reached, or None before it has written any."""
    if not database.exists():
        return None
    with contextlib.suppress(sqlite3.OperationalError), contextlib.closing(sqlite3.connect(database)) as reader:
        (epoch,) = reader.execute(POSITION).fetchone()
        return None if epoch is None else int(epoch)
    return None
