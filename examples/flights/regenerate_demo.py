"""The demo of a regeneration: flights of before a deployment get what its code makes of them, in the past as well.

    make demo-regenerate               or    python -m examples.flights.regenerate_demo [--rows N]

Half of the flights meet version 1 of the triggers. Then version 2 is deployed and the maps `flights` and `aircraft` are
regenerated, while a writer goes on; in the midst the server is killed with SIGKILL, and what was done is not done again.
From the epoch of the switch on readers see every flight, of whichever version, as version 2 makes it: at that epoch, at
the end, and at an epoch of long before. Then readers are sent back to the old generation, and see the old shape again. The CSV
file and the epochs of the acknowledgements say what has to be there.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Final

from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from tidegrid.client import Grid, connect
from tidegrid.grid.model.errors import GridError
from tidegrid.v1 import grid_pb2

from examples.flights import data
from examples.flights.demo import (  # fmt: skip
    NODES,
    START_SECONDS_MAX,
    TRIGGERS,
    WAIT_SECONDS_MAX,
    Check,
    console,
    key_of,
    load_planes,
    print_checks,
)
from examples.flights.deploy_demo import VERSION_2

MAPS: Final = ("flights", "aircraft")
OLD, NEW = 1, 2  # generations
ROWS_MIN: Final = 100
CHUNK: Final = 250
WRITES_PER_SECOND: Final = 2_000  # of the writer that goes on
DONE_BEFORE_THE_KILL: Final = 4  # partitions


@dataclass(slots=True)
class Story:
    """`epochs`: of the rows that are written, in their order."""

    rows: Sequence[data.Row]
    epochs: list[int] = field(default_factory=list)
    past: int = 0  # a closed epoch of before the deployment
    activation: int = 0
    written_meanwhile: int = 0
    killed: bool = False
    resumed: int = 0  # partitions that were done already after the kill
    report: grid_pb2.RegenerationReport = field(default_factory=grid_pb2.RegenerationReport)
    seconds: float = 0.0

    def at(self, epoch: int) -> list[data.Row]:
        return [row for row, one in zip(self.rows, self.epochs, strict=False) if one <= epoch]

    def since(self, first: int, epoch: int) -> list[data.Row]:
        return [row for row, one in zip(self.rows, self.epochs, strict=False) if first <= one <= epoch]


class Writer:
    """Goes through the rows, at its pace or as fast as it can; between two chunks nothing is on its way."""

    def __init__(self, story: Story) -> None:
        self._story = story
        self._stop = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def write(self, grid: Grid, until: int) -> None:
        """All up to that row, at once."""
        epochs = self._story.epochs
        pairs = ((key_of(row), row) for row in islice(self._story.rows, len(epochs), until))
        async for outcomes in grid.map("flights.raw").put_stream(pairs):
            for error in outcomes.errors.values():
                raise error
            epochs += outcomes.epochs

    def go_on(self, grid: Grid) -> None:
        self._stop.clear()
        self._task = asyncio.create_task(self._go_on(grid))

    async def _go_on(self, grid: Grid) -> None:
        story = self._story
        while not self._stop.is_set() and len(story.epochs) < len(story.rows):
            before = len(story.epochs)
            await self.write(grid, before + CHUNK)
            story.written_meanwhile += len(story.epochs) - before
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), CHUNK / WRITES_PER_SECOND)

    async def pause(self) -> None:
        self._stop.set()
        if self._task is not None:
            await self._task


class Server:
    """Three nodes in a process of their own, over a directory that outlives it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._process: asyncio.subprocess.Process | None = None

    async def start(self, *options: str) -> str:
        """The address of the first node."""
        ready = self._directory / "ready.json"
        ready.unlink(missing_ok=True)
        command = [str(Path(sys.executable).with_name("tidegrid")), "serve", "--nodes", str(NODES), "--port", "0"]
        command += ["--data", str(self._directory / "log"), "--ready-file", str(ready), "--allow-deploy", *options]
        with (self._directory / "serve.log").open("ab") as output:
            process = self._process = await asyncio.create_subprocess_exec(*command, stdout=output, stderr=output)
        async with asyncio.timeout(START_SECONDS_MAX):
            while not ready.exists():
                if process.returncode is not None:
                    raise SystemExit(f"tidegrid serve ended at once:\n{(self._directory / 'serve.log').read_text()}")
                await asyncio.sleep(0.02)
        return str(json.loads(ready.read_text())["nodes"][0]["address"])

    async def kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    async def end(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.terminate()
            await self._process.wait()


async def begin(grid: Grid, story: Story, writer: Writer) -> None:
    """Half of the rows by version 1, then version 2, with a writer from there on."""
    await load_planes(grid)
    await writer.write(grid, len(story.rows) // 2)
    story.past = max(story.epochs)
    await grid.wait_closed(story.past)
    writer.go_on(grid)
    deployed = await grid.deploy(VERSION_2, by="the demo")
    assert deployed.epoch is not None
    story.activation = deployed.epoch


class Kill(Exception):
    """Enough is done."""


def note_progress(bar: Progress, task: TaskID, kill: bool) -> Any:
    def told(found: grid_pb2.RegenerationProgress) -> None:
        total = max(found.tasks, 1)
        bar.update(task, completed=found.tasks_done, total=total, note=f"{found.step}, {found.writes:,} writes")
        if kill and DONE_BEFORE_THE_KILL <= found.tasks_done < found.tasks:
            raise Kill

    return told


async def regenerate(grid: Grid, story: Story, bar: Progress, task: TaskID, *, kill: bool = False) -> None:
    resumed = 0
    told = note_progress(bar, task, kill)

    def note(found: grid_pb2.RegenerationProgress) -> None:
        nonlocal resumed
        resumed = max(resumed, found.resumed)
        told(found)

    # One worker, so that there is a middle to be killed in also where the rows are few.
    story.report = await grid.regenerate(*MAPS, workers=1 if kill else 0, progress=note)
    story.resumed = resumed


async def finish(grid: Grid, story: Story, writer: Writer) -> None:
    await writer.pause()
    await writer.write(grid, len(story.rows))
    await grid.wait_closed(max(story.epochs))


# What the grid holds, beside what the CSV says -------------------------------------------------------------------


async def looked(grid: Grid, epoch: int) -> tuple[dict[object, Any], dict[object, Any]]:
    """(flights by key: their speed_mph, or "absent"; aircraft by tail number), as of an epoch."""
    flights: dict[object, Any] = {}
    async for one in grid.map("flights").scan(as_of=epoch):
        flights[one.key] = one.value.get("speed_mph", "absent")
    return flights, {one.key[0]: one.value async for one in grid.map("aircraft").scan(as_of=epoch)}


async def checks(grid: Grid, story: Story) -> list[Check]:
    """Goes back to the old generation for a while, and on to the new one again."""
    last, switched = max(story.epochs), story.report.seen_from
    found: list[Check] = []
    for words, epoch in (("before the deployment", story.past), ("the switch", switched), ("the end", last)):
        found += _checks(f"new, as of {words}", await looked(grid, epoch), story.at(epoch), 0, story)
    await grid.show_generations(dict.fromkeys(MAPS, OLD))
    for words, epoch in (("before the deployment", story.past), ("the switch", switched)):
        found += _checks(f"old, as of {words}", await looked(grid, epoch), story.at(epoch), story.activation, story)
    await grid.show_generations(dict.fromkeys(MAPS, NEW))
    found += _checks("new again, as of the end", await looked(grid, last), story.at(last), 0, story)
    return found


def _checks(
    words: str, found: tuple[dict[object, Any], dict[object, Any]], rows: list[data.Row], first: int, story: Story
) -> list[Check]:
    """`first`: flights of epochs below it are of version 1."""
    flights, aircraft = found
    epochs = {key_of(row): epoch for row, epoch in zip(story.rows, story.epochs, strict=False)}
    right = 0
    for row in rows:
        key = key_of(row)
        right += flights.get(key, None) == (data.speed_mph(row) if epochs[key] >= first else "absent")
    counted = [row for row in rows if epochs[key_of(row)] >= first]
    wanted = {tail: asdict(sums) for tail, sums in data.aircraft(counted).items()}
    return [
        Check(f"{words}: flights", len(flights), len(rows)),
        Check("... each as the CSV and its version say", right, len(rows)),
        Check("... aircraft", len(aircraft), len(wanted)),
        Check("... each as the CSV adds up", sum(aircraft.get(tail) == sums for tail, sums in wanted.items()), len(wanted)),
    ]  # fmt: skip


@contextlib.contextmanager
def shown() -> Iterator[tuple[Progress, TaskID]]:
    columns = (SpinnerColumn(), TextColumn("regenerating"), BarColumn(), TextColumn("{task.fields[note]:<40}"), TimeElapsedColumn())  # fmt: skip
    with Progress(*columns, console=console, refresh_per_second=5) as bar:
        yield bar, bar.add_task("regenerate", note="")


@contextlib.asynccontextmanager
async def connected(address: str) -> AsyncIterator[Grid]:
    async with connect(address, deadline=WAIT_SECONDS_MAX) as grid:
        yield grid


async def run(directory: Path, rows: Sequence[data.Row]) -> tuple[Story, list[Check]]:
    story, server = Story(rows), Server(directory)
    writer = Writer(story)
    try:
        console.print(f"starting {NODES} nodes with version 1 of the triggers, over one log in {directory} ...")
        address = await server.start("--triggers", str(TRIGGERS))
        async with connected(address) as grid:
            await begin(grid, story, writer)
            console.print(
                f"version 2 acts from epoch {story.activation} on; a writer goes on; now the rows of before\n"
            )
            with shown() as (bar, task):
                try:
                    await regenerate(grid, story, bar, task, kill=True)
                except Kill:
                    story.killed = True
            await writer.pause()
            if story.killed:
                await server.kill()
        if story.killed:
            console.print("\nkill -9, and started again\n")
            address = await server.start()
        async with connected(address) as grid:
            writer.go_on(grid)
            with shown() as (bar, task):
                await regenerate(grid, story, bar, task)
            await finish(grid, story, writer)
            console.print("\nreading both generations, and adding up the CSV file to compare with ...")
            return story, await checks(grid, story)
    finally:
        await server.end()


def print_story(story: Story, found: list[Check], seconds: float) -> None:
    print_checks(found)
    report = story.report
    console.print(
        f"\n{report.writes:,} raw writes and routed outputs were run again by version 2; readers see it from epoch {report.seen_from} on"
        f"\n{story.written_meanwhile:,} flights were written meanwhile  |  {story.resumed} partitions were done before the kill, and not again"
        f"  |  {seconds:.1f} s in all"
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m examples.flights.regenerate_demo", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--rows", type=int, metavar="N", help=f"load only the first N flights, at least {ROWS_MIN}")
    options = parser.parse_args()
    if options.rows is not None and options.rows < ROWS_MIN:
        parser.error(f"--rows {options.rows}: half of them come before the deployment; give at least {ROWS_MIN}")
    started = time.perf_counter()
    try:
        rows = list(islice(data.flights(), options.rows))
        with tempfile.TemporaryDirectory(prefix="tidegrid-demo-") as directory:
            story, found = asyncio.run(run(Path(directory), rows))
    except GridError as error:
        console.print(f"[red]{error}[/]")
        return 1
    except KeyboardInterrupt:
        console.print("stopped")
        return 130
    print_story(story, found, time.perf_counter() - started)
    if all(check.holds for check in found) and story.killed and story.resumed:
        return 0
    console.print(
        "[bold red]some checks do not hold[/]" if story.killed else "[bold red]it was done before the kill[/]"
    )
    return 1


if __name__ == "__main__":
    with contextlib.suppress(ImportError):
        import uvloop

        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    sys.exit(main())
