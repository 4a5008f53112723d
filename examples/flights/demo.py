"""The demo: 336,776 raw messages through three nodes into an event stream and a SQL view, checked against the CSV.

    make demo                          or    python -m examples.flights.demo [--keep DIRECTORY] [--rows N]

Starts `tidegrid serve --nodes 3` on free ports with its log in a temporary directory, loads the planes, then the
flights, while one subscriber takes every event of `delays` and a replica keeps `flights` in a SQLite file. At the end
everything that was started is stopped, and what SQLite and the stream hold is compared with the files themselves.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import sqlite3
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from tidegrid.client import Grid, connect
from tidegrid.grid.model.errors import GridError
from tidegrid.replica import Replica

from examples.flights import data

NODES = 3
START_SECONDS_MAX = 60
WAIT_SECONDS_MAX = 120
TRIGGERS = Path(__file__).with_name("flights.py")
console = Console(highlight=False)


@dataclass(slots=True)
class Seen:
    """What the demo counted itself, apart from the checks."""

    accepted: int = 0
    refused: list[GridError] = field(default_factory=list)
    last_epoch: int = 0
    load_seconds: float = 0.0
    events: int = 0
    event_names: set[tuple[int, int, int]] = field(default_factory=set)  # (partition, position, index)
    in_epoch_order: bool = True
    events_epoch: int = 0  # all events up to it have been taken
    first_closed: int = 0
    last_closed: int = 0
    replica_lag_seconds: float = 0.0
    replica_epoch: int = 0


@contextlib.asynccontextmanager
async def server(directory: Path, *options: str) -> AsyncIterator[str]:
    """Three nodes in a process of their own; gives the address of the first. Ended with SIGTERM, which drains."""
    ready = directory / "ready.json"
    command = [str(Path(sys.executable).with_name("tidegrid")), "serve", "--nodes", str(NODES), "--port", "0"]
    command += ["--data", str(directory / "log"), "--triggers", str(TRIGGERS), "--ready-file", str(ready), *options]
    with (directory / "serve.log").open("wb") as output:
        process = await asyncio.create_subprocess_exec(*command, stdout=output, stderr=output)
    try:
        async with asyncio.timeout(START_SECONDS_MAX):
            while not ready.exists():
                if process.returncode is not None:
                    raise SystemExit(f"tidegrid serve ended at once:\n{(directory / 'serve.log').read_text()}")
                await asyncio.sleep(0.02)
        yield json.loads(ready.read_text())["nodes"][0]["address"]
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


def key_of(row: data.Row) -> tuple[int, int, int, str, int, str]:
    return int(row["year"]), int(row["month"]), int(row["day"]), row["carrier"], int(row["flight"]), row["origin"]


async def load_planes(grid: Grid) -> int:
    """Loads the reference map and waits until the epoch of its last row is closed."""
    outcomes = await grid.map("planes").put_many((row["tailnum"], row) for row in data.planes())
    refused = [outcome for outcome in outcomes if isinstance(outcome, GridError)]
    if refused:
        raise refused[0]
    await grid.wait_closed(max(outcome.epoch for outcome in outcomes if not isinstance(outcome, GridError)))
    return len(outcomes)


async def load_flights(grid: Grid, rows: Iterable[data.Row], seen: Seen, progress: Progress, task: TaskID) -> None:
    started = time.perf_counter()
    pairs: Iterator[tuple[object, object]] = ((key_of(row), row) for row in rows)
    async for outcomes in grid.map("flights.raw").put_stream(pairs):
        seen.accepted += outcomes.accepted
        seen.refused.extend(outcomes.errors.values())
        seen.last_epoch = max(seen.last_epoch, outcomes.epoch)
        rate = seen.accepted / (time.perf_counter() - started)
        progress.update(task, completed=seen.accepted, note=f"{rate:,.0f} writes/s")
    seen.load_seconds = time.perf_counter() - started


async def take_delays(grid: Grid, seen: Seen, moved: asyncio.Event, progress: Progress, task: TaskID) -> None:
    """Counts every event by its name (partition, position, index); cancelled at the end. Tells of each epoch by `moved`."""
    async with grid.map("delays").subscribe(after=0, marks=True) as feed:
        async for batch in feed:
            seen.in_epoch_order &= batch.epoch > seen.events_epoch
            for change in batch.changes:
                seen.events += 1
                seen.event_names.add((change.partition, change.position, change.index))
            seen.events_epoch = batch.epoch
            moved.set()
            progress.update(task, completed=seen.events, note=f"epoch {batch.epoch}")


async def follow_replica(replica: Replica, progress: Progress, task: TaskID, total: int) -> None:
    """Shows how far the replica is; cancelled at the end."""
    while True:
        progress.update(task, completed=min(replica.rows, total), note=f"epoch {replica.epoch}")
        await asyncio.sleep(0.1)


async def run(directory: Path, rows_max: int | None) -> tuple[Seen, Path]:
    seen, database = Seen(), directory / "flights.db"
    total = rows_max or 336_776
    columns = (SpinnerColumn(), TextColumn("{task.description:<22}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[note]:<18}"), TimeElapsedColumn())  # fmt: skip
    console.print(f"starting {NODES} nodes over one log in {directory} ...")
    async with server(directory) as address, connect(address, deadline=WAIT_SECONDS_MAX) as grid:
        console.print(f"serving on {address}; loading planes, the reference map ...")
        count = await load_planes(grid)
        seen.first_closed = grid.closed
        console.print(f"{count:,} planes are loaded, and their epoch {grid.closed} is closed; now the flights\n")
        with Progress(*columns, console=console, refresh_per_second=5) as progress:
            loading = progress.add_task("raw writes", total=total, note="")
            delays = progress.add_task("events in delays", total=None, note="")
            copying = progress.add_task("rows in SQLite", total=total, note="")
            moved = asyncio.Event()
            taking = asyncio.create_task(take_delays(grid, seen, moved, progress, delays))
            async with Replica(grid, "flights", f"sqlite:///{database}") as replica:
                showing = asyncio.create_task(follow_replica(replica, progress, copying, total))
                try:
                    await load_flights(grid, islice(data.flights(), rows_max), seen, progress, loading)
                    await grid.wait_closed(seen.last_epoch)
                    closed_at = time.perf_counter()
                    await replica.wait(seen.last_epoch)
                    seen.replica_lag_seconds = time.perf_counter() - closed_at
                    seen.replica_epoch = replica.epoch
                    async with asyncio.timeout(WAIT_SECONDS_MAX):
                        while seen.events_epoch < seen.last_epoch and not taking.done():
                            moved.clear()
                            await moved.wait()
                finally:
                    showing.cancel()
                    taking.cancel()
                    await asyncio.gather(showing, taking, return_exceptions=True)
                progress.update(copying, completed=replica.rows, note=f"epoch {replica.epoch}")
        seen.last_closed = grid.closed
    return seen, database


# The closing report: every figure beside what the CSV says --------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Check:
    what: str
    found: object
    expected: object

    @property
    def holds(self) -> bool:
        return self.found == self.expected


def checks(seen: Seen, database: Path, wanted: data.Expected) -> list[Check]:
    with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as sql:

        def one(query: str) -> object:
            return sql.execute(query).fetchone()[0]

        late = dict(
            sql.execute(
                "SELECT carrier, count(*) FROM flights WHERE dep_delay > 60 GROUP BY carrier ORDER BY 2 DESC, 1"
            ).fetchall()
        )
        return [
            Check("raw writes accepted", seen.accepted, wanted.flights),
            Check("raw writes refused", len(seen.refused), 0),
            Check("rows of flights in SQLite", one("SELECT count(*) FROM flights"), wanted.flights),
            Check("delays events delivered", seen.events, wanted.delays),
            Check("... each of them once", len(seen.event_names), wanted.delays),
            Check("... in epoch order", seen.in_epoch_order, True),
            Check("late departures per carrier", _listed(late), _listed(wanted.late_by_carrier)),
            Check("flights without departure time", one("SELECT count(*) FROM flights WHERE dep_time IS NULL"), wanted.without_departure),
            Check("flights with a plane found", one("SELECT count(*) FROM flights WHERE seats IS NOT NULL"), wanted.with_plane),
            Check("replica has reached the last epoch", seen.replica_epoch >= seen.last_epoch, True),
        ]  # fmt: skip


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{carrier} {count}" for carrier, count in counts.items())


def print_checks(found: list[Check]) -> None:
    table = Table(title="\nChecked against the CSV itself", title_justify="left", box=None, pad_edge=False)
    table.add_column("")
    table.add_column("what")
    table.add_column("found", overflow="fold")
    table.add_column("the CSV says", overflow="fold")
    for check in found:
        shown = [f"{value:,}" if type(value) is int else str(value) for value in (check.found, check.expected)]
        table.add_row("[green]ok[/]" if check.holds else "[bold red]WRONG[/]", check.what, *shown)
    console.print(table)


def print_report(seen: Seen, found: list[Check], seconds: float) -> None:
    print_checks(found)
    closes = seen.last_closed - seen.first_closed
    console.print(
        f"\n{seen.accepted / seen.load_seconds:,.0f} durable, triggered writes/s"
        f"  |  {seen.events:,} events  |  {closes:,} epochs closed while loading"
        f"  |  replica complete {seen.replica_lag_seconds * 1000:,.0f} ms after the last close  |  {seconds:.1f} s in all"
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m examples.flights.demo", description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--keep", type=Path, metavar="DIRECTORY", help="keep the log and the SQLite file there (must be empty or new)"
    )
    parser.add_argument(
        "--rows", type=int, metavar="N", help="load only the first N flights (the checks then count the same N)"
    )
    options = parser.parse_args()
    started = time.perf_counter()
    try:
        with contextlib.ExitStack() as stack:
            if options.keep is None:
                directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tidegrid-demo-")))
            else:
                directory = options.keep.resolve()
                directory.mkdir(parents=True, exist_ok=True)
                if any(directory.iterdir()):
                    console.print(f"[red]{directory} is not empty; name a new directory[/]")
                    return 2
            seen, database = asyncio.run(run(directory, options.rows))
            console.print("\nadding up the CSV files to compare with ...")
            found = checks(seen, database, data.expected(rows_max=options.rows))
    except GridError as error:
        console.print(f"[red]{error}[/]")
        return 1
    except KeyboardInterrupt:
        console.print("stopped")
        return 130
    print_report(seen, found, time.perf_counter() - started)
    if all(check.holds for check in found):
        return 0
    console.print("[bold red]some checks do not hold[/]")
    return 1


if __name__ == "__main__":
    with contextlib.suppress(ImportError):
        import uvloop

        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    sys.exit(main())
