"""Claim: the time from sending a write to its row being visible in SQLite, p99, at 5,000 writes/s.

A client puts raw flights at an even rate; `tidegrid replica` follows the typed map into SQLite, in a process of its
own. Rows and position are one transaction, so a write is visible once the position in the database has reached the
epoch of its acknowledgement. A third process looks every half millisecond whether the database has changed (PRAGMA
data_version, which reads no page), and reads the position when it has: what it sees is late by that much, and it
shares no interpreter with the writer. The writer's garbage collector is put off, as its full passes over the rows to
send would be told as lag. Afterwards the rows are counted, so that the position is not taken at its word.
"""

from __future__ import annotations

import asyncio
import bisect
import contextlib
import gc
import itertools
import multiprocessing
import queue
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import uvloop
from tidegrid.client import Map
from tidegrid.grid.model.errors import GridError

from bench.child import child, data_directory
from bench.flights_rows import flight_rows, key_of
from bench.process import START_SECONDS_MAX, GridServer, grid_server, opened, program
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
            with _collector_put_off():
                sent = await _write(raw, rows, SECONDS)
            await asyncio.to_thread(watch.reached, max(epoch for _, epoch in sent))
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
    """Notes when the database first shows each position, from a process of its own.

    `reached` waits for the position that all of the load has; `seen` is asked after that.
    """

    def __init__(self, database: Path) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._epochs: list[int] = []
        self._times: list[float] = []
        self._until = spawn.Value("q", -1)
        self._ready = spawn.Event()
        self._seen = spawn.Queue()
        self._process = spawn.Process(
            target=look, args=(str(database), self._until, self._ready, self._seen), daemon=True
        )
        self._process.start()
        if not self._ready.wait(START_SECONDS_MAX):
            self.stop()
            raise GridError("the process that watches the database did not start; see the messages above")

    def seen(self, epoch: int) -> float:
        """When a position of `epoch` or later was first there."""
        return self._times[bisect.bisect_left(self._epochs, epoch)]

    def reached(self, epoch: int) -> None:
        self._until.value = epoch
        try:
            self._epochs, self._times = self._seen.get(timeout=CATCH_UP_SECONDS_MAX)
        except queue.Empty:
            raise GridError(f"the replica did not reach epoch {epoch} within {CATCH_UP_SECONDS_MAX:.0f} s") from None

    def stop(self) -> None:
        self._process.terminate()
        self._process.join()


def look(database: str, until: Any, ready: Any, seen: Any) -> None:
    """The watching process: ends once the position is at `until`, with every position and when it was first there."""
    epochs: list[int] = [-1]
    times: list[float] = [0.0]
    version = -1
    with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as reader:
        ready.set()
        while until.value < 0 or epochs[-1] < until.value:
            (now_version,) = reader.execute("PRAGMA data_version").fetchone()
            if now_version != version:
                version = now_version
                (epoch,) = reader.execute(POSITION).fetchone()
                now = time.perf_counter()
                if epoch is not None and epoch > epochs[-1]:
                    epochs.append(epoch)
                    times.append(now)
            time.sleep(LOOK_SECONDS)
    seen.put((epochs, times))


@contextlib.contextmanager
def _collector_put_off() -> Iterator[None]:
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()


def _position(database: Path) -> int | None:
    """The epoch that the replica has reached, or None before it has written any."""
    if not database.exists():
        return None
    with contextlib.suppress(sqlite3.OperationalError), contextlib.closing(sqlite3.connect(database)) as reader:
        (epoch,) = reader.execute(POSITION).fetchone()
        return None if epoch is None else int(epoch)
    return None
