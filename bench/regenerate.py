"""Claim: today's triggers over old raw writes go at half the speed of the tight loop per core, and live writers hardly feel it.

A node takes flights by the flights example, and then other code, which does the same: so all of them are of before.

  rate   the first pass over the logs of all partitions, as a worker process does it, in this one thread: reading the log,
         triggers with their look-ups, pieces written; per second of processor time, as workers share no lock and a core
         may have other work. The tight loop, which only translates and encodes, runs around it; the best of each one's
         rounds counts.
  p99    of single put()s of flights, sent at an even rate, while a dry run is under way at the node with its defaults (a
         process per core but one, as nice as can be), and beside it without; in turns, the median of each one's rounds.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import shutil
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import uvloop
from tidegrid.client import Grid, connect
from tidegrid.grid.journal.files import PosixFiles
from tidegrid.grid.journal.local import LocalLog
from tidegrid.grid.journal.reading import LogReader
from tidegrid.grid.model.errors import GridError
from tidegrid.grid.model.limits import Limits
from tidegrid.grid.runtime.bases import Bases
from tidegrid.grid.runtime.opening import fold_control
from tidegrid.grid.runtime.replay_plan import ReplayPlan, plan_of
from tidegrid.grid.runtime.replay_work import ReplayWork, Task
from tidegrid.v1.grid_pb2 import RegenerationProgress

from bench import tight_loop
from bench.child import data_directory
from bench.flights_rows import flight_rows, key_of
from bench.process import FLIGHTS_TRIGGERS, START_SECONDS_MAX, GridServer, grid_server, opened
from bench.report import Figure, Progress
from examples.flights.data import Row

ROWS: Final = 400_000  # a dry run takes longer than the puts of a round
ROUNDS: Final = 3
PUTS_PER_SECOND: Final = 400
PUTS: Final = 1_200  # a round
Key = tuple[str | int, ...]


def run(progress: Progress) -> list[Figure]:
    with data_directory("regenerate") as directory:
        data = directory / "data"
        with grid_server(data, options=("--allow-deploy",)) as server:
            without, beside = uvloop.run(_latencies(server, directory, progress))
        loops, rates = [tight_loop.rate(progress)], []
        plan = asyncio.run(_plan(data))
        for number in range(ROUNDS):
            progress(f"{ROWS:,} flights, round {number + 1} of {ROUNDS}")
            rates.append(_rate(data, directory / "pieces", plan))
            loops.append(tight_loop.rate(progress))
    return [
        Figure(
            "regenerate_rate", max(rates), "raw writes/s", tight_loop.NAME, max(loops), at_least=0.5,
            note=f"{ROWS:,} flights of before, one thread, per second of its time, with log and pieces; best of {ROUNDS} rounds",
        ),
        Figure(
            "regenerate_live_p99", statistics.median(beside) * 1e6, "us", "without it", statistics.median(without) * 1e6,
            at_most=2.0, note=f"p99 of put() at {PUTS_PER_SECOND}/s beside a dry run, median of {ROUNDS} rounds of {PUTS:,}",
        ),
    ]  # fmt: skip


async def _latencies(server: GridServer, directory: Path, progress: Progress) -> tuple[list[float], list[float]]:
    rows = [(key_of(row), row) for row in flight_rows(ROWS)]
    async with opened(server, planes=True) as grid, connect(server.address, deadline=START_SECONDS_MAX) as other:
        progress(f"loading {ROWS:,} flights")
        last = 0
        async for outcomes in grid.map("flights.raw").put_stream(rows):
            last = max(last, outcomes.epoch)
        await grid.wait_closed(last)
        today = directory / "flights.py"
        today.write_text(FLIGHTS_TRIGGERS.read_text() + "\n# the same, and another content\n")
        await grid.deploy(today)
        without, beside = [], []
        for number in range(ROUNDS):
            progress(f"put()s without a dry run, round {number + 1} of {ROUNDS}")
            without.append(await _p99(grid, rows))
            progress(f"put()s beside a dry run, round {number + 1} of {ROUNDS}")
            await asyncio.to_thread(shutil.rmtree, directory / "data" / "regeneration", ignore_errors=True)
            started = asyncio.Event()
            under_way = asyncio.create_task(_dry_run(other, started))
            await started.wait()
            beside.append(await _p99(grid, rows))
            progress(f"the dry run was {'over before' if under_way.done() else 'under way to the end of'} the put()s")
            under_way.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await under_way
        return without, beside


async def _dry_run(grid: Grid, started: asyncio.Event) -> None:
    def look(found: RegenerationProgress) -> None:
        if found.writes:
            started.set()

    await grid.regenerate("flights", dry_run=True, progress=look)


async def _p99(grid: Grid, rows: list[tuple[Key, Row]]) -> float:
    target = grid.map("flights.raw")
    took: list[float] = []

    async def put(key: Key, row: Row, due: float) -> None:
        await target.put(key, row)
        took.append(time.perf_counter() - due)

    started = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for number in range(PUTS):
            due = started + number / PUTS_PER_SECOND
            wait = due - time.perf_counter()
            if wait > 0:
                await asyncio.sleep(wait)
            group.create_task(put(*rows[number], time.perf_counter()))
    return statistics.quantiles(took, n=100)[-1]


async def _plan(data: Path) -> ReplayPlan:
    log = await LocalLog.open(data)
    try:
        return plan_of(await fold_control(log), Limits(), ["flights"])
    finally:
        await log.close()


def _rate(data: Path, folder: Path, plan: ReplayPlan) -> float:
    shutil.rmtree(folder, ignore_errors=True)
    files = PosixFiles(folder)
    files.prepare()
    with _frozen(), contextlib.closing(LogReader(PosixFiles(data))) as reader:
        started = time.process_time()
        work = ReplayWork(plan, reader, Bases(data), files, lambda _size, _writes: None)
        writes = sum(work.replay(Task(number, 0)).tally.writes for number in sorted(plan.tails))
        took = time.process_time() - started
    if writes < ROWS:
        raise GridError(f"{writes:,} of {ROWS:,} writes were replayed")
    return writes / took


@contextlib.contextmanager
def _frozen() -> Iterator[None]:
    """As in a worker: the collector leaves what was there alone, and looks seldom."""
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 1_000)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()
