"""The demo of a deployment: trigger code is replaced while a writer goes on, and each flight shows which code it met.

    make demo-deploy                   or    python -m examples.flights.deploy_demo [--rows N]

Starts `tidegrid serve --nodes 3` with `flights.py`, and loads the flights. In their midst `version2/flights.py` is deployed,
and the writer does not stop for it. From the activation on, and not before, flights have `speed_mph` and count in the map
`aircraft`, whose rows are merged from flights of all partitions. What each write met is told by its epoch alone, so the
CSV file and the acknowledgements say what the maps have to hold: at the end, and as of an epoch in between.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Final

from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from tidegrid.client import Grid, connect
from tidegrid.client.deploy import Deployed
from tidegrid.grid.model.errors import GridError

from examples.flights import data
from examples.flights.demo import NODES, WAIT_SECONDS_MAX, Check, console, key_of, load_planes, print_checks, server

VERSION_2: Final = Path(__file__).with_name("version2") / "flights.py"
ROWS_MIN: Final = 100
ABSENT: Final = "absent"


@dataclass(slots=True)
class Story:
    """What happened, as the writer and the one who deployed know it: `epochs` are those of the rows, in their order."""

    total: int
    epochs: list[int] = field(default_factory=list)
    refused: list[GridError] = field(default_factory=list)
    deployed: Deployed | None = None
    deploy_seconds: float = 0.0
    written_meanwhile: int = 0  # acknowledged between the question for a plan and the answer that it acts
    between: int = 0  # a closed epoch after the activation, before the last writes
    seconds: float = 0.0

    @property
    def activation(self) -> int:
        assert self.deployed is not None and self.deployed.epoch is not None
        return self.deployed.epoch


class Course:
    """The writer's way: a quarter of the rows, half of them while the code is being deployed, an eighth, and the rest once
    an epoch with that eighth is closed. It stops only if it comes to the end of a part too early."""

    def __init__(self, total: int) -> None:
        self.quarter, self.three_quarters, self.seven_eighths = total // 4, total * 3 // 4, total * 7 // 8
        self.under_way = asyncio.Event()
        self.deployed = asyncio.Event()
        self.looked_at = asyncio.Event()

    async def pairs(self, rows: Iterable[data.Row]) -> AsyncIterator[tuple[object, object]]:
        for number, row in enumerate(rows):
            if number == self.quarter:
                self.under_way.set()
            elif number == self.three_quarters:
                await self.deployed.wait()
            elif number == self.seven_eighths:
                await self.looked_at.wait()
            yield key_of(row), row


async def play(grid: Grid, rows: Iterable[data.Row], story: Story, progress: Progress) -> None:
    """Writes all rows, and deploys in the midst; returns once all of it is closed."""
    course, started = Course(story.total), time.perf_counter()
    loading = progress.add_task("raw writes", total=story.total, note="version 1")
    deploying = asyncio.create_task(_deploy(grid, story, course))
    try:
        async for outcomes in grid.map("flights.raw").put_stream(course.pairs(rows)):
            story.epochs += outcomes.epochs
            story.refused += outcomes.errors.values()
            progress.update(loading, completed=len(story.epochs), note=_note(story, course))
            if len(story.epochs) >= course.seven_eighths and not story.between:
                story.between = max(story.epochs)
                await grid.wait_closed(story.between)
                course.looked_at.set()
        await deploying
    finally:
        deploying.cancel()
        await asyncio.gather(deploying, return_exceptions=True)
    await grid.wait_closed(max(story.epochs))
    story.seconds = time.perf_counter() - started


async def _deploy(grid: Grid, story: Story, course: Course) -> None:
    await course.under_way.wait()
    before, started = len(story.epochs), time.perf_counter()
    try:
        story.deployed = await grid.deploy(VERSION_2, by="the demo")
    finally:
        course.deployed.set()
    story.deploy_seconds = time.perf_counter() - started
    story.written_meanwhile = len(story.epochs) - before


def _note(story: Story, course: Course) -> str:
    if story.deployed is not None:
        return f"version 2 from epoch {story.deployed.epoch} on"
    return "deploying version 2" if course.under_way.is_set() else "version 1"


# What the grid holds, beside what the CSV says -------------------------------------------------------------------


@dataclass(slots=True)
class Found:
    """Of the map flights: the epoch of each row, and its speed_mph (ABSENT where it has no such field), by key. Of the map
    aircraft: its rows at the end, and as of the epoch in between."""

    epochs: dict[object, int]
    speeds: dict[object, object]
    aircraft: dict[object, Any]
    aircraft_between: dict[object, Any]


async def look(grid: Grid, story: Story) -> Found:
    epochs: dict[object, int] = {}
    speeds: dict[object, object] = {}
    last = max(story.epochs)
    async for entry in grid.map("flights").scan(as_of=last):
        epochs[entry.key] = entry.epoch
        speeds[entry.key] = entry.value.get("speed_mph", ABSENT)
    return Found(epochs, speeds, await _aircraft(grid, last), await _aircraft(grid, story.between))


async def _aircraft(grid: Grid, epoch: int) -> dict[object, Any]:
    return {entry.key[0]: entry.value async for entry in grid.map("aircraft").scan(as_of=epoch)}


def checks(story: Story, found: Found, rows: Sequence[data.Row]) -> list[Check]:
    written = list(zip(rows, story.epochs, strict=True))
    new = [row for row, epoch in written if epoch >= story.activation]
    old = [row for row, epoch in written if epoch < story.activation]
    between = [row for row, epoch in written if story.activation <= epoch <= story.between]
    speeds = found.speeds
    return [
        Check("raw writes accepted", len(story.epochs) - len(story.refused), story.total),
        Check("rows of flights", len(speeds), story.total),
        Check("... with the epoch of their write", sum(found.epochs.get(key_of(row)) == epoch for row, epoch in written), story.total),
        Check("before the activation: no speed_mph", sum(speeds.get(key_of(row)) == ABSENT for row in old), len(old)),
        Check("from it on: speed_mph as the CSV has it", sum(speeds.get(key_of(row), ABSENT) == data.speed_mph(row) for row in new), len(new)),
        Check("... not None in", sum(type(speed) is float for speed in speeds.values()), sum(data.speed_mph(row) is not None for row in new)),
        *_aircraft_checks("at the end", found.aircraft, new),
        *_aircraft_checks(f"as of epoch {story.between}", found.aircraft_between, between),
    ]  # fmt: skip


def _aircraft_checks(when: str, found: dict[object, Any], rows: Iterable[data.Row]) -> list[Check]:
    wanted = {tail: asdict(sums) for tail, sums in data.aircraft(rows).items()}
    flights = sum(row["flights"] for row in found.values())
    alike = sum(found.get(tail) == sums for tail, sums in wanted.items())
    return [
        Check(f"aircraft {when}", len(found), len(wanted)),
        Check("... flights that count in them", flights, sum(row["flights"] for row in wanted.values())),
        Check("... rows that are as the CSV adds up", alike, len(wanted)),
    ]


def print_story(story: Story, found: list[Check], seconds: float) -> None:
    print_checks(found)
    old = sum(epoch < story.activation for epoch in story.epochs)
    console.print(
        f"\n{old:,} flights by version 1, {len(story.epochs) - old:,} by version 2, which acts from epoch {story.activation} on"
        f"\ndeployed in {story.deploy_seconds:.2f} s, with {story.written_meanwhile:,} writes acknowledged meanwhile"
        f"  |  {len(story.epochs) / story.seconds:,.0f} writes/s over all  |  {seconds:.1f} s in all"
    )


async def run(directory: Path, rows: Sequence[data.Row]) -> tuple[Story, Found]:
    story = Story(len(rows))
    columns = (SpinnerColumn(), TextColumn("{task.description:<12}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[note]:<28}"), TimeElapsedColumn())  # fmt: skip
    console.print(f"starting {NODES} nodes with version 1 of the triggers, over one log in {directory} ...")
    async with server(directory, "--allow-deploy") as address, connect(address, deadline=WAIT_SECONDS_MAX) as grid:
        count = await load_planes(grid)
        console.print(f"serving on {address}; {count:,} planes are loaded; now the flights\n")
        with Progress(*columns, console=console, refresh_per_second=5) as progress:
            await play(grid, rows, story, progress)
        console.print("\nreading flights and aircraft, and adding up the CSV file to compare with ...")
        return story, await look(grid, story)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m examples.flights.deploy_demo", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--rows", type=int, metavar="N", help=f"load only the first N flights, at least {ROWS_MIN}")
    options = parser.parse_args()
    if options.rows is not None and options.rows < ROWS_MIN:
        parser.error(
            f"--rows {options.rows}: a part of them has to come after the deployment; give at least {ROWS_MIN}"
        )
    started = time.perf_counter()
    try:
        rows = list(islice(data.flights(), options.rows))
        with tempfile.TemporaryDirectory(prefix="tidegrid-demo-") as directory:
            story, found = asyncio.run(run(Path(directory), rows))
        checked = checks(story, found, rows)
    except GridError as error:
        console.print(f"[red]{error}[/]")
        return 1
    except KeyboardInterrupt:
        console.print("stopped")
        return 130
    print_story(story, checked, time.perf_counter() - started)
    if all(check.holds for check in checked):
        return 0
    console.print("[bold red]some checks do not hold[/]")
    return 1


if __name__ == "__main__":
    with contextlib.suppress(ImportError):
        import uvloop

        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    sys.exit(main())
